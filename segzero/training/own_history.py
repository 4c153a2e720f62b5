"""Prompts of later rounds that show the policy's own answers to the earlier ones, in place of the true answers."""

import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import replace

from segzero.answer import Answer
from segzero.dialogue.prompting import PolicyPrompt, add_answer, sample_prompt
from segzero.dialogue.registry import Registry
from segzero.errors import UserError
from segzero.frames import Frame
from segzero.sample import Sample


def takes_own_history(sample_id: str, step: int, share: float) -> bool:
    """Choose a share of samples and steps, always the same ones, so that a resumed run repeats itself."""
    digest = hashlib.sha256(f"{step} {sample_id}".encode()).digest()
    return int.from_bytes(digest[:8]) < share * 2**64


async def prompt_after_own_answers(
    sample: Sample, frame: Frame, generate: Callable[[PolicyPrompt], Awaitable[Answer | None]]
) -> PolicyPrompt | None:
    """Write a sample's question after its earlier rounds as the policy itself answers them, one after the other.

    As in a dialogue, the policy is not called for an answer that can only be empty, and an unreadable answer leaves a
    round without one, to which no later question can refer. Returns None if the sample's own question refers to such a
    round, or only to rounds without objects; or if `generate` returned None.
    """
    registry = Registry(sample.size)
    for turn in sample.turns:
        question = str(turn["question"])
        prompt = _prompt_if_possible(replace(sample, question=question), frame, registry)
        if prompt is None:
            answer: Answer | None = Answer(error="no_answer")
        else:
            answer = Answer() if prompt.answer_is_empty else await generate(prompt)
        if answer is None:
            return None
        registry = add_answer(registry, question, answer, frame)
    prompt = _prompt_if_possible(sample, frame, registry)
    return None if prompt is None or prompt.answer_is_empty else prompt


def _prompt_if_possible(sample: Sample, frame: Frame, registry: Registry) -> PolicyPrompt | None:
    try:
        return sample_prompt(sample, frame, registry)
    except UserError:
        return None
