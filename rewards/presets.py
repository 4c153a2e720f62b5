"""The rubrics that have a name, and `score`, the door to them."""

from collections.abc import Sequence
from functools import partial

from numpy.typing import NDArray

from rewards import object_terms as objects
from rewards import published
from rewards.case import PromptBoxes, Truth, read_case
from rewards.citations import cites
from rewards.rubric import Reward, Rubric, Term
from rewards.text_terms import fresh_thinking, non_repetition, thinking_format
from segzero.errors import unknown_name
from segzero.frames import Frame, Size
from segzero.masks import RLE


def _seg_zero(strict: bool) -> Rubric:
    return Rubric((
        Term("thinking", thinking_format),
        Term("format", published.strict_format if strict else published.loose_format),
        Term("box_iou", partial(published.one_box_iou, strict=strict)),
        Term("box_l1", partial(published.one_box_near, strict=strict)),
        Term("points", partial(published.two_points_near, strict=strict)),
    ))  # fmt: skip


_MASK = (
    Term("thinking", thinking_format),
    Term("format", objects.clean_answer),
    Term("mask_iou", objects.drawn_mask_iou, weight=3.0),
    Term("count", objects.count_ratio),
    Term("presence", objects.presence),
    Term("non_repetition", fresh_thinking),
)

PRESETS: dict[str, Rubric] = {
    "seg_zero": _seg_zero(strict=False),
    "seg_zero_strict": _seg_zero(strict=True),
    "vision_reasoner": Rubric((
        Term("thinking", thinking_format),
        Term("format", published.objects_format, high=2.0),
        Term("accuracy", published.objects_accuracy, high=3.0),
        Term("non_repetition", non_repetition),
    )),
    "soft": Rubric((
        Term("thinking", thinking_format),
        Term("format", objects.clean_answer),
        Term("box_iou", objects.box_iou_mean),
        Term("box_l1", objects.box_closeness),
        Term("points", objects.points_closeness),
        Term("presence", objects.presence),
        Term("non_repetition", fresh_thinking),
    )),
    "mask": Rubric(_MASK),
    "dialogue": Rubric((*_MASK, Term("cites", cites))),
}  # fmt: skip

NEEDS_MASKS = ("mask", "dialogue")  # presets with a term about what the segmenter draws
RANK_NORMALIZED = {"soft": ("box_iou", "box_l1", "points")}  # the terms that training passes through QuantileRanks


def get_rubric(preset: str) -> Rubric:
    """The rubric of that name.

    >>> get_rubric("vision_reasoner").highest
    7.0
    """
    if preset not in PRESETS:
        raise unknown_name("reward preset", preset, list(PRESETS))
    return PRESETS[preset]


def score(
    preset: str,
    response: str,
    truth: Truth,
    size: Size | None = None,
    frame: Frame | None = None,
    format: str = "multi",
    masks: Sequence[RLE | NDArray] | None = None,
    prompt_boxes: PromptBoxes | None = None,
) -> Reward:
    """What a response earns under a preset; `read_case` says what the arguments are.

    >>> truth = '[{"bbox_2d": [10,100,200,210], "point_2d": [30,110]}]'
    >>> score("vision_reasoner", f"<think>a mug</think><answer>{truth}</answer>", truth)
    Reward(total=7.0, terms={'thinking': 1.0, 'format': 2.0, 'accuracy': 3.0, 'non_repetition': 1.0})
    """
    return get_rubric(preset).score(
        read_case(response, truth, size, frame, format, masks=masks, prompt_boxes=prompt_boxes)
    )
