"""Phrases as prompts: the protocol of segmenters that read text, and what they predict.

>>> segmenter = load_segmenter("facebook/sam3")                                              # doctest: +SKIP
>>> embeddings = segmenter.embed([image])                                                    # doctest: +SKIP
>>> [[cups, dogs]] = segmenter.find(embeddings, [[PhrasePrompt("cup"), PhrasePrompt("dog")]])  # doctest: +SKIP
>>> cups.masks.shape, cups.scores, dogs.presence                                             # doctest: +SKIP
((2, 480, 640), array([0.91, 0.84], dtype=float32), 0.02)
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeGuard

import numpy as np
from numpy.typing import NDArray

from segzero.answer import MAX_PHRASE, MAX_PHRASES
from segzero.errors import UserError
from segzero.masks import Box, box_iou
from segzero.prompts import normalise
from segzero.segmenter.protocol import Embeddings, Logits, MaskPrompt, Segmenter, enlarge

BOX_THRESHOLD = 0.30  # score of an instance
TEXT_THRESHOLD = 0.25  # presence of a phrase
MAX_EXEMPLARS = 16  # boxes of one phrase
SAME = 0.5  # IoU from which on a box and an instance are the same object


@dataclass(frozen=True)
class PhrasePrompt:
    """A noun phrase, all instances of which are wanted; boxes may show what is meant and what is not.

    >>> PhrasePrompt("cup", boxes=((10, 20, 60, 80), (90, 20, 120, 60)), labels=(1, 0)).labels  # not like the second
    (1, 0)
    """

    text: str
    boxes: tuple[Box, ...] = ()  # x0, y0, x1, y1 of exemplars, in pixels of the image
    labels: tuple[int, ...] = ()  # 1 like this, 0 unlike this, one for each box; without labels all are 1

    @property
    def box_labels(self) -> tuple[int, ...]:
        """A label for each box."""
        return self.labels or (1,) * len(self.boxes)


@dataclass(frozen=True, eq=False)
class PhrasePrediction:
    """Instances of one phrase in one image, best first."""

    presence: float  # 0 to 1, how surely the phrase is in the picture at all
    logits: Logits  # [N, h, w], above 0 inside, at the model's coarse resolution
    scores: NDArray[np.float32]  # [N], 0 to 1
    boxes: NDArray[np.float32]  # [N, 4] x0, y0, x1, y1 in pixels of the image
    size: tuple[int, int]  # width, height of the image

    @property
    def masks(self) -> NDArray[np.bool_]:
        """Masks [N, H, W] at the image's size; computed at each access."""
        if not len(self.logits):
            return np.zeros((0, self.size[1], self.size[0]), bool)
        return enlarge(self.logits, self.size)


class TextSegmenter(Segmenter, Protocol):
    """A segmenter that reads phrases too: SAM3."""

    def find(
        self, embeddings: Embeddings, phrases: Sequence[Sequence[PhrasePrompt]], threshold: float = BOX_THRESHOLD
    ) -> list[list[PhrasePrediction]]:
        """Find the instances of each phrase of each image whose score is at least `threshold`.

        Only as much of a phrase is read as the model has places for: SAM3 for 30 tokens.
        """
        ...


def reads_text(segmenter: Segmenter) -> TypeGuard[TextSegmenter]:
    """True for a segmenter that can be asked for phrases."""
    return segmenter.reads_text


@dataclass(frozen=True, eq=False)
class DrawnPhrase:
    """One mask drawn for a phrase, and where."""

    logits: Logits  # [h, w], above 0 inside
    box: Box  # in pixels of the image
    score: float


