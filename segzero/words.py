"""Masks of phrases in one image, with two thresholds: by SAM3, or by a policy that finds boxes and SAM2 that draws.

>>> pipeline = SegZeroPipeline.from_pretrained(segmenter="facebook/sam3")                     # doctest: +SKIP
>>> cups, dogs = find_words(pipeline, image, ["red cup", "dog"], box_threshold=0.4)           # doctest: +SKIP
>>> [instance.score for instance in cups], dogs.presence                                      # doctest: +SKIP
([0.91, 0.84], 0.02)

| | SAM3 | policy and SAM2 |
|---|---|---|
| box threshold | the detector's score of an instance, times the presence | the IoU that SAM2 expects of its mask |
| text threshold | the detector's presence of the phrase | the probability that the policy gives to naming any object |
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from PIL import Image

from segzero.errors import UserError
from segzero.masks import Box
from segzero.pipeline import Pipeline, Query, SegZeroPipeline
from segzero.result import InstanceMask, Segmentation
from segzero.segmenter.words import (
    BOX_THRESHOLD,
    TEXT_THRESHOLD,
    PhrasePrediction,
    PhrasePrompt,
    TextSegmenter,
    check_phrases,
    check_threshold,
    reads_text,
)

MOST_PIXELS = 1 << 31  # of all masks of an image: 2 GiB


@dataclass(frozen=True)
class Thresholds:
    """Lowest values of what is kept, an instance and a phrase, each from 0 to 1."""

    box: float = BOX_THRESHOLD  # score of an instance
    text: float = TEXT_THRESHOLD  # how surely the phrase is in the picture

    def __post_init__(self) -> None:
        check_threshold("box", self.box)
        check_threshold("text", self.text)


def find_words(
    pipeline: Pipeline,
    image: Image.Image,
    phrases: Sequence[str],
    box_threshold: float = BOX_THRESHOLD,
    text_threshold: float = TEXT_THRESHOLD,
    exemplars: Sequence[tuple[Box, int]] = (),
    most_pixels: int = MOST_PIXELS,
) -> list[Segmentation]:
    """Find all instances of each phrase; the results come in the order of the phrases, and say their `presence`.

    `exemplars` are boxes in pixels that show what is meant (1) or not (0), for every phrase; SAM3 alone reads them.
    More masks than `most_pixels` together are refused before they are enlarged.
    """
    thresholds = Thresholds(box_threshold, text_threshold)
    if pipeline.segmenter is not None and reads_text(pipeline.segmenter):
        return find_phrases(pipeline.segmenter, image, phrases, thresholds, exemplars, most_pixels)
    if not isinstance(pipeline, SegZeroPipeline):
        raise UserError(
            "a mask model draws one mask for a question, without scores of phrases; "
            "take a policy with SAM2, or a whole SAM3 as the segmenter"
        )
    if exemplars:
        raise UserError(f"boxes beside phrases are for SAM3; {pipeline.segmenter.name} reads no text")
    return ask_phrases(pipeline, image, phrases, thresholds)


def find_phrases(
    segmenter: TextSegmenter,
    image: Image.Image,
    phrases: Sequence[str],
    thresholds: Thresholds = Thresholds(),
    exemplars: Sequence[tuple[Box, int]] = (),
    most_pixels: int = MOST_PIXELS,
) -> list[Segmentation]:
    """Find phrases with a segmenter that reads text; the image is encoded once."""
    boxes, labels = tuple(box for box, _ in exemplars), tuple(label for _, label in exemplars)
    prompts = [PhrasePrompt(phrase, boxes, labels) for phrase in check_phrases(phrases)]
    begin = time.perf_counter()
    [found] = segmenter.find(segmenter.embed([image]), [prompts], thresholds.box)
    seconds = (time.perf_counter() - begin) / len(prompts)
    count = sum(len(one.scores) for one in found if one.presence >= thresholds.text)
    if count * image.width * image.height > most_pixels:
        masks = f"{count} masks of {image.width}x{image.height} pixels"
        raise UserError(f"{masks} are left, too many; raise the box threshold, or ask for fewer phrases at once")
    return [
        Segmentation(
            image,
            phrase,
            instances_of(one) if one.presence >= thresholds.text else (),
            timings={"segmenter": seconds},
            presence=one.presence,
        )
        for phrase, one in zip(phrases, found, strict=True)
    ]


def instances_of(found: PhrasePrediction) -> tuple[InstanceMask, ...]:
    """Instances of a phrase, best first, with the detector's boxes."""
    rows = zip(found.masks, found.boxes.tolist(), found.scores.tolist(), strict=True)
    return tuple(InstanceMask(mask, (x0, y0, x1, y1), (), score) for mask, (x0, y0, x1, y1), score in rows)


def ask_phrases(
    pipeline: SegZeroPipeline, image: Image.Image, phrases: Sequence[str], thresholds: Thresholds = Thresholds()
) -> list[Segmentation]:
    """Find phrases with a policy, which is asked for each in turn, and a segmenter that draws in its boxes.

    Where the policy can't say its probabilities, the best mask's expected IoU stands for the presence.
    """
    pipeline.fits(image)
    queries = [Query(image, phrase, wants_presence=True) for phrase in check_phrases(phrases)]
    results = pipeline.draw(pipeline.ask(queries))
    return [_above(replace(result, question=each), thresholds) for result, each in zip(results, phrases, strict=True)]


def _above(result: Segmentation, thresholds: Thresholds) -> Segmentation:
    """A result without what lies below the thresholds; one that could not be read stays as it is."""
    if result.error is not None:
        return result
    presence = result.presence
    if presence is None:
        presence = max((instance.score for instance in result), default=0.0)
    kept = result.filter(thresholds.box) if presence >= thresholds.text else replace(result, instances=())
    return replace(kept, presence=presence)
