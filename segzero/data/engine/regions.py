"""Stages that find the regions of an image: caption, boxes, masks, everything, refinement, verdicts.

Masks have the image's own size from the first stage on; pictures for the model are made smaller.
"""

import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from segzero.data.engine.pictures import lit, shown
from segzero.data.engine.records import (
    ACCEPT,
    FAILED,
    INITIAL,
    NEITHER,
    REFINED,
    REJECT,
    AcceptedRegion,
    Box,
    BoxedRegion,
    JudgedRegion,
    NamedRegion,
    PoolMask,
    Refinement,
    RegionMask,
    Verdict,
)
from segzero.data.engine.settings import EngineSettings
from segzero.data.engine.vlm import Malformed, NoAnswer, PictureQuestion, ShownPicture, VisionModel, clean, field_of
from segzero.frames import clip_box
from segzero.masks import area, box_of_rle, decode, encode, iou_matrix
from segzero.segmenter.protocol import Embeddings, MaskPrompt, Segmenter

MOST_BOXES = 20  # of a label
LABEL_WORDS, LABEL_LETTERS = 15, 120
REASON_LETTERS = 300
SAME = 0.95  # IoU from which two masks are the same: there is nothing to choose
TWICE = 0.85  # IoU from which two regions are one thing

_DRAWING = threading.Lock()  # a segmenter is for one thread at a time


@dataclass(eq=False)
class ImageWork:
    """One image, the models that look at it, and the keys of the calls it needed."""

    image: Image.Image
    model: VisionModel
    segmenter: Segmenter
    used: list[str] = field(default_factory=list)
    _embeddings: Embeddings | None = None
    _own: ShownPicture | None = None

    @property
    def settings(self) -> EngineSettings:
        """The engine's settings."""
        return self.model.settings

    def view(self, picture: Image.Image) -> Image.Image:
        """A picture as the model sees it."""
        return shown(picture, self.settings.longest, self.settings.box_frame)

    def ask(
        self, stage: str, text: str, *pictures: Image.Image | ShownPicture, read: Callable[[Any], Any], vote: int = 0
    ) -> Any:
        """Ask the model about the image and other pictures; a NoAnswer if it gives none that can be read."""
        shown = tuple(one if isinstance(one, ShownPicture) else self.show(one) for one in pictures)
        return self.model.ask(PictureQuestion(stage, text, shown, vote), read, self.used)

    def show(self, picture: Image.Image) -> ShownPicture:
        """Encode a picture as the model sees it."""
        return ShownPicture.of(self.view(picture))

    @property
    def own(self) -> ShownPicture:
        """The image itself as the model sees it, encoded once."""
        if self._own is None:
            self._own = self.show(self.image)
        return self._own

    def embeddings(self) -> Embeddings:
        """The image, encoded once; the segmenter must be locked."""
        if self._embeddings is None:
            self._embeddings = self.segmenter.embed([self.image])
        return self._embeddings


def find_regions(work: ImageWork) -> list[NamedRegion]:
    """Let the model name the things in the image, each so that it can be told from all others."""
    most = work.settings.regions
    text = (
        f"Look over the whole picture and choose the {min(5, most)} to {most} things in it that stand out most, large "
        "enough to be outlined. Name each in at most 15 words: its kind, its look, where it is, and what it is next to "
        "or belongs to, so that the name fits nothing else in the picture.\n"
        'Answer {"regions": ["<name>", ...]}.'
    )

    def read(answer: Any) -> list[str]:
        names = [clean(name, LABEL_LETTERS, LABEL_WORDS) for name in _texts(answer, "regions")]
        names = [name for name in dict.fromkeys(names) if name]
        if not names:
            raise Malformed("no regions")
        return names[:most]

    return [NamedRegion(i, label) for i, label in enumerate(work.ask("caption", text, work.own, read=read))]


