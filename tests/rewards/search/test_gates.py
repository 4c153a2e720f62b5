"""The gates: which rewards pass, and what is found in those that don't."""

import pytest

from rewards import PRESETS
from rewards.search.candidate import parse_candidate
from rewards.search.gates import terms_of, try_gates
from rewards.search.language import EXAMPLE
from rewards.search.sandbox import Sandbox

FORMAT = {"seg_zero": "seg_zero", "seg_zero_strict": "seg_zero", "phrase": "phrase"}
PASS = ("soft", "phrase", "mask", "refine", "dialogue", "dr2seg", "dr_seg", "star", "swim", "genseg_r1", "lens")


def found(report):
    return {line.partition(":")[0] for line in report.findings}


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_that_teach_nothing_there_pass(preset):
    report = try_gates(terms_of(PRESETS[preset]), FORMAT.get(preset, "multi"))
    assert report.passed == (preset in PASS)
    assert report.passed or "nothing there" in found(report)  # true of the published functions
    never = [line for line in report.notes if "never moves" in line]
    assert never == (["the term 'cites' never moves: it is 1 for every answer"] if preset == "dialogue" else [])


def gates(source):
    with Sandbox(parse_candidate(source)) as sandbox:
        return try_gates(sandbox.score)


def test_the_example_passes():
    report = gates(EXAMPLE)
    assert report.passed and report.notes == ()


GUARD = "if not answer.readable:\n        return {'boxes': -1.0}"
EMPTY = "if not answer.instances or not truth:\n        return {'boxes': float(not answer.instances and not truth)}"
PAIRS = "matched(answer.instances, truth)"
ALL = "for i in answer.instances for o in truth"
HACKED = [
    ("quality", [GUARD, EMPTY, "boxes = 0.5"]),
    ("quality", [GUARD, EMPTY, f"boxes = -mean(iou(i.box, o.box) for i, o in {PAIRS})"]),
    ("malformed", [EMPTY, f"boxes = sum(iou(i.box, o.box) for i, o in {PAIRS}) / len(truth)"]),
    ("order", [GUARD, EMPTY, "boxes = iou(answer.instances[0].box, truth[0].box)"]),
    ("copies", [GUARD, EMPTY, f"boxes = min(10.0, sum(iou(i.box, o.box) {ALL}))"]),
    ("giant boxes", [GUARD, EMPTY, f"boxes = mean(float(i.box[0] <= o.box[0] and i.box[3] >= o.box[3]) {ALL})"]),
    (
        "nothing there",
        [GUARD, "if not truth:\n        return {'boxes': 1.0}", EMPTY, "boxes = mask_iou(answer, truth)"],
    ),
    ("length", [GUARD, EMPTY, "boxes = mask_iou(answer, truth) + min(5.0, answer.words / 100)"]),
    ("failed", [GUARD, EMPTY, "boxes = mask_iou(answer, truth) / (len(answer.instances) - 1)"]),
]


@pytest.mark.parametrize(("gate", "lines"), HACKED)
def test_a_hacked_reward_is_caught(gate, lines):
    report = gates("\n    ".join(["def reward(answer, truth):", *lines, "return {'boxes': boxes}"]))
    assert not report.passed and gate in found(report)
    if gate == "failed":
        assert "line 6: ZeroDivisionError" in report.findings[0]


def test_a_term_that_never_moves_is_no_reason_to_refuse():
    report = gates(
        EXAMPLE.replace('"readable": 0.0', '"spare": 2.0, "readable": 0.0').replace(
            '{"readable": 1.0', '{"spare": 2.0, "readable": 1.0'
        )
    )
    assert report.passed and report.notes == ("the term 'spare' never moves: it is 2 for every answer",)


def test_many_findings_of_a_gate_are_counted():
    report = gates("def reward(answer, truth):\n    return {'boxes': 1.0}")
    assert sum(line.startswith("malformed: ") for line in report.findings) == 4
    assert any(line.startswith("malformed: and ") for line in report.findings)
