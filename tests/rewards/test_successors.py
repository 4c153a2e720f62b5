"""The rewards of Seg-Zero's successors, against values worked out by hand."""

import json

import numpy as np
import pytest

from rewards import QuantileRanks, get_rubric, read_case, score
from rewards.successors import graded_objects, mask_iou_squared, matched_box_iou, matched_points, plain_count_ratio
from segzero.errors import UserError
from segzero.masks import encode
from segzero.sample import Object, Sample

SIDE = 840


def mask(x0, y0, x1, y1):
    drawn = np.zeros((SIDE, SIDE), dtype=bool)
    drawn[y0:y1, x0:x1] = True
    return drawn


LEFT, RIGHT = (100, 100, 200, 200), (500, 100, 600, 200)
TRUTH = Sample(
    "s", "a.png", "the mugs", SIDE, SIDE,
    objects=(Object(LEFT, ((150, 150),), encode(mask(*LEFT))), Object(RIGHT, ((550, 150),), encode(mask(*RIGHT)))),
)  # fmt: skip
EMPTY = Sample("e", "a.png", "the mugs", SIDE, SIDE, objects=())


def answer(*objects):
    written = json.dumps([{"bbox_2d": list(box), "point_2d": list(point)} for box, point in objects])
    return f"<think>two mugs</think><answer>{written}</answer>"


BOTH = answer((LEFT, (150, 150)), (RIGHT, (550, 150)))


def case(text, *boxes, truth=TRUTH):
    """A case whose drawn masks fill these boxes."""
    return read_case(text, truth, masks=[mask(*box) for box in boxes])


@pytest.mark.parametrize(("width", "grade"), [(100, 4), (81, 4), (80, 3), (71, 3), (70, 2), (51, 2), (50, 0)])
def test_star_grades_a_mask_above_its_thresholds(width, grade):
    """The left mask has `width` of its 100 columns, the right one is whole."""
    got = graded_objects(case(BOTH, (100, 100, 100 + width, 200), RIGHT))
    assert got == ((grade + 3) + 7) / 2


def test_star_pairs_each_answer_once_and_divides_by_the_larger_count():
    """A box elsewhere, whose mask happens to be right; one 12 pixels off whose point is 40 off; a third of nothing."""
    swapped = answer((RIGHT, (550, 150)), (LEFT, (150, 150)))
    assert graded_objects(case(swapped, RIGHT, LEFT)) == 7.0
    far = answer((LEFT, (150, 150)), ((700, 700, 800, 800), (750, 750)))
    assert graded_objects(case(far, LEFT, RIGHT)) == (7 + 4) / 2
    shifted = answer((LEFT, (150, 150)), ((512, 112, 612, 212), (590, 150)))  # box IoU 0.63
    assert graded_objects(case(shifted, LEFT, RIGHT)) == (7 + 4 + 1) / 2
    three = answer((LEFT, (150, 150)), (RIGHT, (550, 150)), ((0, 0, 20, 20), (10, 10)))
    assert graded_objects(case(three, LEFT, RIGHT, (0, 0, 20, 20))) == 14 / 3


def test_star_counts_an_object_that_cannot_be_read():
    broken = BOTH.replace("]</answer>", ', {"bbox_2d": [1, 2]}]</answer>')
    assert graded_objects(case(broken, LEFT, RIGHT)) == 14 / 3


def test_star_needs_a_mask_for_each_object_and_points_in_the_truth():
    with pytest.raises(UserError, match="1 masks for 2 objects"):
        graded_objects(case(BOTH, LEFT))
    pointless = Sample("p", "a.png", "the mug", SIDE, SIDE, objects=(Object(LEFT, (), encode(mask(*LEFT))),))
    with pytest.raises(UserError, match="has no point"):
        graded_objects(case(answer((LEFT, (150, 150))), LEFT, truth=pointless))


def test_star_leaves_ignored_pixels_out():
    """The left mask covers ignored pixels, half as many as its own: without them its IoU is 1, with them 0.67."""
    ignoring = Sample("i", "a.png", "it", SIDE, SIDE, objects=TRUTH.objects, ignore=encode(mask(200, 100, 250, 200)))
    assert graded_objects(case(BOTH, (100, 100, 250, 200), RIGHT, truth=ignoring)) == 7.0
    assert graded_objects(case(BOTH, (100, 100, 250, 200), RIGHT)) == (5 + 7) / 2


