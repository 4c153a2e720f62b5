"""Responses and truths of every shape meet in the 840 frame."""

import numpy as np
import pytest

from rewards import Case, PromptBoxes, read_case
from segzero.answer import Answer, Instance
from segzero.errors import UserError
from segzero.frames import native, relative, stretch
from segzero.masks import encode
from segzero.sample import Object, Sample

BOX = Instance((10, 20, 110, 220), ((50, 60),))


@pytest.mark.parametrize(
    "truth",
    [
        [{"bbox_2d": [10, 20, 110, 220], "point_2d": [50, 60]}],
        '[{"bbox_2d": [10,20,110,220], "point_2d": [50,60]}]',
        [{"bbox": (10, 20, 110, 220), "points_1": (50, 60)}],
        [{"bbox_2d": np.array([10, 20, 110, 220]), "point_2d": np.array([50, 60])}],
        Sample("s", "a.jpg", "q", 840, 840, objects=(Object((10, 20, 110, 220), ((50, 60),)),)),
    ],
)
def test_truth_in_every_shape(truth):
    assert read_case("", truth).truth == (BOX,)


def test_the_published_solution_of_one_object():
    case = read_case("", "<box>(10,20),(110,220)</box><points>(50,60),(70,80)</points>")
    assert case.truth == (Instance((10, 20, 110, 220), ((50, 60), (70, 80))),)


def test_truth_comes_from_pixels_of_the_image():
    sample = Sample("s", "a.jpg", "q", 1680, 420, objects=(Object((10, 20, 110, 220), ((50, 60),)),))
    scaled = (Instance((5, 40, 55, 440), ((25, 120),)),)
    assert read_case("", sample).truth == scaled
    assert read_case("", [{"bbox_2d": [10, 20, 110, 220], "point_2d": [50, 60]}], size=(1680, 420)).truth == scaled


@pytest.mark.parametrize("frame", [None, stretch(840), stretch(210), relative(1000), native(56 * 56, 200_000)])
def test_answers_come_from_the_frame_they_are_written_in(frame):
    size = (640, 480)
    width, height = frame.extent(size) if frame else (840, 840)
    text = f'<answer>[{{"bbox_2d": [0, 0, {width / 2}, {height / 4}], "point_2d": [{width / 4}, 0]}}]</answer>'
    [instance] = Case.of_objects(text, [], size, frame=frame).answer.instances
    assert instance.box == pytest.approx((0, 0, 420, 210))
    assert instance.points[0] == pytest.approx((210, 0))


def test_an_answer_that_is_parsed_already_is_not_parsed_again():
    case = Case.of_objects("nonsense", [], frame=stretch(420), answer=Answer(instances=(BOX,)))
    assert case.answer.instances == (Instance((20, 40, 220, 440), ((100, 120),)),)


def test_empty_and_unreadable_are_not_the_same():
    assert read_case("<answer>[]</answer>", []).predicts_empty
    for text in ("", "<answer></answer>", '<answer>[{"bbox_2d": [1, 2]}]</answer>', "<answer>[", "nothing there"):
        assert not read_case(text, []).predicts_empty


@pytest.mark.parametrize(
    ("truth", "message"),
    [
        ("somewhere left", "truth: a solution is <box>"),
        ("3", "truth: a solution is <box>"),
        ([[1, 2, 3, 4]], "truth, object 0: it must be"),
        ([{"bbox_2d": [1, 2, 3]}], "truth, object 0, box: it must be 4 finite numbers"),
        ([{"point_2d": [1, 2]}], "truth, object 0, box: it must be 4 finite numbers, not None"),
        ([{"bbox_2d": "1234"}], "truth, object 0, box: it must be 4 finite numbers"),
        ([{"bbox_2d": [1, 2, 3, float("nan")]}], "truth, object 0, box: it must be 4 finite numbers"),
        ([{"bbox_2d": [1, 2, 3, 4], "point_2d": [1]}], "truth, object 0, point_2d: it must be 2 finite numbers"),
    ],
)
def test_a_faulty_truth_is_a_clear_error(truth, message):
    with pytest.raises(UserError) as error:
        read_case("", truth)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("<answer>[]</answer>", True),
        ('<think>a</think>\n<answer>\n{"bbox": [1]}\n</answer> so.', True),
        ("<answer>[1]", False),
        ("[1]", False),
        ("<answer>3</answer>", False),
        ("<answer>{'bbox_2d': [1, 2, 3, 4]}</answer>", False),
        ("<answer>```json\n[]\n```</answer>", False),
        ("<answer>[]</answer><answer>[]</answer>", False),
        ("<answer>[]</answer></answer>", False),
        ("an <answer> is <answer>[]</answer>", False),
        ("</answer><answer>[]</answer>", False),
        ("<answer>" + "[" * 100_000 + "</answer>", False),
        ("", False),
    ],
    ids=lambda v: str(v)[:30],
)
def test_well_formed(text, value):
    assert read_case(text, []).well_formed is value


def test_masks_need_true_masks():
    mask = encode(np.ones((4, 6), bool))
    for truth in ([], Sample("s7", "a.jpg", "q", 6, 4, objects=(Object((0, 0, 6, 4)),))):
        with pytest.raises(UserError, match="masks can only be scored against a Sample whose objects all have an rle"):
            read_case("", truth, masks=[mask])


def test_every_constructor_gives_the_same_case():
    options = {
        "frame": relative(1000),
        "format": "seg_zero",
        "prompt_boxes": PromptBoxes(others=frozenset({(1.0,) * 4})),
    }
    objects = [{"bbox": [10, 20, 110, 220], "points_1": [50, 60], "points_2": [70, 80]}]
    sample = Sample("s", "a.jpg", "q", 640, 480, objects=(Object((10, 20, 110, 220), ((50, 60), (70, 80))),))
    solution = "<box>(10,20),(110,220)</box><points>(50,60),(70,80)</points>"
    case = Case.of_sample("<answer>{}</answer>", sample, **options)
    assert case == Case.of_objects("<answer>{}</answer>", objects, (640, 480), **options)
    assert case == Case.of_solution("<answer>{}</answer>", solution, (640, 480), **options)
    for truth in (sample, objects, solution):
        assert case == read_case("<answer>{}</answer>", truth, (640, 480), **options)
    assert (case.scale, case.format) == ((0.84, 0.84), "seg_zero")


def test_masks_are_united_and_the_ignored_pixels_kept():
    left, right = np.zeros((4, 6), bool), np.zeros((4, 6), bool)
    left[:, :2], right[:, 3:] = True, True
    truth = Object((0, 0, 2, 4), rle=encode(left))
    sample = Sample("s", "a.jpg", "q", 6, 4, objects=(truth,), ignore=encode(right))
    case = Case.of_sample("", sample, masks=[left, encode(right)])
    assert case.predicted_mask == encode(left | right) and case.true_mask == truth.rle and case.ignore == sample.ignore
    assert Case.of_sample("", sample).predicted_mask is None
    assert Case.of_sample("", sample, masks=[]).predicted_mask == encode(np.zeros((4, 6)))
