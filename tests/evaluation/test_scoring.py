"""Scores of ten pixels in a row, worked by hand: one object, several, none, failures, ignored pixels, counts."""

import json
from dataclasses import asdict, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segzero.errors import UserError
from segzero.evaluation.metrics import Score
from segzero.evaluation.scoring import PredictedObject, Row, check_truth, read_rows, score_sample, write_rows
from segzero.sample import Object
from tests.helpers.answers import predicted, rle, sample

ONE = sample("####......")
TWO = sample("####......", "....####..")
NONE = sample()


def test_one_object():
    row = score_sample(ONE, [predicted(".######...")])
    assert row.score == row.published == Score(3, 7)
    assert (row.true_objects, row.predicted_objects, row.true_count) == (1, 1, None)
    assert row.matched_masks == row.matched_boxes == (3 / 7,)


def test_a_failure_keeps_the_truth_in_every_sum():
    row = score_sample(ONE, [predicted("####......")], error="truncated")
    assert row.error == "truncated" and row.score == Score(0, 4, failed=True) and row.score.iou == 0
    assert row.box_iou == row.mask_box_iou == row.any_box_iou == 0
    assert (row.true_objects, row.predicted_objects, row.matched_masks) == (1, 0, ())


def test_nothing_there():
    assert score_sample(NONE, []).score == Score(0, 0, pred_empty=True, true_empty=True)
    assert score_sample(NONE, [predicted("##........")]).score == Score(0, 2, true_empty=True)
    assert score_sample(NONE, [], error="not_json").score == Score(0, 0, true_empty=True, failed=True)
    assert score_sample(ONE, []).score == Score(0, 4, pred_empty=True)


def test_an_object_without_pixels_is_not_an_answer_of_nothing():
    for found in (predicted(".........."), PredictedObject((0, 0, 4, 1))):
        row = score_sample(NONE, [found])
        assert not row.score.pred_empty and row.score.iou == 0


def test_boxes_of_one_true_object():
    """The true box is 0..4. Predicted boxes are 0..4 and 4..8, around them 0..8; the masks have the box 0..5."""
    row = score_sample(ONE, [predicted("#####.....", (0, 0, 4, 1)), predicted("..........", (4, 0, 8, 1))])
    assert (row.box_iou, row.any_box_iou, row.mask_box_iou) == (4 / 8, 1, 4 / 5)
    assert score_sample(ONE, []).box_iou == 0


def test_several_objects_have_no_single_box():
    row = score_sample(TWO, [predicted("####......")])
    assert row.box_iou is row.mask_box_iou is row.any_box_iou is None
    assert row.score == Score(4, 8) and row.matched_masks == (1.0,)


def test_objects_are_assigned_for_the_largest_sum():
    """IoU with the two true ones: the first has 3/5 and 1/7, the second 4/6 and 2/8.

    3/5 + 2/8 = 0.85 beats 4/6 + 1/7 = 0.81, though 4/6 is the largest.
    """
    row = score_sample(TWO, [predicted(".####....."), predicted("######....")])
    assert row.matched_masks == (3 / 5, 2 / 8)


def test_too_many_and_too_few_objects():
    row = score_sample(TWO, [predicted("####......"), predicted("....####.."), predicted("........##")])
    assert (row.predicted_objects, row.matched_masks) == (3, (1.0, 1.0))
    assert score_sample(NONE, [predicted("##........")]).matched_masks == ()
    assert score_sample(TWO, [predicted("........##")]).matched_masks == ()  # a pair that shares nothing is none


def test_ignored_pixels_count_neither_way():
    """True 0..3, predicted 0..5, ignored 4..5: without them the answer is right; with them as target, 6 of 6."""
    row = score_sample(sample("####......", ignore="....##...."), [predicted("######....", (0, 0, 4, 1))])
    assert row.score == Score(4, 4) and row.published == Score(6, 6)
    assert row.matched_masks == (1.0,) and row.mask_box_iou == 1
    row = score_sample(sample("####......", ignore="....##...."), [predicted("####......")])
    assert row.score.iou == 1 and row.published == Score(4, 6)


def test_an_object_wholly_on_ignored_pixels_counts_neither_way():
    row = score_sample(sample("####......", ignore="......####"), [predicted("####......"), predicted("......##..")])
    assert (row.predicted_objects, row.matched_masks, row.box_iou) == (1, (1.0,), 1)
    assert row.published == Score(6, 8)
    assert score_sample(sample(ignore="######...."), [predicted("##........")]).score.iou == 1  # rightly nothing


def test_counts_whose_objects_have_no_places():
    counted = replace(NONE, meta={"count": 3})
    row = score_sample(counted, [predicted("##........"), predicted("..##......")])
    assert (row.true_count, row.predicted_objects) == (3, 2)
    assert row.score is row.published is row.matched_masks is row.matched_boxes is row.box_iou is None
    assert score_sample(replace(NONE, meta={"count": 0}), []).score.iou == 1


def test_one_mask_of_all_that_is_counted_is_no_single_object():
    row = score_sample(sample("####.##...", meta={"count": 2}), [predicted("####......"), predicted(".....##...")])
    assert row.score.iou == 1 and row.box_iou is None and (row.true_count, row.predicted_objects) == (2, 2)


def test_boxes_beside_one_mask_of_all_tell_the_objects_apart():
    both = sample("####.##...", meta={"boxes": [[0, 0, 4, 1], [5, 0, 7, 1]]})
    row = score_sample(both, [predicted("####......"), predicted(".....##...")])
    assert (row.true_objects, row.matched_boxes, row.matched_masks) == (2, (1.0, 1.0), None)
    assert row.score.iou == 1 and row.box_iou is None


