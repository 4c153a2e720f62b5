"""Looks at masks: what the policy sees, what its answers do, and when the looking ends."""

import time

import numpy as np
import pytest

from segzero.data.validation import true_answer
from segzero.errors import UserError
from segzero.images import load_image
from segzero.masks import decode, mask_iou
from segzero.pipeline import Query
from segzero.refinement.observation import LIGHT, OUTLINE, mark
from segzero.refinement.pipeline import refining
from tests.helpers.judge import KEEP, Judge
from tests.helpers.recording import RecordingModel

CORNER = '<answer>[{"bbox_2d": [1, 1, 30, 30], "point_2d": [9, 9]}]</answer>'


def answered(pipeline, sample, *says, looks=3, seconds=float("inf")):
    judge, segmenter = Judge(pipeline.policy, *says), RecordingModel(pipeline.segmenter)
    [result] = refining(pipeline.with_models(judge, segmenter), looks, seconds)([sample.image], [sample.question])
    return result, judge, segmenter


@pytest.fixture
def sample(held_out):
    return held_out[0]


@pytest.fixture
def point(sample, pipeline):
    x, y = pipeline.frame.to_frame(sample.objects[0].points[0], sample.size)
    return f'{{"point_2d": [{x}, {y}], "label": 1}}'


def test_a_kept_mask_stays(pipeline, sample):
    [first] = pipeline([sample.image], [sample.question])
    result, judge, _ = answered(pipeline, sample, KEEP)
    assert [step.action for step in result.steps] == ["keep"] and len(judge.looks) == 1
    assert (result.union == first.union).all() and (result.steps[0].mask == first.union).all()


def test_a_corrected_mask_is_looked_at_again(pipeline, sample, point):
    result, judge, segmenter = answered(pipeline, sample, f"<answer>[{point}]</answer>", KEEP)
    assert [step.action for step in result.steps] == ["correct", "keep"] and len(judge.looks) == 2
    assert mask_iou(result.union, decode(sample.mask())) > 0.8
    assert segmenter.embedded == 1 and segmenter.prompts[-1].mask is not None  # encoded once; from the mask before
    assert result.steps[0].labels == (1,) and (result.steps[1].mask == result.union).all()


@pytest.fixture
def truth(sample, pipeline):
    return true_answer(sample, pipeline.frame, "multi")


def test_an_answer_that_draws_the_mask_again_keeps_it(pipeline, sample):
    [first] = pipeline.ask([Query(load_image(sample.image), sample.question)])
    result, judge, segmenter = answered(pipeline, sample, first.text)
    assert [step.action for step in result.steps] == ["keep"] and len(judge.looks) == 1
    assert (result.union == result.steps[0].mask).all() and result.instances[0].points
    assert result.steps[0].points == () and result.steps[0].think == first.answer.think
    assert segmenter.embedded == 1 and segmenter.prompts[-1].mask is None


def test_objects_replace_the_mask_until_they_draw_it_again(pipeline, sample, truth):
    result, judge, _ = answered(pipeline, sample, CORNER, truth, truth)
    assert [step.action for step in result.steps] == ["correct", "correct", "keep"] and len(judge.looks) == 3
    assert [step.labels for step in result.steps] == [(1,), (1,), ()]
    assert mask_iou(result.union, decode(sample.mask())) > 0.8
    [instance] = result.instances
    assert instance.points == result.steps[1].points and instance.box != (0, 0, 0, 0)


def test_the_looks_are_bounded(pipeline, sample, truth):
    result, judge, _ = answered(pipeline, sample, truth, CORNER, looks=2)
    assert [step.action for step in result.steps] == ["correct", "correct"] and len(judge.looks) == 2


def test_no_look_begins_after_the_time_is_over(pipeline, sample, point):
    result, judge, _ = answered(pipeline, sample, f"<answer>[{point}]</answer>", seconds=1e-9)
    assert result.steps == () and judge.looks == [] and result.instances


def test_nothing_empties_and_an_unreadable_answer_leaves_the_mask(pipeline, sample):
    result, *_ = answered(pipeline, sample, "<answer>[]</answer>")
    assert result.empty and [step.action for step in result.steps] == ["nothing"]
    result, *_ = answered(pipeline, sample, "well")
    assert result.instances and result.error is None
    assert [(step.action, step.error) for step in result.steps] == [("unreadable", "no_answer")]


def test_results_say_and_show_their_steps(pipeline, sample, point, tmp_path):
    result, *_ = answered(pipeline, sample, f"<think>too small</think><answer>[{point}]</answer>", KEEP)
    steps = result.to_dict()["steps"]
    assert [step["action"] for step in steps] == ["correct", "keep"] and steps[0]["think"] == "too small"
    [plain] = pipeline([sample.image], [sample.question])
    assert "steps" not in plain.to_dict()
    assert result.panel().height > plain.panel().height + 100


def test_a_marked_picture_keeps_the_colours_inside_and_darkens_the_rest(pipeline, sample):
    image, mask = load_image(sample.image), decode(sample.mask())
    seen, plain = np.asarray(mark(image, mask, pipeline.frame)), np.asarray(pipeline.frame.fit(image))
    assert seen.shape == plain.shape
    x, y = pipeline.frame.to_frame(sample.objects[0].points[0], sample.size)
    assert (seen[y, x] == plain[y, x]).all()
    assert (seen[0, 0] == (plain[0, 0] * LIGHT).astype(np.uint8)).all()
    assert (seen == OUTLINE).all(axis=-1).sum() > 10


@pytest.mark.parametrize(("looks", "seconds"), [(0, 1.0), (9, 1.0), (1, 0.0), (1, float("nan"))])
def test_bounds_of_looks_and_time(pipeline, looks, seconds):
    with pytest.raises(UserError):
        refining(pipeline, looks, seconds)


def test_images_are_encoded_once_and_time_is_told(pipeline, held_out):
    begin = time.perf_counter()
    results = refining(pipeline, 2)([one.image for one in held_out[:4]], [one.question for one in held_out[:4]])
    took = time.perf_counter() - begin
    assert all(0 < result.timings["refinement"] < took for result in results)
