"""Looks at the masks that the policy being trained has just drawn, beside the masks of the data.

A policy with looks works in episodes: it answers a question, looks at the mask, corrects it, looks again. verl gives
all tokens of a trajectory one advantage, so each look is a question of its own: a group is about one look of an
episode, what led there is generated once, and n answers to it are compared by what each makes of that mask.

>>> looked = OwnMasks(share=1.0, looks=3)
>>> plain = Sample("s", "cat.jpg", "the cat", 640, 480)
>>> [looked.look_of(plain, step) for step in range(8)]
[1, 1, 2, 2, 1, 1, 2, 3]
>>> looked.look_of(replace(plain, turns=({"question": "the dog", "boxes": []},)), 0)
0
"""

import hashlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

from segzero.answer import Answer
from segzero.masks import RLE, union
from segzero.sample import Sample

# One answer to a sample, and the masks drawn from it; None if its prompt is too long.
AnswerAndDraw = Callable[[Sample], Awaitable[tuple[Answer, Sequence[RLE]] | None]]


@dataclass(frozen=True)
class OwnMasks:
    """The choice of the samples that become looks at own masks."""

    share: float = 0.0  # of the plain questions
    looks: int = 3  # the most of an episode

    def look_of(self, sample: Sample, step: int) -> int:
        """Choose the look of the sample's episode that a group is about; 0: none, the question is asked.

        It depends on the sample and the step alone, so that a resumed run repeats itself. Later rounds of a dialogue,
        masks to judge from data, and samples without a true mask are left as they are.
        """
        if sample.turns or sample.current_mask is not None or any(each.rle is None for each in sample.objects):
            return 0
        digest = hashlib.sha256(f"look {step} {sample.id}".encode()).digest()
        chosen, depth = int.from_bytes(digest[:8]), int.from_bytes(digest[8:16])
        return 1 + depth % self.looks if chosen < self.share * 2**64 else 0


async def sample_at_look(sample: Sample, number: int, answer: AnswerAndDraw) -> Sample | None:
    """Give a sample the mask that the policy has drawn before look `number` of an episode.

    The episode ends sooner, at the look where the policy keeps its mask, says that nothing is there or can't be read;
    the group is then about that look. Returns None if there is no mask to look at: the first answer can't be read, or
    has nothing to draw; or its prompt is too long.
    """
    first = await answer(sample)
    if first is None or not first[1]:
        return None
    shown = _at_look(sample, 1, first[1])
    for look in range(2, number + 1):
        said = await answer(shown)
        if said is None or not said[0].corrects:
            break
        shown = _at_look(sample, look, said[1])
    return shown


def _at_look(sample: Sample, number: int, masks: Sequence[RLE]) -> Sample:
    """The sample before a look at these masks; its id tells records of looks from those of the question."""
    return replace(sample, id=f"{sample.id}-look{number}", current_mask=union(masks, sample.size))
