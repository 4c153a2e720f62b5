"""What a sample's policy is asked: the question, told after the rounds before it as a dialogue tells them.

>>> from segzero.frames import stretch
>>> turns = ({"question": "the cup", "boxes": [[10, 20, 60, 80]]},)
>>> asked = ask(Sample("s", "", "what is left of [REF:1]", 100, 100, turns=turns), stretch(840))
>>> asked.question
'what is left of <box>[84, 168, 504, 672]</box>'
>>> asked.told.referred
frozenset({(84, 168, 504, 672)})
"""

import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from rewards import PromptBoxes
from rewards.citations import boxes_in
from segzero.answer import Answer
from segzero.dialogue.prompting import answered, is_nothing, recall, registry_of
from segzero.dialogue.references import read_question, references_in
from segzero.dialogue.registry import Registry
from segzero.errors import UserError
from segzero.frames import Frame
from segzero.prompts import render_messages
from segzero.sample import Sample


@dataclass(frozen=True)
class Asked:
    """A question as the policy reads it, and the boxes that it finds there."""

    question: str
    notes: str  # the earlier rounds; none where the question refers to nothing
    told: PromptBoxes
    needless: bool  # all that it refers to is nothing: so is the answer, and no policy is asked

    def messages(self, prompt: str) -> list[dict]:
        """What the policy's chat template takes."""
        return render_messages(self.question, prompt, self.notes)


def ask(sample: Sample, frame: Frame, registry: Registry | None = None) -> Asked:
    """The one way from a sample to its prompt. `registry`: the rounds before it, if not its true ones."""
    if registry is None:
        registry = registry_of(sample.turns, sample.size)
    prepared = recall(sample.question, registry, frame)
    references = references_in(read_question(sample.question, registry))
    referred = frozenset(
        tuple(frame.to_frame(region.box, sample.size)) for reference in references for region in reference.regions
    )
    others = boxes_in(f"{prepared.notes}\n{prepared.question}") - referred
    needless = is_nothing(sample.question, registry)
    return Asked(prepared.question, prepared.notes, PromptBoxes(referred, others), needless)


def takes_own_history(sample_id: str, step: int, share: float) -> bool:
    """True for that share of samples and steps; the same whenever it is asked, so that a resumed run repeats itself."""
    digest = hashlib.sha256(f"{step} {sample_id}".encode()).digest()
    return int.from_bytes(digest[:8]) < share * 2**64


async def ask_after_own_answers(
    sample: Sample, frame: Frame, write: Callable[[Asked], Awaitable[Answer | None]]
) -> Asked | None:
    """What is asked after the earlier rounds as `write` answers them, one after the other.

    As in a dialogue nobody is asked what can only be nothing, and an answer that could not be read is told as none.
    An earlier question that refers to such an answer has none either. None: the sample's own question refers to such
    an answer, or only to what was found to be nothing; or `write` gave None.
    """
    registry = Registry(sample.size)
    for turn in sample.turns:
        question = str(turn["question"])
        asked = _ask_if_possible(replace(sample, question=question), frame, registry)
        if asked is None:
            answer: Answer | None = Answer(error="no_answer")
        else:
            answer = Answer() if asked.needless else await write(asked)
        if answer is None:
            return None
        registry = answered(registry, question, answer, frame)
    asked = _ask_if_possible(sample, frame, registry)
    return None if asked is None or asked.needless else asked


def _ask_if_possible(sample: Sample, frame: Frame, registry: Registry) -> Asked | None:
    try:
        return ask(sample, frame, registry)
    except UserError:
        return None
