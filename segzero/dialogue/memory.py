"""Memory modes: earlier rounds for the policy as text, as numbered marks in a second image, or as crops in one.

The mode `masks` is for mask models, which take earlier masks as they are.

>>> context = MEMORIES["text"](question, registry, image, policy.frame, rounds=4)            # doctest: +SKIP
>>> context.question                                                                     # doctest: +SKIP
'what is printed on <box>[84, 168, 504, 672]</box>'
>>> context.notes.splitlines()[1]                                                        # doctest: +SKIP
'round 1, "the mug": <box>[84, 168, 504, 672]</box> <point>[294, 420]</point>'

A question without references stands alone, in the same prompt as that of a single question. However long the dialogue,
a prompt has at most two images, the last rounds in full, and one line for each of some older ones.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PIL import Image

from segzero.dialogue.references import Question, Reference, references_in, write_boxes
from segzero.dialogue.registry import Region, Registry, Round
from segzero.errors import UserError, unknown_name
from segzero.frames import Frame, Size
from segzero.masks import Box, Mask, decode, union
from segzero.viz.overlay import MAX_DRAWN, draw_overlay

MASKS = "masks"  # the mode of mask models
RECENT = 4  # rounds that a prompt shows in full
OLDER = 12  # rounds before them that get one line each; still older ones are only counted
LISTED = 12  # regions of one round that are listed one by one
MARGIN = 0.15  # share of a region's sides that a crop shows around it
SMALLEST = 8.0  # pixels of a crop's shorter side
FILLED = 0.97  # share of the space for each of several crops that it fills; the rest is a gap


@dataclass(frozen=True)
class PromptContext:
    """Text and a second image that a memory mode makes of a question and the rounds before it."""

    question: str
    notes: str = ""
    image: Image.Image | None = None
    earlier: tuple[Mask, ...] = ()  # a mask [H, W] for each reference


Memory = Callable[[Question, Registry, Image.Image | None, Frame, int], PromptContext]


def get_memory(name: str) -> Memory:
    """The memory mode with this name."""
    if name == MASKS:
        return as_masks
    if name not in MEMORIES:
        raise unknown_name("memory mode", name, list(MEMORIES))
    return MEMORIES[name]


def as_text(
    question: Question, registry: Registry, image: Image.Image | None, frame: Frame, rounds: int
) -> PromptContext:
    """Write earlier regions as boxes and points, in the numbers that the policy writes itself; no image is needed."""
    if not references_in(question):
        return PromptContext(_words(question, str))
    size = registry.size

    def describe(round: Round) -> str:
        return _listed([_place(region, frame, size) for region in round.regions])

    text = _words(question, lambda reference: write_boxes([r.box for r in reference.regions], frame, size))
    return PromptContext(text, "\n".join(["Earlier in this dialogue:", *_history(registry, rounds, describe)]))


def as_marks(
    question: Question, registry: Registry, image: Image.Image | None, frame: Frame, rounds: int
) -> PromptContext:
    """Draw the regions of the last rounds, and those referred to, with numbers on a second copy of the image."""
    assert image is not None, "this memory shows the image"
    references = references_in(question)
    recent = [region for round in registry.rounds[-rounds:] for region in round.regions]
    wanted = [region for reference in references for region in reference.regions]
    marked = {region.id: region for region in sorted([*wanted, *recent], key=lambda region: region.id)}
    if not wanted:
        return as_text(question, registry, image, frame, rounds)
    if len(marked) > MAX_DRAWN:
        marked = {region.id: region for region in wanted}
        if len(marked) > MAX_DRAWN:
            raise UserError(f"the question refers to {len(marked)} instances; at most {MAX_DRAWN} can be marked")

    def name(reference: Reference) -> str:
        if reference.empty:
            return _nothing(reference)
        numbers = [str(region.id) for region in reference.regions]
        return f"the object{'s' * (len(numbers) > 1)} marked {', '.join(numbers)} in the second image"

    def describe(round: Round) -> str:
        return _listed([f"mark {r.id}" if r.id in marked else "not marked" for r in round.regions])

    # Drawn at the size that the policy sees, so that lines and numbers stay as wide as they are meant to be.
    overlay = draw_overlay(image, [region.instance for region in marked.values()], frame.model_size(image.size))
    notes = [
        "The first image is the one to answer about. The second is the same with earlier findings marked:",
        *_history(registry, rounds, describe),
    ]
    return PromptContext(_words(question, name), "\n".join(notes), overlay)


def as_crops(
    question: Question, registry: Registry, image: Image.Image | None, frame: Frame, rounds: int
) -> PromptContext:
    """Cut out the regions referred to, with a margin, into a second image; several references stand side by side."""
    assert image is not None, "this memory shows the image"
    shown = list(dict.fromkeys(reference for reference in references_in(question) if not reference.empty))
    if not shown:
        return as_text(question, registry, image, frame, rounds)
    crops = [image.crop(_surroundings(reference.regions, image.size)) for reference in shown]
    picture = frame.fit(_side_by_side(crops, image.size))

    def name(reference: Reference) -> str:
        if reference.empty:
            return _nothing(reference)
        part = f"part {shown.index(reference) + 1} of " if len(shown) > 1 else ""
        return f"the object{'s' * (len(reference.regions) > 1)} shown in {part}the second image"

    parts = f", {len(shown)} parts of it from left to right" if len(shown) > 1 else ""
    notes = [
        f"The first image is the one to answer about. The second shows a part of it, enlarged{parts}.",
        *_history(registry, rounds, lambda round: f"{len(round.regions)} found"),
    ]
    return PromptContext(_words(question, name), "\n".join(notes), picture)


def as_masks(
    question: Question, registry: Registry, image: Image.Image | None, frame: Frame, rounds: int
) -> PromptContext:
    """Keep the question's words, and give the mask of all regions of each reference beside them."""
    earlier = [
        decode(union([region.rle for region in reference.regions], registry.size), registry.size)
        for reference in references_in(question)
    ]
    return PromptContext(_words(question, lambda reference: reference.words), earlier=tuple(earlier))


