"""The numbers of a run as JSON: intervals, groups, failures."""

import json
from dataclasses import replace

import pytest

from segzero.errors import UserError
from segzero.evaluation.figures import summarise
from segzero.evaluation.scoring import Row, score_sample
from tests.helpers.answers import said, sample


def scored(id: str, pixels: str = "", error: str | None = None, **fields) -> Row:
    """An answer about four true pixels."""
    return score_sample(sample("####......", id=id, **fields), [said(pixels)] if pixels else [], error)


ROWS = [
    scored("a", "####......", concept="spatial"),
    scored("b", "##........", concept="spatial"),
    scored("c", error="not_json", concept="relations"),
    scored("d", error="timeout", concept="relations"),
    scored("e", error="not_json"),
]


def test_the_whole():
    summary = summarise(ROWS)
    assert (summary["samples"], summary["failed"]) == (5, 3)
    giou = summary["figures"]["giou"]
    assert giou["value"] == pytest.approx(0.3) and giou["of"] == 5
    assert 0 <= giou["low"] < 0.3 < giou["high"] <= 1
    published = summary["figures"]["published_giou"]
    assert (published["value"], published["of"]) == (1.5 / 4, 4)  # without the time-out


def test_failures_by_code_with_their_ids():
    errors = summarise(ROWS)["errors"]
    assert list(errors) == ["not_json", "timeout"]
    assert errors["not_json"] == {"count": 2, "share": 0.4, "ids": ["c", "e"]}


def test_by_concept():
    groups = summarise(ROWS)["by_concept"]
    assert list(groups) == ["", "relations", "spatial"]
    assert groups["spatial"]["figures"]["giou"]["value"] == 0.75
    assert (groups["relations"]["samples"], groups["relations"]["failed"]) == (2, 2)
    assert "by_category" not in summarise(ROWS)  # there is one alone


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
    histogram = summarise(ROWS)["iou_histogram"]
    assert (histogram[0], histogram[10], histogram[19], sum(histogram)) == (3, 1, 1, 5)


def test_it_is_json_and_the_same_each_time():
    first = json.dumps(summarise(ROWS), allow_nan=False)
    assert first == json.dumps(summarise(iter(ROWS)), allow_nan=False)
    assert first != json.dumps(summarise(ROWS, seed=1), allow_nan=False)


def test_no_samples_no_summary():
    with pytest.raises(UserError, match="no sample was scored"):
        summarise([])
