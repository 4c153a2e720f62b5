"""Matching by IoU, and pairing by boxes and points together."""

import math

import pytest

from rewards.matching import Pair, match, matched_iou, pair_up
from segzero.answer import Instance

A, B, C = (0, 0, 10, 10), (20, 0, 30, 10), (40, 0, 50, 10)


def test_the_best_sum_wins_over_the_best_pair():
    # greedily, the first would take the wider one, and leave nothing for the second
    assert match([(0, 0, 10, 10), (4, 0, 14, 10)], [(1, 0, 11, 10), (0, 0, 6, 10)]) == [
        (0, 1, pytest.approx(0.6)),
        (1, 0, pytest.approx(7 / 13)),
    ]


def test_matched_iou():
    assert matched_iou([B, A], [A, B]) == 1
    assert matched_iou([A], [A, B]) == matched_iou([A, B], [A]) == 1 / 2
    assert matched_iou([A, B, C], [B, (100, 0, 110, 10)]) == 1 / 3
    assert matched_iou([], [A]) == matched_iou([A], []) == 0
    assert matched_iou([], []) == 1
    assert match([], [A]) == match([A], []) == []


def test_pairs_carry_what_terms_need():
    predicted = [Instance((20, 0, 30, 14), ((25, 8),)), Instance(A, ((50, 5),))]
    true = [Instance(A, ((5, 5),)), Instance(B, ((25, 5), (22, 8))), Instance(C, ())]
    assert pair_up(predicted, true) == [
        Pair(0, 1, 10 / 14, 1.0, 3.0, True),
        Pair(1, 0, 1.0, 0.0, 45.0, False),
    ]


def test_points_decide_between_equal_boxes():
    true = [Instance(A, ((2, 2),)), Instance(A, ((8, 8),))]
    predicted = [Instance(A, ((8, 8),)), Instance(A, ((2, 2),))]
    assert [(p.predicted, p.true) for p in pair_up(predicted, true)] == [(0, 1), (1, 0)]


def test_objects_without_points():
    [pair] = pair_up([Instance(A)], [Instance(A, ((5, 5),))])
    assert (pair.iou, pair.point_distance, pair.inside) == (1.0, math.inf, False)
    assert pair_up([], [Instance(A)]) == pair_up([Instance(A)], []) == []