def test_truth_without_masks_is_compared_by_boxes():
    row = score_sample(replace(ONE, objects=(Object((0, 0, 4, 1)),)), [predicted("####......")])
    assert row.score is row.matched_masks is None and row.box_iou == row.mask_box_iou == 1


def test_a_box_without_a_mask_has_no_pixels():
    row = score_sample(ONE, [PredictedObject((0, 0, 2, 1))])
    assert row.score == row.published == Score(0, 4) and row.mask_box_iou == 0 and row.matched_masks == ()
    assert row.box_iou == 0.5 and row.matched_boxes == (0.5,)


def test_a_row_says_where_it_is_from():
    known = {"category": "cat", "concept": "relations", "source": "converseg", "split": "val"}
    row = score_sample(sample("##........", meta={"round": 3}, **known), [])
    assert {name: getattr(row, name) for name in known} == known
    assert (row.id, row.question, row.round) == ("s", "the row", 3)


def test_what_cannot_be_scored_is_refused():
    with pytest.raises(UserError, match="pixels"):
        score_sample(ONE, [PredictedObject((0, 0, 1, 1), rle("###"))])
    with pytest.raises(UserError, match="malformed RLE"):
        score_sample(ONE, [PredictedObject((0, 0, 1, 1), {"size": [1, 10], "counts": "~"})])
    with pytest.raises(UserError, match="'s': its count must be a whole number"):
        score_sample(replace(ONE, meta={"count": "many"}), [])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"meta": {"count": -1}}, "its count must be a whole number from 0"),
        ({"meta": {"round": 0}}, "its round must be a whole number from 1"),
        ({"objects": (Object((0, 0, 3, 1), rle=rle("###")),)}, "a mask of 3x1 pixels for an image of 10x1"),
        ({"ignore": {"size": [1, 10], "counts": "~"}}, "malformed RLE"),
    ],
)
def test_a_truth_that_cannot_be_scored_is_refused_without_a_prediction(change, message):
    check_truth(sample("####......", ignore="......##..", meta={"count": 1, "round": 2}))
    with pytest.raises(UserError, match=message):
        check_truth(replace(ONE, **change))


rows_of_pixels = st.text("#.", min_size=10, max_size=10)


@given(st.lists(rows_of_pixels.filter(lambda row: "#" in row), max_size=3), st.lists(rows_of_pixels, max_size=4))
def test_the_order_of_objects_does_not_matter(true, found):
    answer = [predicted(pixels) for pixels in found]
    row, turned = score_sample(sample(*true), answer), score_sample(sample(*reversed(true)), answer[::-1])
    assert sum(row.matched_masks) == pytest.approx(sum(turned.matched_masks))
    assert replace(row, matched_masks=None, matched_boxes=None) == replace(
        turned, matched_masks=None, matched_boxes=None
    )


@given(st.lists(rows_of_pixels.filter(lambda row: "#" in row), max_size=3), rows_of_pixels)
def test_the_truth_scores_most_and_a_failure_least(true, ignore):
    asked = sample(*true, ignore=ignore)
    perfect = score_sample(asked, [predicted(pixels) for pixels in true])
    failed = score_sample(asked, [predicted(pixels) for pixels in true], error="timeout")
    assert perfect.score.iou == 1 and failed.score.iou == 0
    assert failed.score.union == perfect.score.union and failed.predicted_objects == 0


def test_rows_that_are_no_rows(tmp_path):
    with pytest.raises(UserError, match=r"there is no scores\.jsonl; `segzero eval rescore` makes it"):
        list(read_rows(tmp_path))
    for line in ("{}", "[]", "no", '{"id": "x", "score": {"iou": 1}}'):
        (tmp_path / "scores.jsonl").write_text(line + "\n")
        with pytest.raises(UserError, match=r"scores\.jsonl, line 1: it is no row of scores"):
            list(read_rows(tmp_path))


@pytest.mark.parametrize(
    "change",
    [
        {"id": 7}, {"question": None}, {"error": ["x"]}, {"category": {}}, {"round": "1"}, {"box_iou": "0.5"},
        {"box_iou": float("nan")}, {"true_objects": None}, {"true_count": 1.5}, {"lost": "no"}, {"matched_masks": 0.5},
        {"matched_boxes": [None]}, {"score": []}, {"score": {"intersection": 1}}, {"published": {"iou": 1}}, {"new": 1},
        {"score": {"intersection": "1", "union": 4}}, {"score": {"intersection": 1, "union": True}},
    ],
)  # fmt: skip
def test_rows_with_values_of_other_types(change, tmp_path):
    good = Row("a", score=Score(1, 4), box_iou=1, matched_masks=(0.5,), true_objects=1)
    write_rows(tmp_path, [good])
    assert list(read_rows(tmp_path)) == [good]
    (tmp_path / "scores.jsonl").write_text(json.dumps(asdict(good) | change) + "\n")
    with pytest.raises(UserError, match=r"scores\.jsonl, line 1: it is no row of scores; run `segzero eval rescore`"):
        list(read_rows(tmp_path))


def test_a_torn_row_is_one_line(tmp_path):
    """A figure over the rest would be another's, so the rows are made anew."""
    write_rows(tmp_path, [Row("a"), Row("b")])
    whole = (tmp_path / "scores.jsonl").read_bytes()
    (tmp_path / "scores.jsonl").write_bytes(whole[:-20])
    with pytest.raises(UserError, match=r"line 2: it is no row of scores; run `segzero eval rescore`"):
        list(read_rows(tmp_path))
    assert (tmp_path / "scores.jsonl").read_bytes() == whole[:-20]