MEMORIES: dict[str, Memory] = {"text": as_text, "marks": as_marks, "crop": as_crops}


def _words(question: Question, name: Callable[[Reference], str]) -> str:
    written = []
    for part in question:
        if isinstance(part, str):
            written.append(part)
        else:
            written.append(name(part) + ("'s" if part.possessive else ""))
    return "".join(written)


def _history(registry: Registry, rounds: int, describe: Callable[[Round], str]) -> list[str]:
    """One line per round: the last ones by `describe`, those before them by their questions, the oldest counted."""
    lines = []
    recent = len(registry.rounds) - rounds
    for round in registry.rounds[max(recent - OLDER, 0) :]:
        if round.state == "unread":
            summary = "no answer"
        elif round.state == "nothing":
            summary = "nothing there"
        else:
            summary = describe(round) if round.number > recent else f"{len(round.regions)} found"
        lines.append(f'round {round.number}, "{_short(round.question)}": {summary}')
    if recent > OLDER:
        lines.insert(0, f"rounds 1 to {recent - OLDER} are left out")
    return lines


def _place(region: Region, frame: Frame, size: Size) -> str:
    points = [f" <point>{json.dumps(frame.to_frame(point, size))}</point>" for point in region.inside[:1]]
    return write_boxes([region.box], frame, size) + "".join(points)


def _listed(items: Sequence[str]) -> str:
    more = [f"and {len(items) - LISTED} more"] if len(items) > LISTED else []
    return ", ".join([*items[:LISTED], *more])


def _short(question: str) -> str:
    text = " ".join(question.split())
    return text if len(text) <= 120 else text[:120] + " ..."


def _nothing(reference: Reference) -> str:
    return f"nothing (round {reference.rounds[0]} found nothing)"


def _surroundings(regions: Sequence[Region], size: Size) -> tuple[int, int, int, int]:
    """The box around the regions with a margin, inside the image and of its aspect: a frame distorts both alike."""
    boxes: list[Box] = [region.box for region in regions]
    low = [min(box[axis] for box in boxes) for axis in (0, 1)]
    high = [max(box[axis + 2] for box in boxes) for axis in (0, 1)]
    needed = [(high[axis] - low[axis]) * (1 + 2 * MARGIN) / size[axis] for axis in (0, 1)]
    share = min(max(*needed, SMALLEST / min(size)), 1.0)  # of the image's sides
    edges: list[tuple[int, int]] = []
    for axis, limit in enumerate(size):
        length = max(round(limit * share), 1)
        start = round(min(max((low[axis] + high[axis] - length) / 2, 0), limit - length))
        edges.append((start, start + length))
    (x0, x1), (y0, y1) = edges
    return x0, y0, x1, y1


def _side_by_side(crops: Sequence[Image.Image], size: Size) -> Image.Image:
    """Place several crops side by side on white, in an image of this size; a single crop stays as it is."""
    if len(crops) == 1:
        return crops[0]
    sheet = Image.new("RGB", size, "white")
    room = size[0] / len(crops)
    width, height = max(round(room * FILLED), 1), max(round(size[1] / len(crops) * FILLED), 1)
    for place, crop in enumerate(crops):
        sheet.paste(crop.resize((width, height)), (round(place * room), (size[1] - height) // 2))
    return sheet
