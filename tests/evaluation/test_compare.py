"""Two runs beside each other: the same samples, the differences, who changed."""

from dataclasses import replace

import pytest

from segzero.errors import UserError
from segzero.evaluation.compare import compare_runs
from segzero.evaluation.metrics import Score
from segzero.evaluation.scoring import Row


def run(*intersections: int) -> list[Row]:
    """Samples s0, s1, ... with a true object of ten pixels of which so many were found."""
    return [Row(f"s{i}", f"question {i}", score=Score(found, 10)) for i, found in enumerate(intersections)]


def test_differences_of_figures():
    found = compare_runs(run(2, 4, 6), run(3, 4, 8))
    giou = found["figures"]["giou"]
    assert (giou["a"], giou["b"], giou["difference"]) == pytest.approx((0.4, 0.5, 0.1))
    assert giou["low"] == 0 and giou["high"] == pytest.approx(0.2)
    assert giou["p"] == pytest.approx(0.5, abs=0.02)  # of the two that changed, 2 of 4 flips go so far
    assert found["samples"] == 3 and found["figures"]["p@0.5"]["difference"] == 0 and "n_acc" not in found["figures"]


def test_a_run_does_not_differ_from_itself():
    figures = compare_runs(run(2, 4, 6), run(2, 4, 6))["figures"]
    assert all((f["difference"], f["low"], f["high"], f["p"]) == (0, 0, 0, 1) for f in figures.values())


def test_pairs_are_found_by_id():
    a, b = run(2, 4, 6), run(3, 4, 8)
    assert compare_runs(a, b[::-1]) == compare_runs(a, b)
    assert compare_runs(iter(a), iter(b)) == compare_runs(a, b)


def test_paired_differences_are_surer_than_the_runs_alone():
    """Every one of 20 samples gained a pixel, far less than they differ among themselves."""
    before = [i % 9 for i in range(20)]
    giou = compare_runs(run(*before), run(*[found + 1 for found in before]))["figures"]["giou"]
    assert giou["low"] == pytest.approx(0.1) == giou["high"] and giou["p"] < 0.001


def test_changed_samples_the_most_changed_first():
    a, b = run(2, 4, 6, 0), run(3, 4, 4, 0)
    b[3] = replace(b[3], score=Score(0, 10, failed=True), error="timeout")
    changed = compare_runs(a, b)["changed"]
    assert [line["id"] for line in changed] == ["s2", "s0", "s3"]
    assert changed[0] == {
        "id": "s2", "question": "question 2", "a": 0.6, "b": 0.4, "change": pytest.approx(-0.2),
        "error_a": None, "error_b": None,
    }  # fmt: skip
    assert changed[2]["error_b"] == "timeout"


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (run(1, 2), run(1), "1 only in the first (s1)"),
        (run(1), run(1, 2, 3, 4, 5), "4 only in the second (s1, s2, s3, ...)"),
        (run(1) * 2, run(1), "the first run has the sample 's0' twice"),
        (run(1), [], "the second run has no samples"),
        (run(1), [replace(run(1)[0], question="the dog")], "'s0' asks 'question 0' and 'the dog'"),
    ],
)
def test_runs_over_different_samples_are_refused(a, b, message):
    with pytest.raises(UserError) as refusal:
        compare_runs(a, b)
    assert message in str(refusal.value) and "\n" not in str(refusal.value)


def test_rounds_of_a_dialogue_are_swapped_together():
    """Every one of 20 samples gained a pixel; of two dialogues, that is twice the same."""
    before, after = run(*[4] * 20), run(*[5] * 20)
    rounds = [replace(row, dialogue=f"d{i % 2}") for i, row in enumerate(before)]
    assert compare_runs(before, after)["figures"]["giou"]["p"] < 0.001
    found = compare_runs(rounds, after)["figures"]["giou"]  # what one run knows of dialogues holds for both
    assert found["p"] == pytest.approx(0.5, abs=0.02) and found["difference"] == pytest.approx(0.1)
