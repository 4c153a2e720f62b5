"""The sandbox: what a candidate is told, what comes back, and what becomes of workers that fail."""

import platform
import time

import numpy as np
import pytest

from rewards import Case
from rewards.search import sandbox as sandboxes
from rewards.search.candidate import Candidate, parse_candidate
from rewards.search.confinement import filter_system_calls
from rewards.search.language import EXAMPLE
from rewards.search.sandbox import CandidateFailure, Sandbox, SandboxLimits
from segzero.answer import Answer, Instance, Phrase, render_answer
from segzero.masks import box_rle
from segzero.sample import Object, Sample
from tests.helpers import breakouts

TRUE = ((100, 100, 300, 300), (500, 500, 700, 600))
SAMPLE = Sample(
    "s", "a.png", "the mugs", 840, 840, tuple(Object(b, ((b[0] + 9, b[1] + 9),), box_rle(b, (840, 840))) for b in TRUE)
)


def written(*boxes, think="two mugs"):
    return render_answer(Answer(think, tuple(Instance(b, ((b[0] + 9, b[1] + 9),)) for b in boxes)))


def case(text, masks=None, sample=SAMPLE):
    return Case.of_sample(text, sample, masks)


def body(*lines):
    return parse_candidate("\n".join(["def reward(answer, truth):", *(f"    {line}" for line in lines)]))


def score(candidate, *cases, **limits):
    with Sandbox(candidate, SandboxLimits(**limits)) as sandbox:
        return sandbox.score(cases)


def test_the_example_scores_answers():
    right, half, none, unreadable = score(
        parse_candidate(EXAMPLE), *map(case, [written(*TRUE), written(TRUE[1]), written(), "two mugs"])
    )
    assert right == {"readable": 1.0, "boxes": 3.0, "count": 1.0}
    assert half == {"readable": 1.0, "boxes": 1.5, "count": 0.5}
    assert none == {"readable": 1.0, "boxes": 0.0, "count": 0.0}
    assert unreadable == {"readable": 0.0, "boxes": 0.0, "count": 0.0}


def test_every_field_arrives():
    fields = body(
        "one, target = answer.instances[1], truth[0]",
        "return {'x': one.box[0] / 100, 'y': one.points[0][1] / 100, 'area': one.area, 'true_area': target.area,",
        "        'words': answer.words, 'warned': len(answer.warnings), 'think': answer.think.count('mug'),",
        "        'readable': answer.readable, 'error': answer.error is None}",
    )  # fmt: skip
    text = written(TRUE[0], TRUE[1], think="a mug and a mug").replace("]</answer>", ', {"bbox_2d": 3}]</answer>')
    [terms] = score(fields, case(text))
    expected = {"x": 5.0, "y": 5.09, "area": 200 * 100 / 840**2, "true_area": 200 * 200 / 840**2, "words": 5.0}
    assert terms == pytest.approx(expected | {"warned": 1.0, "think": 2.0, "readable": 1.0, "error": 1.0})


def test_masks_are_compared_where_they_were_drawn():
    masks = body(
        "pairs = matched(answer.instances, truth)",
        "return {'all': mask_iou(answer, truth), 'first': pair_mask_iou(pairs[0][0], pairs[0][1]),",
        "        'turned': pair_mask_iou(pairs[0][1], pairs[0][0]), 'area': pairs[0][0].area}",
    )  # fmt: skip
    half = (500, 500, 600, 600)  # half of the second object
    drawn, boxes = score(masks, case(written(TRUE[1]), [box_rle(half, (840, 840))]), case(written(TRUE[1])))
    assert drawn["all"] == pytest.approx(100 * 100 / (200 * 200 + 200 * 100), abs=0.01)
    assert drawn["first"] == drawn["turned"] == pytest.approx(0.5, abs=0.01)
    assert drawn["area"] == pytest.approx(100 * 100 / 840**2, rel=0.03)
    assert boxes["all"] == pytest.approx(200 * 100 / (200 * 200 + 200 * 100)) and boxes["first"] == 1.0


