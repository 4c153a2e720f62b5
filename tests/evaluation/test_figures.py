"""Every figure of a small benchmark against its sum written out, and the two ways to it against each other."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segzero.evaluation import metrics
from segzero.evaluation.figures import FIGURES, Table
from segzero.evaluation.metrics import Score
from segzero.evaluation.scoring import Row, score_sample
from tests.helpers.answers import said, sample

# IoU 1, 3/7, 0 (failed), 1 (nothing, rightly), 0 (invented), 0 (missed)
ROWS = [
    score_sample(sample("####......"), [said("####......")]),
    score_sample(sample("####......"), [said(".######...")]),
    score_sample(sample("#####....."), [], error="not_json"),
    score_sample(sample(), []),
    score_sample(sample(), [said("##........")]),
    score_sample(sample("##........"), []),
]
VALUES = Table.of(ROWS).values()


def test_masks():
    assert VALUES["giou"] == pytest.approx((1 + 3 / 7 + 0 + 1 + 0 + 0) / 6)
    assert VALUES["ciou"] == (4 + 3) / (4 + 7 + 5 + 0 + 2 + 2)
    assert [VALUES[f"p@{k}"] for k in metrics.THRESHOLDS] == [2 / 6] * 5
    assert VALUES["p@0.5:0.9"] == pytest.approx(2 / 6)
    assert VALUES["n_acc"] == 1 / 2 and VALUES["t_acc"] == 2 / 4


def test_gref_cocos_precision_is_over_targets_alone():
    """The first of the four samples with a target; its gIoU and cIoU are ours."""
    assert [VALUES[f"target_p@{k}"] for k in (0.7, 0.8, 0.9)] == [1 / 4] * 3
    assert "target_p@0.7" not in Table.of(ROWS[:3]).names  # where it would repeat p@0.7


def test_boxes():
    """Boxes of the samples with one true object: IoU 1, 3/7, failed, none said."""
    assert VALUES["rec_box"] == VALUES["rec_mask_box"] == VALUES["rec_any_box"] == 1 / 4


def test_half_is_enough_for_us_and_not_for_the_published_script():
    half = Table.of([score_sample(sample("####......"), [said("##........")])]).values()
    assert half["rec_box"] == half["p@0.5"] == 1 and half["rec_any_box"] == 0


def test_the_mean_of_five_thresholds():
    """IoU 3/4 reaches 0.5, 0.6 and 0.7."""
    assert Table.of([Row("a", score=Score(3, 4))]).values()["p@0.5:0.9"] == 3 / 5
    assert metrics.mean_precision([Score(3, 4)]) == 3 / 5


def test_objects():
    """Two true objects. Both found; one found and one invented (IoU 0.5 each); failed; none there and none said.

    IoU over the larger count: 2/2, (1 + 0.5)/3, 0, 1. F1: pairs 2 + 2, objects 4 + 5 + 2 + 0.
    """
    two = sample("####......", "....####..")
    rows = [
        score_sample(two, [said("####......"), said("....####..")]),
        score_sample(two, [said("####......"), said("....##...."), said("........##")]),
        score_sample(two, [], error="timeout"),
        score_sample(sample(), []),
    ]
    values = Table.of(rows).values()
    assert values["objects_iou"] == values["objects_box_iou"] == pytest.approx((1 + 1.5 / 3 + 0 + 1) / 4)
    assert values["objects_f1"] == values["objects_box_f1"] == 2 * 4 / (4 + 5 + 2 + 0)
    assert not [name for name in VALUES if name.startswith("objects_")]  # one object each: nothing to tell apart


def test_counts():
    """True 3, 2, 4, 0; said 3, 3, failed, failed: off by 0, 1, 4, 0; a failure is never exact."""

    def counted(true: int, found: int, error: str | None = None) -> Row:
        return score_sample(sample(meta={"count": true}), [said("#.........")] * found, error)

    values = Table.of([counted(3, 3), counted(2, 3), counted(4, 0, "no_answer"), counted(0, 0, "timeout")]).values()
    assert values["count_exact"] == 1 / 4
    assert values["count_mae"] == (0 + 1 + 4 + 0) / 4
    assert values["count_rmse"] == math.sqrt((0 + 1 + 16 + 0) / 4)


def test_the_published_way():
    """Ignored pixels are target there; an unreadable answer is 0; a time-out and an empty union are left out.

    Ours: 4/4, 0/4, 0/4, 1 over four. Theirs: 4/6 and 0/6 over two.
    """
    asked = sample("####......", ignore="....##....")
    rows = [
        score_sample(asked, [said("####......")]),
        score_sample(asked, [], error="not_json"),
        score_sample(asked, [], error="timeout"),
        score_sample(sample(), []),
    ]
    values = Table.of(rows).values()
    assert values["giou"] == (1 + 0 + 0 + 1) / 4 and values["ciou"] == 4 / 12
    assert values["published_giou"] == pytest.approx((4 / 6 + 0) / 2) and values["published_ciou"] == 4 / 12


def test_the_published_way_of_empty_unions():
    """Theirs: a failed reading of nothing is 0, a right answer of nothing is left out. Ours: 0 and 1."""
    values = Table.of([score_sample(sample(), [], error="not_json"), score_sample(sample(), []), ROWS[0]]).values()
    assert values["published_giou"] == 1 / 2 and values["giou"] == 2 / 3


def test_a_record_whose_truth_is_lost_lowers_every_mean():
    """One right answer, one lost record: 1/2 where a sample counts 0 to 1; sums of pixels know nothing of it."""
    lost = Row("lost", error="unreadable", lost=True)
    values = Table.of([ROWS[0], lost]).values()
    assert {values[name] for name in ("giou", "p@0.5", "p@0.5:0.9", "rec_box", "rec_mask_box")} == {1 / 2}
    assert values["ciou"] == 1 and values["published_giou"] == 1
    assert math.isnan(values["count_exact"])  # there is nothing to count here
    assert Table.of([score_sample(sample(meta={"count": 0}), []), lost]).values()["count_exact"] == 1 / 2


def test_of_counts_the_samples_a_figure_speaks_of():
    table = Table.of([*ROWS, score_sample(sample(meta={"count": 2}), [])])
    spoken = dict(zip(table.names, table.speaks.sum(axis=0), strict=True))
    assert (spoken["giou"], spoken["rec_box"], spoken["count_mae"], spoken["target_p@0.7"]) == (6, 4, 1, 4)
    assert spoken["n_acc"] + spoken["t_acc"] == spoken["giou"] and spoken["t_acc"] == spoken["target_p@0.7"]


def test_every_figure_says_what_it_is():
    assert all(figure.says for figure in FIGURES.values())
    assert len({figure.says for figure in FIGURES.values()}) == len(FIGURES)


@st.composite
def scores(draw: st.DrawFn) -> Score:
    union = draw(st.integers(0, 20))
    if draw(st.booleans()) or not union:
        empty = draw(st.booleans())
        return Score(
            0, union, failed=not empty, pred_empty=empty, true_empty=draw(st.booleans()) if not union else False
        )
    return Score(draw(st.integers(0, union)), union)


@given(st.lists(scores(), min_size=1, max_size=8))
def test_tables_and_functions_agree(found):
    values = Table.of([Row(str(i), score=score) for i, score in enumerate(found)]).values()
    for name, function in (("giou", metrics.giou), ("ciou", metrics.ciou), ("p@0.5", metrics.precision_at)):
        assert values[name] == pytest.approx(function(found), nan_ok=True)
    for name, function in (("n_acc", metrics.n_acc), ("t_acc", metrics.t_acc)):
        assert values[name] == pytest.approx(function(found), nan_ok=True)


@given(st.lists(scores(), min_size=1, max_size=8), st.integers(0, 7))
def test_no_failure_helps(found, place):
    """Whatever a sample's answer was, a failure in its place raises no figure."""
    place %= len(found)
    old = found[place]
    failed = replace(old, intersection=0, union=max(old.union - old.intersection, 0), pred_empty=False, failed=True)
    rows = [Row(str(i), score=score) for i, score in enumerate(found)]
    worse = [*rows[:place], replace(rows[place], score=failed, error="timeout"), *rows[place + 1 :]]
    before, after = Table.of(rows).values(), Table.of(worse).values()
    for name in ("giou", "p@0.5", "p@0.5:0.9", "n_acc", "t_acc"):
        assert math.isnan(before[name]) or after[name] <= before[name] + 1e-12