def find_boxes(work: ImageWork, regions: Sequence[NamedRegion]) -> list[BoxedRegion]:
    """Ask for the boxes of each label; a region may have none."""
    frame = work.settings.box_frame
    size = work.own.size
    wide, high = frame.extent(size)

    def read(answer: Any) -> tuple[Box, ...]:
        boxes = field_of(answer, "boxes", list)
        if len(boxes) > MOST_BOXES:
            raise Malformed(f"more than {MOST_BOXES} boxes")
        return tuple(_pixels(box, work, size) for box in boxes)

    found = []
    for region in regions:
        text = (
            f"Find everything in the picture that this name fits: {json.dumps(region.label)}\n"
            f"Coordinates run from 0 to {wide} to the right and from 0 to {high} downwards.\n"
            'Answer {"boxes": [[x0, y0, x1, y1], ...]}, a tight box for each thing, or {"boxes": []} if there is none.'
        )
        try:
            found.append(BoxedRegion(region.index, region.label, work.ask("boxes", text, work.own, read=read)))
        except NoAnswer as error:
            found.append(BoxedRegion(region.index, region.label, (), str(error)))
    return found


def _pixels(box: Any, work: ImageWork, size: tuple[int, int]) -> Box:
    """The model's box in pixels of the original image; it must have an area there."""
    if not isinstance(box, list) or len(box) != 4 or not all(_is_number(v) for v in box):
        raise Malformed("a box is not four numbers")
    width, height = work.image.size
    seen = work.settings.box_frame.to_pixels(box, size)
    scale = width / size[0], height / size[1]
    x0, y0, x1, y1 = clip_box([v * scale[i % 2] for i, v in enumerate(seen)], (width, height))
    if x1 - x0 < 1 or y1 - y0 < 1:
        raise Malformed("a box has no area in the picture")
    return x0, y0, x1, y1


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e6


def draw_masks(work: ImageWork, boxed: Sequence[BoxedRegion]) -> list[RegionMask]:
    """Let the segmenter draw a mask in each box; a region's mask is the union of those in its boxes."""
    prompts = [MaskPrompt(box=box) for region in boxed for box in region.boxes]
    if not prompts:
        return []
    with _DRAWING:
        [predictions] = work.segmenter.decode(work.embeddings(), [prompts])
    drawn = iter(predictions)
    masks = []
    for region in boxed:
        own = [next(drawn) for _ in region.boxes]
        if own:
            together = np.any([prediction.masks[0] for prediction in own], axis=0)
            if together.any():
                score = float(np.nan_to_num(np.mean([prediction.scores[0] for prediction in own])))
                masks.append(RegionMask(region.index, encode(together), score))
    return masks


def find_pool(work: ImageWork) -> list[PoolMask]:
    """Find the masks of everything in the image, those of small things left out."""
    from segzero.segmenter.everything import EverythingSettings, find_everything

    least = work.settings.min_area * work.image.width * work.image.height
    wanted = EverythingSettings(points_per_side=work.settings.points_per_side, min_area=0)
    with _DRAWING:
        found = find_everything(work.segmenter, work.image, wanted, work.embeddings())
    return [PoolMask(one.rle, float(one.score), float(one.stability)) for one in found if one.area >= least]


def refine(work: ImageWork, masks: Sequence[RegionMask], pool: Sequence[PoolMask]) -> list[Refinement]:
    """Give each region the mask of everything that overlaps its own most, the best pairs first, each mask once."""
    overlap = iou_matrix([one.rle for one in masks], [one.rle for one in pool])
    pairs = sorted(np.argwhere(overlap >= work.settings.pool_iou).tolist(), key=lambda pair: -overlap[pair[0], pair[1]])
    chosen: dict[int, Refinement] = {}
    taken: set[int] = set()
    for row, column in pairs:
        if row not in chosen and column not in taken:
            taken.add(column)
            iou = round(float(overlap[row, column]), 4)
            chosen[row] = Refinement(masks[row].index, column, iou, pool[column].rle)
    return [chosen[row] for row in sorted(chosen)]


def judge_regions(
    work: ImageWork, regions: Sequence[NamedRegion], masks: Sequence[RegionMask], refinements: Sequence[Refinement]
) -> list[JudgedRegion]:
    """Have each mask verified, refined ones as the first, and the better of two accepted ones chosen."""
    labels = {region.index: region.label for region in regions}
    refined = {one.index: one for one in refinements if one.iou < SAME}
    judged = []
    for mask in masks:
        label, other = labels[mask.index], refined.get(mask.index)
        first = _judge_mask(work, label, mask.rle)
        second = _judge_mask(work, label, other.rle) if other else None
        accepted = [first.verdict == ACCEPT, second is not None and second.verdict == ACCEPT]
        if all(accepted) and other is not None:
            output = _choose(work, label, mask, other)
        else:
            output = INITIAL if accepted[0] else REFINED if accepted[1] else NEITHER
        judged.append(JudgedRegion(mask.index, first, second, output))
    return judged


