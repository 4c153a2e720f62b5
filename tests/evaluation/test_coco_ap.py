"""Average precision worked by hand: pycocotools reads the precision at 101 recalls, 0, 0.01, ..., 1."""

from dataclasses import replace

import pytest

from segzero.errors import UserError
from segzero.evaluation.coco_ap import coco_ap
from segzero.evaluation.scoring import PredictedObject
from tests.helpers.answers import predicted, sample

FIRST, SECOND = sample("####......", id="a", category="cat"), sample("....####..", id="b", category="cat")


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_a_wrong_one_between_two_right_ones(kind):
    """By score: right, wrong, right. Precision is 1 up to recall 0.5 (51 recalls), then 2/3 (50 recalls)."""
    pairs = [(FIRST, [predicted("####......", score=0.9)])]
    pairs += [(SECOND, [predicted("##........", score=0.8), predicted("....####..", score=0.7)])]
    found = coco_ap(pairs, kind)
    assert (found["AP"], found["AP75"]) == pytest.approx(((51 + 50 * 2 / 3) / 101,) * 2)
    assert (found["samples"], found["categories"], found["kind"]) == (2, 1, kind)
    assert found["score"] == "the segmenter's expected IoU" and found["AP_large"] is None


def test_an_overlap_counts_up_to_its_threshold():
    """IoU 3/4 is enough at 0.5, 0.55, ..., 0.75: six of the ten thresholds."""
    found = coco_ap([(FIRST, [predicted("###.......")])])
    assert (found["AP"], found["AP50"], found["AP75"]) == pytest.approx((0.6, 1, 1))


def test_the_score_decides_and_is_named():
    """A wrong one scored first halves the precision everywhere; by area the right one comes first."""
    answer = [predicted("##........", score=0.9), predicted("....####..", score=0.2)]
    assert coco_ap([(SECOND, answer)], "bbox")["AP"] == pytest.approx(0.5)
    by_area = coco_ap([(SECOND, answer)], "bbox", score="area")
    assert by_area["AP"] == pytest.approx(1) and "area" in by_area["score"]


def test_a_failure_misses_its_objects():
    """One of two found: recall stops at 0.5, which 51 of the 101 recalls reach."""
    assert coco_ap([(FIRST, [predicted("####......")]), (SECOND, [])])["AP"] == pytest.approx(51 / 101)


def test_nothing_found_at_all():
    assert coco_ap([(FIRST, []), (SECOND, [PredictedObject((4, 0, 8, 1))])])["AP"] == 0


def test_categories_weigh_the_same():
    pairs = [(FIRST, [predicted("####......")]), (replace(SECOND, category="dog"), [])]
    assert coco_ap(pairs)["AP"] == pytest.approx(0.5)


def test_what_lies_in_a_crowd_is_not_wrong():
    crowded = sample("####......", ignore="......####")
    answer = [predicted("......##..", score=0.9), predicted("####......", score=0.8)]
    assert coco_ap([(crowded, answer)])["AP"] == pytest.approx(1)
    assert coco_ap([(replace(crowded, ignore=None), answer)])["AP"] == pytest.approx(0.5)


def test_what_has_no_ap_is_refused():
    with pytest.raises(UserError, match="did you mean 'segm'"):
        coco_ap([(FIRST, [])], "seg")
    with pytest.raises(UserError, match="known: segmenter, area, same"):
        coco_ap([(FIRST, [])], score="logit")
    with pytest.raises(UserError, match="no sample has one"):
        coco_ap([(sample(), [predicted("##........")])])
    with pytest.raises(UserError, match="'a' has one without"):
        coco_ap([(replace(FIRST, objects=(replace(FIRST.objects[0], rle=None),)), [])])
