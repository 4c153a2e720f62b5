"""The walk from question to masks, with the shipped models, and its corners with hand-made answers."""

import threading

import numpy as np
import pytest
import torch
from PIL import Image

from segzero.answer import Answer, Instance
from segzero.errors import UserError
from segzero.evaluation.metrics import giou, score_masks
from segzero.frames import relative, stretch
from segzero.images import load_image
from segzero.pipeline import draw_instances
from segzero.segmenter.everything import EverythingSettings, find_everything


def test_questions_become_masks(pipeline, held_out):
    results = pipeline([s.image for s in held_out], [s.question for s in held_out])
    assert [r.question for r in results] == [s.question for s in held_out]
    assert all(r.union.shape == (s.height, s.width) for r, s in zip(results, held_out, strict=True))
    scores = [
        score_masks(r.union, s.mask(), failed=r.error is not None) for r, s in zip(results, held_out, strict=True)
    ]
    assert giou(scores) > 0.2  # the shipped policy reaches twice that on many scenes


def test_batches_change_nothing(pipeline, held_out):
    images, questions = [s.image for s in held_out[:5]], [s.question for s in held_out[:5]]
    at_once = pipeline(images, questions)
    pipeline.batch = 2
    try:
        in_parts = pipeline(images, questions)
    finally:
        pipeline.batch = 64
    assert [r.raw_text for r in at_once] == [r.raw_text for r in in_parts]
    assert all((a.union == b.union).all() for a, b in zip(at_once, in_parts, strict=True))


def test_without_memory_for_both_the_segmenter_comes_after_the_policy(pipeline, held_out, monkeypatch):
    images, questions = [s.image for s in held_out[:3]], [s.question for s in held_out[:3]]
    expected = pipeline(images, questions)
    embed, places = pipeline.segmenter.embed, []

    def crowded(pictures):
        places.append(threading.current_thread() is threading.main_thread())
        if not places[-1]:
            raise torch.OutOfMemoryError
        return embed(pictures)

    monkeypatch.setattr(pipeline.segmenter, "embed", crowded)
    results = pipeline(images, questions)
    assert places == [False, True]
    assert all((a.union == b.union).all() for a, b in zip(results, expected, strict=True))


def test_a_segmenter_that_fails_says_why(pipeline, held_out, monkeypatch):
    def broken(pictures):
        raise UserError("no segmenter here")

    monkeypatch.setattr(pipeline.segmenter, "embed", broken)
    with pytest.raises(UserError, match="no segmenter here"):
        pipeline([held_out[0].image], ["the red shape"])


def test_everything_is_what_the_segmenter_finds(pipeline, held_out):
    settings = EverythingSettings(points_per_side=6, stability_thresh=0.8)
    found = pipeline.everything(held_out[0].image, settings)
    expected = find_everything(pipeline.segmenter, load_image(held_out[0].image), settings)
    assert [each.rle for each in found] == [each.rle for each in expected] and found


def test_no_images_no_results(pipeline):
    assert pipeline([], []) == []


def test_each_image_needs_a_question(pipeline, held_out):
    with pytest.raises(UserError, match="2 images but 1 questions"):
        pipeline([held_out[0].image] * 2, ["the red shape"])


def test_true_boxes_give_true_masks(pipeline, held_out):
    """Frames, clipping and the segmenter together: the truth as an answer gives the true mask."""
    frame = relative(1000)
    images = [load_image(s.image) for s in held_out]
    answers = [
        Answer(
            instances=tuple(
                Instance(tuple(frame.to_frame(o.box, s.size)), (tuple(frame.to_frame(o.points[0], s.size)),))
                for o in s.objects
            )
        )
        for s in held_out
    ]
    found = draw_instances(
        pipeline.segmenter, pipeline.segmenter.embed(images), [answer.instances for answer in answers], frame
    )
    unions = [np.any([f.mask for f in each], axis=0) if each else np.zeros((224, 224), bool) for each in found]
    assert giou([score_masks(u, s.mask()) for u, s in zip(unions, held_out, strict=True)]) > 0.8


@pytest.mark.parametrize("size", [(224, 224), (1, 1), (300, 7), (5, 400)])
def test_wild_boxes_are_clipped(pipeline, size):
    image = Image.new("RGB", size, "gray")
    wild = Answer(
        instances=(
            Instance((-500, -500, 9000, 9000), ((8000, -3),)),
            Instance((839, 839, 840, 840), ((840, 840),)),
        )
    )
    [found] = draw_instances(pipeline.segmenter, pipeline.segmenter.embed([image]), [wild.instances], stretch(840))
    for each in found:
        assert each.mask.shape == (size[1], size[0])
        x0, y0, x1, y1 = each.box
        assert 0 <= x0 <= x1 <= size[0] and 0 <= y0 <= y1 <= size[1]
        assert all(0 <= x < size[0] and 0 <= y < size[1] for x, y in each.points)


@pytest.mark.slow
def test_five_thousand_boxes(pipeline):
    image = Image.new("RGB", (64, 64), "gray")
    many = Answer(instances=(Instance((10, 10, 500, 500), ((50, 50),)),) * 5000)
    [found] = draw_instances(pipeline.segmenter, pipeline.segmenter.embed([image]), [many.instances], stretch(840))
    assert len(found) == 5000
