"""What the log says of a step and of a validation."""

import math
from dataclasses import replace

import pytest

from segzero.answer import parse_answer
from segzero.dialogue.prompting import sample_prompt
from segzero.evaluation.metrics import giou
from segzero.frames import native
from segzero.training.monitor import group_metrics, score_group, validation_metrics
from segzero.training.rollouts import Answer, Group, History
from segzero.training.scorer import Scored


def answer(total, text="<think></think><answer>[]</answer>", masks=None, truncated=False, **terms):
    return Answer(text, 5, truncated, Scored(total, terms, parse_answer(text), masks))


@pytest.fixture
def group(samples):
    def group(*answers, sample=samples[0]):
        return Group(sample, sample_prompt(sample, native()), answers, {"generate": 1.0, "reward": 0.5})

    return group


def test_terms_errors_and_flat_groups(group):
    flat = group(answer(0.7, format=1.0), answer(0.7, format=0.0))
    uneven = group(answer(1.0, format=1.0), answer(0.0, "no", truncated=True, format=0.0))
    metrics = group_metrics([flat, uneven])
    assert metrics["reward/mean"] == pytest.approx(0.6)
    assert metrics["reward/format/mean"] == 0.5
    assert metrics["reward/flat_groups"] == 0.5
    assert metrics["answer/readable"] == 0.75
    assert metrics["answer/error/no_answer"] == 0.25
    assert metrics["answer/truncated"] == 0.25
    assert group_metrics([]) == {}


def test_whose_answers_the_later_rounds_were_asked_after(samples):
    turns = ({"question": "the ring", "boxes": [[28, 56, 84, 112]]},)
    later = replace(samples[0], question="what is left of it", turns=turns)
    seconds = {"generate": 1.0, "reward": 0.5}

    def group(sample, history):
        return Group(sample, sample_prompt(sample, native()), (answer(1.0), answer(0.0)), seconds, history)

    first = group(samples[0], History.TRUE)
    metrics = group_metrics([first, *(group(later, history) for history in ["own", "own", "fallback", "true"])])
    assert metrics["dialogue/own_history"] == 1 / 2
    assert metrics["dialogue/fallbacks"] == 1 / 4
    assert not any(name.startswith("dialogue/") for name in group_metrics([first]))


def test_rewards_that_are_equal_up_to_rounding_are_flat(group):
    assert group_metrics([group(answer(0.7), answer(0.1 + 0.6))])["reward/flat_groups"] == 1.0


def test_validation_counts_failures_and_nothing_there(group, samples):
    there = next(sample for sample in samples if len(sample.objects) == 1)
    nothing = next(sample for sample in samples if sample.empty)
    text = '<think></think><answer>[{"bbox_2d": [1,2,3,4], "point_2d": [2,3]}]</answer>'
    groups = [
        group(answer(7.0, text, (there.objects[0].rle,)), sample=there),
        group(answer(0.0, "no answer", ()), sample=there),
        group(answer(7.0, masks=()), sample=nothing),
    ]
    metrics = validation_metrics(groups)
    assert metrics["val/giou"] == pytest.approx(2 / 3)
    assert metrics["val/giou"] == giou([score_group(g) for g in groups])
    assert metrics["val/n_acc"] == 1.0
    assert metrics["val/t_acc"] == 0.5
    assert "val/giou" not in validation_metrics([group(answer(1.0))])


def test_what_no_validation_sample_can_tell_is_left_out(group, samples):
    """Where each has a target nobody can say rightly that nothing is there: there is no n_acc, and no NaN."""
    there = next(sample for sample in samples if len(sample.objects) == 1)
    nothing = next(sample for sample in samples if sample.empty)
    with_target = validation_metrics([group(answer(1.0, masks=()), sample=there)])
    without = validation_metrics([group(answer(1.0, masks=()), sample=nothing)])
    assert with_target["val/t_acc"] == 0.0 and "val/n_acc" not in with_target
    assert without["val/n_acc"] == 1.0 and "val/t_acc" not in without
    assert not any(math.isnan(value) for value in [*with_target.values(), *without.values()])
