"""The numbers of a run as JSON: intervals, groups, failures."""

import json
from dataclasses import replace

import pytest
from answers import said, sample

from segzero.errors import UserError
from segzero.evaluation.scoring import Row, score_sample
from segzero.evaluation.summary import summarise


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
