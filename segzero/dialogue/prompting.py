"""The one way from a question and the rounds before it to what the policy reads.

>>> from segzero.frames import stretch
>>> registry = registry_from_turns(({"question": "the cup", "boxes": [[10, 20, 60, 80]]},), (100, 100))
>>> prompt = build_prompt("what is left of [REF:1]", registry, stretch(840))
>>> prompt.question
'what is left of <box>[84, 168, 504, 672]</box>'
>>> prompt.notes.splitlines()[1]
'round 1, "the cup": <box>[84, 168, 504, 672]</box>'
>>> prompt.boxes.referred, prompt.rounds
(frozenset({(84, 168, 504, 672)}), (1,))
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from PIL import Image

from rewards import PromptBoxes
from rewards.citations import boxes_in
from segzero.answer import Answer
from segzero.dialogue.memory import RECENT, get_memory
from segzero.dialogue.references import read_question, references_in
from segzero.dialogue.registry import Region, Registry, Round
from segzero.errors import UserError
from segzero.frames import Frame, Size
from segzero.masks import RLE, Box, Mask, Point, box_rle, decode, points_of
from segzero.pipeline import Query, in_pixels
from segzero.prompts import REFINE, render_messages
from segzero.sample import Sample


@dataclass(frozen=True)
class PolicyPrompt:
    """A question as the policy reads it, with the boxes that its text contains."""

    question: str
    notes: str = ""  # earlier rounds; empty if the question refers to none
    extra_images: tuple[Image.Image, ...] = ()  # the image once more, marked or enlarged
    earlier: tuple[Mask, ...] = ()  # for a model that takes masks
    boxes: PromptBoxes = field(default_factory=PromptBoxes)  # in the policy's numbers
    rounds: tuple[int, ...] = ()  # that the question refers to
    template: str = ""  # a name in segzero.prompts; empty: the one the policy was trained with
    answer_is_empty: bool = False  # every object it refers to was found to be absent; the policy need not be called

    def query(self, image: Image.Image, on_text: Callable[[str], object] | None = None) -> Query:
        """The query for a pipeline; `on_text` is called while an answer is generated."""
        return Query(image, self.question, self.notes, self.extra_images, on_text, self.earlier)

    def messages(self, prompt: str) -> list[dict]:
        """The chat messages for the policy's template; `prompt` is a name in segzero.prompts."""
        return render_messages(self.question, self.template or prompt, self.notes, images=1 + len(self.extra_images))


def build_prompt(
    question: str,
    registry: Registry,
    frame: Frame,
    *,
    memory: str = "text",
    image: Image.Image | None = None,
    recent: int = RECENT,
    about: int | None = None,
) -> PolicyPrompt:
    """Write a question for the policy, after the rounds of a registry.

    `memory` is how it shows earlier rounds: text, marks or crop, of which the last two need the `image`, or masks;
    `recent` is how many of them it shows in full. `about` is the round that "it" means, if not the last.
    """
    parts = read_question(question, registry, about)
    references = references_in(parts)
    context = get_memory(memory)(parts, registry, image, frame, recent)
    referred = frozenset(
        tuple(frame.to_frame(region.box, registry.size)) for reference in references for region in reference.regions
    )
    return PolicyPrompt(
        question=context.question,
        notes=context.notes,
        extra_images=() if context.image is None else (context.image,),
        earlier=context.earlier,
        boxes=PromptBoxes(referred, boxes_in(f"{context.notes}\n{context.question}") - referred),
        rounds=tuple(dict.fromkeys(number for reference in references for number in reference.rounds)),
        answer_is_empty=bool(references) and all(reference.empty for reference in references),
    )


def sample_prompt(sample: Sample, frame: Frame, registry: Registry | None = None) -> PolicyPrompt:
    """Write a sample's question for the policy, after its true earlier rounds or after those of a `registry`.

    About a mask to judge the question is another one, and the picture shows the mask (segzero.refinement).
    """
    if registry is None:
        registry = registry_from_turns(sample.turns, sample.size)
    prompt = build_prompt(sample.question, registry, frame)
    return prompt if sample.current_mask is None else replace(prompt, template=REFINE)


def registry_from_turns(turns: Sequence[Mapping[str, Any]], size: Size) -> Registry:
    """Build the registry of a sample's earlier rounds; a turn without boxes is a round whose answer was unreadable.

    A turn is {"question", "boxes", and maybe "points" and "masks" for each box}. A box without a mask is its own mask;
    one without points has a point of the mask.
    """
    registry = Registry(size)
    for number, turn in enumerate(turns, 1):
        try:
            registry = registry.add(_round(registry, number, turn))
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError):
            raise UserError(
                f"its round {number} can't be read: a turn has a question, and boxes of four numbers"
            ) from None
    return registry


def add_answer(registry: Registry, question: str, answer: Answer, frame: Frame) -> Registry:
    """Add a round with the policy's own answer, whose boxes stand for the masks that nobody has drawn."""
    number, size = len(registry.rounds) + 1, registry.size
    if answer.error is not None:
        return registry.add(Round(number, question, error=answer.error))
    placed = [in_pixels(instance, frame, size) for instance in answer.instances]
    regions = _regions(registry, question, [box for box, _ in placed], [points for _, points in placed])
    return registry.add(Round(number, question, regions, think=answer.think))


def _round(registry: Registry, number: int, turn: Mapping[str, Any]) -> Round:
    question, boxes = str(turn["question"]), turn.get("boxes")
    if boxes is None:
        return Round(number, question, error="no_answer")
    boxes = [_box(box) for box in boxes]
    masks = list(turn.get("masks") or [None] * len(boxes))
    given = turn.get("points") or [()] * len(boxes)
    points = [
        tuple(_point(point) for point in each) or (points_of(decode(rle, registry.size)) if rle else ())
        for each, rle in zip(given, masks, strict=True)
    ]
    return Round(number, question, _regions(registry, question, boxes, points, masks))


def _regions(
    registry: Registry,
    question: str,
    boxes: Sequence[Box],
    points: Sequence[tuple[Point, ...]],
    masks: Sequence[RLE | None] | None = None,
) -> tuple[Region, ...]:
    first, round = len(registry.regions) + 1, len(registry.rounds) + 1
    masks = masks or [None] * len(boxes)
    return tuple(
        Region(
            first + place,
            round,
            question,
            box,
            inside,
            (1,) * len(inside),
            rle or box_rle(box, registry.size),
            0.0,
        )
        for place, (box, inside, rle) in enumerate(zip(boxes, points, masks, strict=True))
    )


def _box(values: Sequence[float]) -> Box:
    x0, y0, x1, y1 = (_checked(value) for value in values)
    return x0, y0, x1, y1


def _point(values: Sequence[float]) -> Point:
    x, y = (_checked(value) for value in values)
    return x, y


def _checked(value: float) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError("a number is not finite")
    return number
