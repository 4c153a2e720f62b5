"""Scoring, in the policy's own coordinates; a user's reward cannot fail silently."""

import asyncio
import sys
import types
from dataclasses import replace

import pytest

from rewards import Overlong
from segzero.answer import Answer, Instance, render_answer
from segzero.dialogue.prompting import add_answer, sample_prompt
from segzero.dialogue.registry import Registry
from segzero.errors import UserError
from segzero.frames import relative
from segzero.training.scorer import Scorer
from segzero.training.segmenter_actor import SegmenterActor


def truth_as_text(sample, frame) -> str:
    instances = [
        Instance(
            tuple(frame.to_frame(o.box, sample.size)),
            tuple(tuple(frame.to_frame(p, sample.size)) for p in o.points[:1]),
        )
        for o in sample.objects
    ]
    return render_answer(Answer(think="it is there", instances=tuple(instances)))


def score(scorer, sample, texts, **options):
    return asyncio.run(scorer.score(sample, texts, **options))


@pytest.mark.parametrize("preset", ["vision_reasoner", "soft", "mask"])
def test_the_truth_scores_near_the_maximum_in_any_frame(preset, samples, encoder):
    for frame in (encoder.checkpoint.frame, relative(1000)):
        scorer = Scorer(preset, "multi", frame)
        for sample in samples:
            if sample.empty and preset == "vision_reasoner":
                continue  # as published, it can't be earned
            [scored] = score(scorer, sample, [truth_as_text(sample, frame)])
            # whole numbers in a small frame cost the last pixels
            assert scored.reward.total >= 0.9 * scorer.rubric.highest, (preset, sample.id, scored.reward.terms)


def test_masks_are_drawn_for_the_mask_reward(samples, segmenter, encoder):
    frame = encoder.checkpoint.frame
    scorer = Scorer("mask", "multi", frame, SegmenterActor(lambda: segmenter).draw)
    sample = next(sample for sample in samples if len(sample.objects) == 1)
    right, wrong = score(scorer, sample, [truth_as_text(sample, frame), "<think>?</think><answer>[]</answer>"])
    assert right.reward.terms["mask_iou"] > 0.6 > wrong.reward.terms["mask_iou"]
    assert len(right.masks) == 1
    assert wrong.masks == ()


@pytest.mark.parametrize("preset", ["mask", "soft"])
def test_overlong_answers_lose_in_training_alone(preset, samples, encoder):
    """Of a limit of 40 tokens, with or without ranks."""
    frame, sample = encoder.checkpoint.frame, samples[0]
    plain, with_penalty = (Scorer(preset, "multi", frame, overlong=o) for o in (None, Overlong(40, 0.5, 2.0)))
    texts, lengths = [truth_as_text(sample, frame)] * 3, [20, 30, 40]
    before, after = (score(scorer, sample, texts, lengths=lengths) for scorer in (plain, with_penalty))
    lost = [a.reward.total - b.reward.total for a, b in zip(before, after, strict=True)]
    assert lost == pytest.approx([0.0, 1.0, 2.0])
    assert [scored.reward.terms["overlong"] for scored in after] == [0.0, -0.5, -1.0]
    [validated] = score(with_penalty, sample, texts[:1], validating=True, lengths=[40])
    assert validated.reward == before[0].reward


def test_ranks_count_from_the_next_step_on(samples, encoder):
    scorer = Scorer("soft", "multi", encoder.checkpoint.frame)
    sample = next(sample for sample in samples if len(sample.objects) == 1)
    texts = [truth_as_text(sample, encoder.checkpoint.frame), "<think>?</think><answer>[]</answer>"]
    first = [s.reward.total for s in score(scorer, sample, texts)]
    assert [s.reward.total for s in score(scorer, sample, texts)] == first
    scorer.end_step()
    assert [s.reward.total for s in score(scorer, sample, texts)] != first


def test_a_checkpoint_knows_the_ranks_of_the_next_step(samples, encoder):
    """And nothing of answers to the next step's prompts, which a resumed run will generate again."""
    scorer, resumed = (Scorer("soft", "multi", encoder.checkpoint.frame) for _ in range(2))
    sample = next(sample for sample in samples if len(sample.objects) == 1)
    texts = [truth_as_text(sample, encoder.checkpoint.frame), "<think>?</think><answer>[]</answer>"]
    score(scorer, sample, texts)
    score(scorer, sample, texts, validating=True)
    scorer.end_step()
    ended = scorer.state()
    score(scorer, sample, texts)
    assert scorer.state() == ended
    resumed.restore(ended)
    assert score(resumed, sample, texts)[0].reward.terms == score(scorer, sample, texts)[0].reward.terms


def test_a_truth_that_a_preset_cannot_use_is_named(samples, encoder):
    several = next(sample for sample in samples if len(sample.objects) > 1)
    with pytest.raises(UserError, match=f"reward=seg_zero cannot score sample '{several.id}': .* one object") as error:
        score(Scorer("seg_zero", "seg_zero", encoder.checkpoint.frame), several, ["<answer>{}</answer>"])
    assert "\n" not in str(error.value)