def test_star_adds_format_and_non_repetition_as_published():
    reward = score("star", BOTH, TRUTH, masks=[mask(*LEFT), mask(*RIGHT)])
    assert reward.total == 11.0
    assert reward.terms == {"thinking": 1.0, "format": 2.0, "accuracy": 7.0, "non_repetition": 1.0}
    nothing = "<think>none</think><answer>[]</answer>"
    assert score("star", nothing, EMPTY, masks=[]).total == 11.0
    assert score("star", nothing, TRUTH, masks=[]).terms["accuracy"] == 0.0


def test_swim_is_twice_the_mask_with_format_and_non_repetition():
    half = [mask(100, 100, 150, 200), mask(500, 100, 550, 200)]
    assert score("swim", BOTH, TRUTH, masks=half).total == 2 * 0.5 + 1 + 1
    assert score("swim", BOTH.removeprefix("<think>two mugs</think>"), TRUTH, masks=half).total == 2 * 0.5 + 0 + 1
    repeats = BOTH.replace("two mugs", "two mugs. a. a. a. b")
    assert score("swim", repeats, TRUTH, masks=half).total == 2 * 0.5 + 1 + 0


def test_lens_squares_both_overlaps():
    """Boxes of half the height, masks of 4/5: 1/4 and 16/25."""
    halves = answer(((100, 100, 200, 150), (150, 120)), ((500, 100, 600, 150), (550, 120)))
    drawn = [(100, 100, 180, 200), (500, 100, 580, 200)]
    reward = score("lens", halves, TRUTH, masks=[mask(*box) for box in drawn])
    assert reward.terms == pytest.approx({"format": 1.0, "box_iou": 0.25, "mask_iou": 0.64})
    assert mask_iou_squared(case(halves, *drawn)) == pytest.approx(0.64)


def test_genseg_pays_for_the_decision_and_for_the_mask():
    half = [mask(100, 100, 150, 200), mask(500, 100, 550, 200)]
    assert score("genseg_r1", BOTH, TRUTH, masks=half).terms == {
        "thinking": 1.0, "format": 1.0, "mask_iou": 0.5, "presence": 1.0,
    }  # fmt: skip
    assert score("genseg_r1", BOTH, EMPTY, masks=half).total == 2.0
    assert score("genseg_r1", "<think>none</think><answer>[]</answer>", EMPTY, masks=[]).total == 4.0


def values(text, truth=TRUTH):
    read = read_case(text, truth)
    return matched_box_iou(read), plain_count_ratio(read), matched_points(read)


def test_dr_seg_has_three_continuous_values():
    assert values(BOTH) == (1.0, 1.0, 1.0)
    # The matched pair alone counts in IoU and points: what is missing shows in the count.
    assert values(answer((LEFT, (150, 150)))) == (1.0, 0.5, 1.0)
    # 115 pixels from the true point, half of the way from 30 to 200; a width counts one pixel more than its difference.
    box, count, points = values(answer((LEFT, (265, 150)), ((500, 100, 600, 149), (550, 150))))
    assert (box, count, points) == (pytest.approx((1 + 50 / 101) / 2), 1.0, pytest.approx(0.75))
    assert values(answer((LEFT, (350, 150)), (RIGHT, (550, 150))))[2] == 0.5  # 200 pixels and more are worth nothing
    assert values("<think>none</think><answer>[]</answer>") == (0.0, 0.0, 0.0)
    assert values("<think>none</think><answer>[]</answer>", EMPTY) == (1.0, 1.0, 1.0)
    assert values(BOTH, EMPTY) == values("no", EMPTY) == (0.0, 0.0, 0.0)


def test_dr_seg_is_ranked_in_training():
    rubric = get_rubric("dr_seg")
    ranks = QuantileRanks(rubric)
    rewards = [score("dr_seg", text, TRUTH) for text in (BOTH, answer((LEFT, (150, 150))), answer((LEFT, (265, 150))))]
    ranks.add(rewards)
    assert [reward.terms["points"] for reward in ranks.rank(rewards)] == [1.0, 1.0, 0.0]
    assert [reward.terms["count"] for reward in ranks.rank(rewards)] == [1.0, 0.0, 0.0]
