"""Figures of small benchmarks against their sums written out by hand; intervals, groups and failures of a summary."""

import json
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segzero.errors import UserError
from segzero.evaluation import metrics
from segzero.evaluation.figures import FIGURES, Table, summarise
from segzero.evaluation.metrics import Score
from segzero.evaluation.scoring import Row, score_sample
from tests.helpers.answers import predicted, sample

# IoU 1, 3/7, 0 (failed), 1 (nothing, rightly), 0 (invented), 0 (missed)
ROWS = [
    score_sample(sample("####......"), [predicted("####......")]),
    score_sample(sample("####......"), [predicted(".######...")]),
    score_sample(sample("#####....."), [], error="not_json"),
    score_sample(sample(), []),
    score_sample(sample(), [predicted("##........")]),
    score_sample(sample("##........"), []),
]
VALUES = Table.from_rows(ROWS).values()


def test_masks():
    assert VALUES["giou"] == pytest.approx((1 + 3 / 7 + 0 + 1 + 0 + 0) / 6)
    assert VALUES["ciou"] == (4 + 3) / (4 + 7 + 5 + 0 + 2 + 2)
    assert [VALUES[f"p@{k}"] for k in metrics.THRESHOLDS] == [2 / 6] * 5
    assert VALUES["p@0.5:0.9"] == pytest.approx(2 / 6)
    assert VALUES["n_acc"] == 1 / 2 and VALUES["t_acc"] == 2 / 4


def test_gref_cocos_precision_is_over_targets_alone():
    """The first of the four samples with a target; its gIoU and cIoU are ours."""
    assert [VALUES[f"target_p@{k}"] for k in (0.7, 0.8, 0.9)] == [1 / 4] * 3
    assert "target_p@0.7" not in Table.from_rows(ROWS[:3]).names  # where it would repeat p@0.7


def test_boxes():
    """Boxes of the samples with one true object: IoU 1, 3/7, failed, none predicted."""
    assert VALUES["rec_box"] == VALUES["rec_mask_box"] == VALUES["rec_any_box"] == 1 / 4


def test_half_is_enough_for_us_and_not_for_the_published_script():
    half = Table.from_rows([score_sample(sample("####......"), [predicted("##........")])]).values()
    assert half["rec_box"] == half["p@0.5"] == 1 and half["rec_any_box"] == 0


def test_the_mean_of_five_thresholds():
    """IoU 3/4 reaches 0.5, 0.6 and 0.7."""
    assert Table.from_rows([Row("a", score=Score(3, 4))]).values()["p@0.5:0.9"] == 3 / 5
    assert metrics.mean_precision([Score(3, 4)]) == 3 / 5


def test_objects():
    """Two true objects. Both found; one found and one invented (IoU 0.5 each); failed; none there and none predicted.

    IoU over the larger count: 2/2, (1 + 0.5)/3, 0, 1. F1: pairs 2 + 2, objects 4 + 5 + 2 + 0.
    """
    two = sample("####......", "....####..")
    rows = [
        score_sample(two, [predicted("####......"), predicted("....####..")]),
        score_sample(two, [predicted("####......"), predicted("....##...."), predicted("........##")]),
        score_sample(two, [], error="timeout"),
        score_sample(sample(), []),
    ]
    values = Table.from_rows(rows).values()
    assert values["objects_iou"] == values["objects_box_iou"] == pytest.approx((1 + 1.5 / 3 + 0 + 1) / 4)
    assert values["objects_f1"] == values["objects_box_f1"] == 2 * 4 / (4 + 5 + 2 + 0)
    assert not [name for name in VALUES if name.startswith("objects_")]  # one object each: nothing to tell apart


def test_counts():
    """True 3, 2, 4, 0; predicted 3, 3, failed, failed: off by 0, 1, 4, 0; a failure is never exact."""

    def counted(true: int, found: int, error: str | None = None) -> Row:
        return score_sample(sample(meta={"count": true}), [predicted("#.........")] * found, error)

    rows = [counted(3, 3), counted(2, 3), counted(4, 0, "no_answer"), counted(0, 0, "timeout")]
    values = Table.from_rows(rows).values()
    assert values["count_exact"] == 1 / 4
    assert values["count_mae"] == (0 + 1 + 4 + 0) / 4
    assert values["count_rmse"] == math.sqrt((0 + 1 + 16 + 0) / 4)