def _judge_mask(work: ImageWork, label: str, rle: Any) -> Verdict:
    """Ask whether a mask is the thing of that name."""
    text = (
        "The second picture is the first one, darkened everywhere but inside a mask; the green frame is around it.\n"
        f"Is the mask the whole of this, and nothing besides: {json.dumps(label)}? Small faults along the edge do not "
        "count; a missing part, a part of another thing, or another thing do.\n"
        'Answer {"accept": true or false, "reason": "<short>", "description": "<what the mask shows, short>"}.'
    )
    picture = lit(work.image, decode(rle), box_of_rle(rle))
    return vote(work, "verify region", text, picture)


def vote(work: ImageWork, stage: str, text: str, picture: Image.Image) -> Verdict:
    """Ask for a verdict as often as the settings say; of the answers that can be read, the majority decides."""

    def read(answer: Any) -> tuple[bool, str, str]:
        accept = field_of(answer, "accept", bool)
        reason = clean(field_of(answer, "reason", str), REASON_LETTERS)
        described = answer.get("description")
        return accept, reason, clean(described, LABEL_LETTERS) if isinstance(described, str) else ""

    answers, problem, shown = [], "", work.show(picture)
    for number in range(work.settings.votes):
        try:
            answers.append(work.ask(stage, text, work.own, shown, read=read, vote=number))
        except NoAnswer as error:
            problem = str(error)
    if 2 * len(answers) <= work.settings.votes:
        return Verdict(FAILED, problem, len(answers), 0)
    ayes = sum(accept for accept, _, _ in answers)
    decision = 2 * ayes > len(answers)
    agreeing = ayes if decision else len(answers) - ayes
    _, reason, description = next(answer for answer in answers if answer[0] == decision)
    return Verdict(ACCEPT if decision else REJECT, reason, len(answers), agreeing, description)


def _choose(work: ImageWork, label: str, mask: RegionMask, other: Refinement) -> str:
    """Ask which of two accepted masks is better; without an answer it is the first."""
    text = (
        "The second and the third picture are the first one, each darkened everywhere but inside a mask. Which of the "
        f"two masks follows the outline of this more exactly: {json.dumps(label)}?\n"
        'Answer {"better": "second" or "third"}.'
    )

    def read(answer: Any) -> str:
        better = field_of(answer, "better", str).strip().lower()
        if better not in ("second", "third"):
            raise Malformed("neither second nor third")
        return INITIAL if better == "second" else REFINED

    try:
        pictures = (lit(work.image, decode(one)) for one in (mask.rle, other.rle))
        output: str = work.ask("choose mask", text, work.own, *pictures, read=read)
        return output
    except NoAnswer:
        return INITIAL


def accept_regions(
    regions: Sequence[NamedRegion],
    masks: Sequence[RegionMask],
    refinements: Sequence[Refinement],
    judged: Sequence[JudgedRegion],
) -> list[AcceptedRegion]:
    """Number the regions with an accepted mask; of two that are one thing, the first stays."""
    labels = {region.index: region.label for region in regions}
    own, refined = {one.index: one.rle for one in masks}, {one.index: one.rle for one in refinements}
    accepted: list[AcceptedRegion] = []
    for one in judged:
        if one.output == NEITHER:
            continue
        rle = refined[one.index] if one.output == REFINED else own[one.index]
        box = box_of_rle(rle)
        if box is None or not area(rle) or any(iou_matrix([rle], [other.rle])[0, 0] >= TWICE for other in accepted):
            continue
        verdict = one.refined if one.output == REFINED and one.refined else one.initial
        accepted.append(AcceptedRegion(len(accepted), one.index, labels[one.index], verdict.description, box, rle))
    return accepted


def _texts(answer: Any, name: str) -> list[str]:
    """A field of an answer that is a list of texts."""
    values = field_of(answer, name, list)
    if not all(isinstance(value, str) for value in values):
        raise Malformed(f"{name} are not texts")
    return values
