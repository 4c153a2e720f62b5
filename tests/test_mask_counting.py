"""Counting on runs gives what counting pixels gives."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from segzero.errors import UserError
from segzero.evaluation.metrics import score_masks
from segzero.masks import area, box_of, box_of_rle, intersection_area, iou_matrix, mask_iou, subtract, to_rle

masks = arrays(bool, (5, 7))
empty = np.zeros((5, 7), bool)


@given(masks, masks, masks)
def test_scores_are_those_of_the_pixels(pred, true, ignore):
    counted = ~ignore
    score = score_masks(pred, true, ignore)
    assert score.intersection == (pred & true & counted).sum()
    assert score.union == ((pred | true) & counted).sum()
    assert score.pred_empty == (not (pred & counted).any()) and score.true_empty == (not (true & counted).any())
    assert score.iou == mask_iou(pred, true, ignore)


@given(masks, masks)
def test_areas_boxes_and_differences(a, b):
    first, second = to_rle(a), to_rle(b)
    assert area(first) == a.sum() and intersection_area(first, second) == (a & b).sum()
    assert box_of_rle(first) == box_of(a)
    assert subtract(first, second) == to_rle(a & ~b)


@given(st.lists(masks, max_size=3), st.lists(masks, max_size=3))
def test_the_table_holds_every_pair(predicted, true):
    table = iou_matrix([to_rle(mask) for mask in predicted], [to_rle(mask) for mask in true])
    assert table.shape == (len(predicted), len(true))
    for p, t in np.ndindex(table.shape):
        if predicted[p].any() or true[t].any():
            assert table[p, t] == pytest.approx(mask_iou(predicted[p], true[t]))


def test_what_comes_from_a_file_is_checked():
    with pytest.raises(UserError, match="malformed RLE"):
        to_rle({"size": [5, 7], "counts": "zzzz"})