def test_a_think_chain_has_to_cite_boxes_of_its_prompt(samples, segmenter, encoder):
    """Not the true boxes of the earlier rounds: the prompt may show the policy's own answers to them."""
    frame = encoder.checkpoint.frame
    scorer = Scorer("dialogue", "multi", frame, SegmenterActor(lambda: segmenter).draw)
    sample = next(sample for sample in samples if len(sample.objects) == 1)
    turns = ({"question": "the ring", "boxes": [[28, 56, 84, 112]]},)
    later = replace(sample, question="what is left of it", turns=turns)
    own = add_answer(Registry(sample.size), "the ring", Answer(instances=(Instance((1.0, 2.0, 9.0, 12.0)),)), frame)
    texts = [f"<think>beside {box}</think><answer>[]</answer>" for box in ("[14, 28, 42, 56]", "[1, 2, 9, 12]")]
    for registry, cited in ((None, [1.0, 0.0]), (own, [0.0, 1.0])):
        scored = score(scorer, later, texts, prompt_boxes=sample_prompt(later, frame, registry).boxes)
        assert [each.reward.terms["cites"] for each in scored] == cited
        assert all(each.masks == () for each in scored)  # drawn, as for `mask`


@pytest.fixture
def user_reward(monkeypatch):
    """A module with a user's reward; returns a function that sets it."""
    module = types.ModuleType("users_rewards")
    monkeypatch.setitem(sys.modules, "users_rewards", module)

    def set_reward(function):
        module.reward = function
        return "users_rewards.reward"

    return set_reward


def test_a_users_reward_sees_answer_and_truth(user_reward, samples, encoder):
    path = user_reward(lambda answer, truth: {"count": float(len(answer.instances) == len(truth)), "one": 1})
    scorer = Scorer(path, "multi", encoder.checkpoint.frame)
    [scored] = score(scorer, samples[0], [truth_as_text(samples[0], encoder.checkpoint.frame)])
    assert scored.reward.total == 2.0
    assert scored.reward.terms == {"count": 1.0, "one": 1.0}


@pytest.mark.parametrize("bad", [float("nan"), "high", ZeroDivisionError])
def test_a_users_reward_that_fails_ends_the_run_at_the_third(bad, user_reward, samples, encoder):
    def reward(answer, truth):
        if isinstance(bad, type):
            raise bad
        return bad

    scorer = Scorer(user_reward(reward), "multi", encoder.checkpoint.frame)
    with pytest.raises(UserError, match=samples[0].id):
        score(scorer, samples[0], ["a", "b", "c", "d"])


def test_an_answer_whose_reward_failed_gets_the_mean_of_its_group(user_reward, samples, encoder):
    def reward(answer, truth):
        if answer.error is None:
            raise ValueError("once")
        return len(answer.error)

    scorer = Scorer(user_reward(reward), "multi", encoder.checkpoint.frame)
    scored = score(scorer, samples[0], ["nothing", "<think></think><answer>[]</answer>", "<answer>{</answer>"])
    assert scored[1].reward.total == pytest.approx((scored[0].reward.total + scored[2].reward.total) / 2)
    assert scored[1].reward.terms == {}


MASKS = """
def reward(answer, truth):
    return {"masks": 2.0 * mask_iou(answer, truth), "readable": float(answer.readable)}
"""
PARTIAL = """
def reward(answer, truth):
    return {"readable": 1.0 / len(answer.instances), "words": float(answer.words)}
"""


@pytest.fixture
def candidate(tmp_path):
    """Write a candidate's file; returns its path."""

    def write(source):
        (tmp_path / "reward.py").write_text(source)
        return str(tmp_path / "reward.py")

    return write


def test_masks_are_drawn_for_a_candidate_that_compares_them(candidate, samples, segmenter, encoder):
    frame = encoder.checkpoint.frame
    scorer = Scorer(candidate(MASKS), "multi", frame, SegmenterActor(lambda: segmenter).draw)
    sample = next(sample for sample in samples if len(sample.objects) == 1)
    right, wrong = score(scorer, sample, [truth_as_text(sample, frame), "<think>?</think><answer>[]</answer>"])
    assert right.reward.terms["masks"] > 1.2 and len(right.masks) == 1
    assert wrong.reward.terms == {"masks": 0.0, "readable": 1.0} and wrong.reward.total == 1.0
    assert not Scorer(candidate(PARTIAL), "multi", frame).needs_masks


def test_a_candidate_that_fails_is_treated_as_a_users_function(candidate, samples, encoder):
    scorer = Scorer(candidate(PARTIAL), "multi", encoder.checkpoint.frame)
    one = truth_as_text(next(sample for sample in samples if len(sample.objects) == 1), encoder.checkpoint.frame)
    scored = score(scorer, samples[0], [one, "<answer>[]</answer>", one.replace("it is there", "it is")])
    assert [each.reward.total for each in scored] == [4.0, 3.5, 3.0] and scored[1].reward.terms == {}
    with pytest.raises(UserError, match=f"line 3: ZeroDivisionError: .*3 failures, at samples .*{samples[1].id}"):
        score(scorer, samples[1], ["<answer>[]</answer>"] * 3)