def test_ignored_pixels_and_phrases():
    ignored = (300, 0, 840, 840)
    sample = Sample("s", "a.png", "q", 840, 840, SAMPLE.objects[:1], ignore=box_rle(ignored, (840, 840)))
    masks = body(
        "return {'all': mask_iou(answer, truth), 'count': len(answer.instances),",
        "        'first': pair_mask_iou(answer.instances[0], truth[0]), 'x': answer.instances[0].box[2] / 100}",
    )
    text = render_answer(Answer("", phrases=(Phrase("the mug"),)), "phrase")
    drawn = np.zeros((840, 840), bool)
    drawn[100:300, 100:500] = True
    [terms] = score(masks, Case.of_sample(text, sample, [drawn], format="phrase"))
    assert terms["all"] == terms["first"] == pytest.approx(1.0, abs=0.02)
    assert terms["count"] == 1.0 and terms["x"] == 5.0


@pytest.mark.parametrize("text", ["<think></think><answer>[]</answer>", "nothing", "<answer>[{'a': 1}]</answer>"])
def test_what_cannot_be_read_is_never_nothing_there(text):
    nothing = Sample("s", "a.png", "q", 840, 840)
    [terms] = score(
        body("return {'readable': answer.readable, 'iou': mask_iou(answer, truth)}"), case(text, sample=nothing)
    )
    assert set(terms.values()) == {float("[]" in text)}


@pytest.mark.parametrize(
    ("lines", "kind", "said"),
    [
        (["x = 0", "return {'a': 1 / x}"], "raised", "line 3: ZeroDivisionError: division by zero"),
        (["return {'a': truth[7].area}"], "raised", "line 2: IndexError: tuple index out of range"),
        (["return {'a': [1] * 3}"], "raised", "line 2: TypeError: * takes numbers, not a list"),
        (["return {'a': '%99999999d' % 3}"], "raised", "line 2: TypeError: % takes numbers, not a str"),
        (["return {'a': 1e9 ** 1e9}"], "raised", "line 2: OverflowError: math range error"),
        (["return {'a': sum(range(1000000000))}"], "raised", "line 2: ValueError: a range of more than 10,000 numbers"),
        (["return {'a': round(3, -99999999)}"], "raised", "line 2: ValueError: rounding to -99999999 digits"),
        (["return 3.0"], "returned", "it returned a float instead of 1 to 12 named terms"),
        (["return {}"], "returned", "it returned a dict of 0 instead of 1 to 12 named terms"),
        (["return {3: 1.0}"], "returned", "it returned '3': a float instead of a number"),
        (["return {'a': 'b'}"], "returned", "it returned 'a': a str instead of a number"),
        (["return {'a': math.inf}"], "returned", "it returned inf for 'a'; each is at most 10, either way"),
        (["return {'a': math.inf - math.inf}"], "returned", "it returned nan for 'a'"),
        (["return {'a b': 1.0}"], "returned", "a term called 'a b'; use letters, digits and underscores"),
        (["return {name: 1.0 for name in ['a', 'b']}", ""], None, ""),
    ],
)  # fmt: skip
def test_a_failure_names_its_line_and_the_worker_goes_on(lines, kind, said):
    with Sandbox(body(*lines)) as sandbox:
        for result in sandbox.score([case(written())] * 2):
            if kind is None:
                assert result == {"a": 1.0, "b": 1.0}
            else:
                assert isinstance(result, CandidateFailure) and result.kind == kind and str(result).startswith(said)
        assert sandbox.deaths == 0