def test_the_published_way():
    """Ignored pixels are target there; an unreadable answer is 0; a time-out and an empty union are left out.

    Ours: 4/4, 0/4, 0/4, 1 over four. Theirs: 4/6 and 0/6 over two.
    """
    asked = sample("####......", ignore="....##....")
    rows = [
        score_sample(asked, [predicted("####......")]),
        score_sample(asked, [], error="not_json"),
        score_sample(asked, [], error="timeout"),
        score_sample(sample(), []),
    ]
    values = Table.from_rows(rows).values()
    assert values["giou"] == (1 + 0 + 0 + 1) / 4 and values["ciou"] == 4 / 12
    assert values["published_giou"] == pytest.approx((4 / 6 + 0) / 2) and values["published_ciou"] == 4 / 12


def test_the_published_way_of_empty_unions():
    """Theirs: a failed reading of nothing is 0, a right answer of nothing is left out. Ours: 0 and 1."""
    values = Table.from_rows(
        [score_sample(sample(), [], error="not_json"), score_sample(sample(), []), ROWS[0]]
    ).values()
    assert values["published_giou"] == 1 / 2 and values["giou"] == 2 / 3


def test_a_record_whose_truth_is_lost_lowers_every_mean():
    """One right answer, one lost record: 1/2 where a sample counts 0 to 1; sums of pixels know nothing of it."""
    lost = Row("lost", error="unreadable", lost=True)
    values = Table.from_rows([ROWS[0], lost]).values()
    assert {values[name] for name in ("giou", "p@0.5", "p@0.5:0.9", "rec_box", "rec_mask_box")} == {1 / 2}
    assert values["ciou"] == 1 and values["published_giou"] == 1
    assert math.isnan(values["count_exact"])  # there is nothing to count here
    assert Table.from_rows([score_sample(sample(meta={"count": 0}), []), lost]).values()["count_exact"] == 1 / 2


def test_samples_to_which_a_figure_applies_are_counted():
    table = Table.from_rows([*ROWS, score_sample(sample(meta={"count": 2}), [])])
    counts = dict(zip(table.names, table.applies.sum(axis=0), strict=True))
    assert (counts["giou"], counts["rec_box"], counts["count_mae"], counts["target_p@0.7"]) == (6, 4, 1, 4)
    assert counts["n_acc"] + counts["t_acc"] == counts["giou"] and counts["t_acc"] == counts["target_p@0.7"]


def test_every_figure_says_what_it_is():
    assert all(figure.meaning for figure in FIGURES.values())
    assert len({figure.meaning for figure in FIGURES.values()}) == len(FIGURES)


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
    values = Table.from_rows([Row(str(i), score=score) for i, score in enumerate(found)]).values()
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
    before, after = Table.from_rows(rows).values(), Table.from_rows(worse).values()
    for name in ("giou", "p@0.5", "p@0.5:0.9", "n_acc", "t_acc"):
        assert math.isnan(before[name]) or after[name] <= before[name] + 1e-12


def scored(id: str, pixels: str = "", error: str | None = None, **fields) -> Row:
    """An answer about four true pixels."""
    return score_sample(sample("####......", id=id, **fields), [predicted(pixels)] if pixels else [], error)


ANSWERS = [
    scored("a", "####......", concept="spatial"),
    scored("b", "##........", concept="spatial"),
    scored("c", error="not_json", concept="relations"),
    scored("d", error="timeout", concept="relations"),
    scored("e", error="not_json"),
]


def test_the_whole():
    summary = summarise(ANSWERS)
    assert (summary["samples"], summary["failed"]) == (5, 3)
    giou = summary["figures"]["giou"]
    assert giou["value"] == pytest.approx(0.3) and giou["of"] == 5
    assert 0 <= giou["low"] < 0.3 < giou["high"] <= 1
    published = summary["figures"]["published_giou"]
    assert (published["value"], published["of"]) == (1.5 / 4, 4)  # without the time-out


def test_failures_by_code_with_their_ids():
    errors = summarise(ANSWERS)["errors"]
    assert list(errors) == ["not_json", "timeout"]
    assert errors["not_json"] == {"count": 2, "share": 0.4, "ids": ["c", "e"]}