def draw_phrases(segmenter: Segmenter, image: Embeddings, prompts: Sequence[PhrasePrompt]) -> list[DrawnPhrase]:
    """Draw the objects of an answer about one image: phrases, each with the one box of what is meant, or none.

    A segmenter that reads text draws all instances of a phrase. Where each mention of a phrase has a box, these are
    its exemplars, and of the instances only the nearest to each is kept; a box to which none belongs (IoU below
    one half) is drawn as it is. A segmenter that reads none draws in the boxes, and nothing for a phrase alone.
    """
    if not reads_text(segmenter):
        return _draw_boxes(segmenter, image, [box for prompt in prompts for box in prompt.boxes])
    by_text: dict[str, list[PhrasePrompt]] = defaultdict(list)
    for prompt in prompts:
        by_text[prompt.text].append(prompt)
    chosen = {
        text: tuple(box for each in listed for box in each.boxes) if all(each.boxes for each in listed) else ()
        for text, listed in by_text.items()
    }
    asked = [PhrasePrompt(text, boxes[:MAX_EXEMPLARS]) for text, boxes in chosen.items()]
    drawn: list[DrawnPhrase] = []
    boxes_left: list[Box] = []
    for found, boxes in zip(segmenter.find(image, [asked])[0], chosen.values(), strict=True):
        every = range(len(found.scores)) if found.presence >= TEXT_THRESHOLD else range(0)
        places = nearest_instances(found.boxes[: len(every)], boxes) if boxes else list(every)
        boxes_left += [box for box, place in zip(boxes, places, strict=True) if place is None] if boxes else []
        for place in places:
            if place is not None:
                x0, y0, x1, y1 = found.boxes[place].tolist()
                drawn.append(DrawnPhrase(found.logits[place], (x0, y0, x1, y1), float(found.scores[place])))
    return drawn + _draw_boxes(segmenter, image, boxes_left)


def nearest_instances(found: NDArray[np.float32], boxes: Sequence[Box]) -> list[int | None]:
    """For each box the found one that overlaps it most, each at most once; None where none overlaps by half."""
    if not len(found):
        return [None] * len(boxes)
    overlap = np.asarray(box_iou(np.array(boxes), found))  # [boxes, found]
    places: list[int | None] = []
    for row in overlap:
        place = int(row.argmax())
        places.append(place if row[place] >= SAME else None)
        if row[place] >= SAME:
            overlap[:, place] = 0.0
    return places


def _draw_boxes(segmenter: Segmenter, image: Embeddings, boxes: Sequence[Box]) -> list[DrawnPhrase]:
    """Masks in boxes."""
    if not boxes:
        return []
    [predictions] = segmenter.decode(image, [[MaskPrompt(box) for box in boxes]])
    return [DrawnPhrase(one.logits[0], box, float(one.scores[0])) for one, box in zip(predictions, boxes, strict=True)]


def check_phrases(phrases: Sequence[str]) -> list[str]:
    """Normalise the phrases that a person asks for; refuse none, too many, empty and overlong ones.

    >>> check_phrases(["  A red\\n Cup. "])
    ['a red cup']
    """
    if not phrases:
        raise UserError("no phrase is given; say what to look for, e.g. 'red cup'")
    if len(phrases) > MAX_PHRASES:
        raise UserError(f"{len(phrases)} phrases; at most {MAX_PHRASES} can be asked of an image at once")
    return [check_phrase(phrase) for phrase in phrases]


def check_phrase(phrase: str) -> str:
    """Normalise a phrase; refuse an empty or an overlong one."""
    if not phrase.strip(" \t\r\n.?!"):
        raise UserError("a phrase is empty; say what to look for, e.g. 'red cup'")
    if len(phrase) > MAX_PHRASE:
        raise UserError(f"the phrase '{phrase[:20]}...' has {len(phrase)} characters; at most {MAX_PHRASE} are read")
    return normalise(phrase)


def check_threshold(name: str, value: float) -> None:
    """Refuse a threshold that is not a number from 0 to 1."""
    if not (math.isfinite(value) and 0 <= value <= 1):
        raise UserError(f"the {name} threshold is {value:g}; give a number from 0 to 1")


def check_exemplars(prompt: PhrasePrompt, size: tuple[int, int]) -> None:
    """Refuse exemplar boxes for which SAM3 would silently return nonsense."""
    width, height = size
    if len(prompt.boxes) > MAX_EXEMPLARS:
        raise UserError(f"{len(prompt.boxes)} boxes beside a phrase; at most {MAX_EXEMPLARS} are read")
    if len(prompt.labels) not in (0, len(prompt.boxes)) or not set(prompt.labels) <= {0, 1}:
        raise UserError(f"{len(prompt.boxes)} boxes with labels {list(prompt.labels)}; give 1 or 0 for each, or none")
    for x0, y0, x1, y1 in prompt.boxes:
        if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
            raise UserError(
                f"the box {x0:g},{y0:g},{x1:g},{y1:g} is not x0,y0,x1,y1 inside the image of {width}x{height} pixels"
            )