def test_a_hung_worker_is_replaced_and_counted():
    slow = body(
        "if len(answer.instances) == 1:",
        "    return {'a': sum(sum(sum(1 for _ in range(9999)) for _ in range(9999)) for _ in range(9999))}",
        "return {'a': 1.0}",
    )
    hang, fine = case(written(TRUE[0])), case(written())
    with Sandbox(slow, SandboxLimits(seconds=0.5)) as sandbox:
        began = time.monotonic()
        results = sandbox.score([fine, hang, fine, hang, hang, fine, hang])
        assert time.monotonic() - began < 10
        assert [getattr(r, "kind", "fine") for r in results] == [
            "fine", "slow", "fine", "slow", "slow", "untried", "untried",
        ]  # fmt: skip
        assert sandbox.deaths == 3 and "more than 0.5 s" in str(results[1])
        assert sandbox.score([fine]) == [{"a": 1.0}]  # the next call tries again


def test_memory_is_bounded():
    grows = body("x = [0]", "for _ in range(60):", "    x = x + x", "return {'a': 1.0}")
    [result] = score(grows, case(written()))
    assert isinstance(result, CandidateFailure) and result.kind in ("memory", "died")


def test_a_worker_is_renewed_before_its_processor_time_ends():
    counted = body("return {'a': 1.0}")
    with Sandbox(counted, SandboxLimits(life=0.0)) as sandbox:
        assert sandbox.score([case(written())] * 3) == [{"a": 1.0}] * 3
        first = sandbox._worker.process.pid
        sandbox.score([case(written())])
        assert sandbox._worker.process.pid != first and sandbox.deaths == 0


def test_an_idle_worker_that_was_killed_is_nobodys_failure():
    with Sandbox(body("return {'a': 1.0}")) as sandbox:
        sandbox.score([case(written())])
        sandbox._worker.process.kill()
        sandbox._worker.process.wait()
        assert sandbox.score([case(written())]) == [{"a": 1.0}]


def test_no_worker_outlives_its_sandbox():
    with Sandbox(body("return {'a': 1.0}")) as sandbox:
        sandbox.score([case(written())])
        process = sandbox._worker.process
    assert process.poll() is not None


def test_what_this_machine_cannot_take_is_said(monkeypatch, caplog):
    """A kernel without the filter, as the worker reports it; the limits hold alone."""
    caplog.set_level("WARNING", sandboxes.__name__)  # whatever other tests made of the root's level
    start = "from rewards.search import confinement\nconfinement.filter_system_calls = lambda: 'not here'\nrunpy.run_"
    monkeypatch.setattr(sandboxes, "_START", sandboxes._START.replace("runpy.run_", start))
    grows = body("x = [0]", "for _ in range(60):", "    x = x + x", "return {'a': 1.0}")
    with Sandbox(body("return {'a': 1.0}")) as sandbox, Sandbox(grows) as limited:
        assert sandbox.score([case(written())]) == [{"a": 1.0}]
        assert limited.score([case(written())])[0].kind in ("memory", "died")
    assert sandbox.missing == ["no filter of system calls (not here)"]
    assert "candidates run with less protection on this machine: no filter of system calls (not here)" in caplog.text


@pytest.mark.skipif(platform.system() != "Linux", reason="elsewhere there is no filter")
def test_a_machine_of_another_kind_has_no_filter(monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    assert filter_system_calls() == "there is none for Linux on riscv64"


def test_files_and_processes_cannot_be_opened_where_there_is_no_filter(monkeypatch, tmp_path):
    """The resource limits by themselves, in a worker that no parser protects."""
    start = "from rewards.search import confinement\nconfinement.filter_system_calls = lambda: 'not here'\nrunpy.run_"
    monkeypatch.setattr(sandboxes, "_START", sandboxes._START.replace("runpy.run_", start))
    harm = tmp_path / "harm"
    for payload in ("a file", "a file by io", "a shell by libc", "a secret file"):
        lines = breakouts.PAYLOADS[payload].replace("HARM", repr(str(harm))).replace("SECRET", repr(__file__))
        with Sandbox(Candidate(breakouts.breakout(lines)), SandboxLimits(seconds=5)) as sandbox:
            [result] = sandbox.score([case(written())])
        assert not harm.exists() and "sandbox:" not in str(result)