def test_by_concept():
    groups = summarise(ANSWERS)["by_concept"]
    assert list(groups) == ["", "relations", "spatial"]
    assert groups["spatial"]["figures"]["giou"]["value"] == 0.75
    assert (groups["relations"]["samples"], groups["relations"]["failed"]) == (2, 2)
    assert "by_category" not in summarise(ANSWERS)  # there is one alone


def test_by_round_of_a_dialogue():
    """P@0.5, mIoU and overall IoU of each round: 4/4 and 0/4, then 2/4."""
    rounds = [
        scored("a", "####......", meta={"round": 1}),
        scored("b", error="no_answer", meta={"round": 1}),
        scored("c", "##........", meta={"round": 2}),
    ]
    groups = summarise(rounds)["by_round"]
    first = {name: groups["1"]["figures"][name]["value"] for name in ("p@0.5", "rec_mask_box", "giou", "ciou")}
    assert first == {"p@0.5": 0.5, "rec_mask_box": 0.5, "giou": 0.5, "ciou": 0.5}
    assert groups["2"]["figures"]["giou"]["value"] == 0.5
    assert list(summarise([replace(row, round=10 - i) for i, row in enumerate(rounds)])["by_round"]) == ["8", "9", "10"]


def test_rounds_of_a_dialogue_are_drawn_together():
    """Four dialogues of which all rounds are right or all wrong are as sure as four samples, not as twelve."""

    def rows(dialogue: bool) -> list[Row]:
        return [
            scored(
                f"{d}-{n}",
                "####......" if d % 2 else ".....#....",
                meta={"dialogue": d, "round": n} if dialogue else {},
            )
            for d in range(4)
            for n in (1, 2, 3)
        ]

    together, apart = summarise(rows(dialogue=True)), summarise(rows(dialogue=False))
    four = summarise([scored(str(d), "####......" if d % 2 else ".....#....") for d in range(4)])
    for name in ("giou", "ciou", "p@0.5"):
        value, low, high = (together["figures"][name][each] for each in ("value", "low", "high"))
        assert value == apart["figures"][name]["value"]
        assert (low, high) == (four["figures"][name]["low"], four["figures"][name]["high"])
    assert apart["figures"]["giou"]["low"] > together["figures"]["giou"]["low"] == 0
    assert (together["dialogues"], together["resampling"]["of"]) == (4, "dialogues") and "dialogues" not in apart
    assert together["by_round"]["2"]["figures"]["giou"]["of"] == 4


def test_dialogues_of_two_sources_may_have_one_name():
    rows = [scored(f"{source}-{n}", meta={"dialogue": 0, "round": n}, source=source) for source in "ab" for n in (1, 2)]
    assert summarise(rows)["dialogues"] == 2


@pytest.mark.parametrize("number", [0, -1, "2", 1.5, True, [1]])
def test_a_round_that_is_no_number_is_refused(number):
    with pytest.raises(UserError, match="its round must be a whole number from 1"):
        scored("a", meta={"round": number})


def test_failures_of_a_round_by_code():
    rows = [scored("a", meta={"round": 1}), scored("b", error="lost_reference", meta={"round": 2})]
    groups = summarise(rows)["by_round"]
    assert groups["1"]["errors"] == {} and groups["2"]["errors"] == {"lost_reference": 1}
    assert groups["2"]["figures"]["giou"] == {"value": 0.0, "low": 0.0, "high": 0.0, "of": 1}
    assert groups["2"]["figures"]["published_giou"]["of"] == 1  # no denominator is without it


def test_the_histogram_counts_every_sample():
    histogram = summarise(ANSWERS)["iou_histogram"]
    assert (histogram[0], histogram[10], histogram[19], sum(histogram)) == (3, 1, 1, 5)


def test_it_is_json_and_the_same_each_time():
    first = json.dumps(summarise(ANSWERS), allow_nan=False)
    assert first == json.dumps(summarise(iter(ANSWERS)), allow_nan=False)
    assert first != json.dumps(summarise(ANSWERS, seed=1), allow_nan=False)


def test_no_samples_no_summary():
    with pytest.raises(UserError, match="no sample was scored"):
        summarise([])
