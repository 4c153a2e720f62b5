"""Rubrics by name, and `score`, which scores a response with one of them."""

from collections.abc import Sequence
from functools import partial

from rewards import object_terms as objects
from rewards import published
from rewards import successors as later
from rewards.case import AnyMask, PromptBoxes, Truth, read_case
from rewards.citations import cites
from rewards.custom import CustomReward, load_reward
from rewards.refinement import decision, gain
from rewards.rubric import Reward, Rubric, Term
from rewards.search.reward import CandidateReward
from rewards.text_terms import fresh_thinking, length_bounds, non_repetition, thinking_format
from segzero.errors import unknown_name
from segzero.frames import Frame, Size


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
    Term("mask_iou", objects.predicted_mask_iou, weight=3.0, needs_masks=True),
    Term("count", objects.count_ratio),
    Term("presence", objects.presence),
    Term("non_repetition", fresh_thinking),
)

BRIEF = 60  # words of a think-chain, from which on it earns less for its length

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
        Term("box_iou", objects.box_iou_mean, rank_normalized=True),
        Term("box_l1", objects.box_closeness, rank_normalized=True),
        Term("points", objects.points_closeness, rank_normalized=True),
        Term("presence", objects.presence),
        Term("non_repetition", fresh_thinking),
    )),
    "phrase": Rubric((
        Term("thinking", thinking_format),
        Term("format", objects.clean_answer),
        Term("box_iou", objects.box_iou_mean),
        Term("presence", objects.presence),
        Term("non_repetition", fresh_thinking),
    )),
    "mask": Rubric(_MASK),
    "refine": Rubric((
        Term("thinking", thinking_format),
        Term("format", objects.clean_answer),
        Term("decision", decision, needs_masks=True),
        Term("gain", gain, weight=3.0, needs_masks=True),
        Term("non_repetition", fresh_thinking),
    )),
    "dr2seg": Rubric((
        *_MASK,
        Term("self_contained", objects.self_contained, needs_masks=True, needs_retelling=True),
        Term("brevity", length_bounds(0, BRIEF)),
    )),
    "dialogue": Rubric((*_MASK, Term("cites", cites))),
    "dr_seg": Rubric((
        Term("thinking", thinking_format),
        Term("format", later.objects_or_nothing_format, high=2.0),
        Term("box_iou", later.matched_box_iou, rank_normalized=True),
        Term("count", later.plain_count_ratio, rank_normalized=True),
        Term("points", later.matched_points, rank_normalized=True),
        Term("non_repetition", non_repetition),
    )),
    "star": Rubric((
        Term("thinking", thinking_format),
        Term("format", later.objects_or_nothing_format, high=2.0),
        Term("accuracy", later.graded_objects, high=later.MOST_GRADED, needs_masks=True),
        Term("non_repetition", non_repetition),
    )),
    "swim": Rubric((
        Term("mask_iou", objects.predicted_mask_iou, weight=2.0, needs_masks=True),
        Term("format", later.whole_format),
        Term("non_repetition", non_repetition),
    )),
    "genseg_r1": Rubric((
        Term("thinking", thinking_format),
        Term("format", objects.clean_answer),
        Term("mask_iou", objects.predicted_mask_iou, needs_masks=True),
        Term("presence", objects.presence),
    )),
    "lens": Rubric((
        Term("format", later.whole_format),
        Term("box_iou", objects.box_iou_squared),
        Term("mask_iou", later.mask_iou_squared, needs_masks=True),
    )),
}  # fmt: skip


def get_rubric(preset: str) -> Rubric:
    """Look up a rubric by its name.

    >>> get_rubric("vision_reasoner").highest
    7.0
    """
    if preset not in PRESETS:
        raise unknown_name("reward preset", preset, list(PRESETS))
    return PRESETS[preset]


def find_reward(name: str) -> Rubric | CustomReward | CandidateReward:
    """Find a reward by its name: a preset's, the dotted path of a function, or the path of a candidate's file.

    >>> find_reward("mask").needs_masks
    True
    """
    return load_reward(name) if "." in name else get_rubric(name)


def score(
    preset: str,
    response: str,
    truth: Truth,
    size: Size | None = None,
    frame: Frame | None = None,
    format: str = "multi",
    masks: Sequence[AnyMask] | None = None,
    prompt_boxes: PromptBoxes | None = None,
) -> Reward:
    """Score a response with a preset, or another name that `find_reward` knows.

    `read_case` and `CaseOptions` describe the arguments.

    >>> truth = '[{"bbox_2d": [10,100,200,210], "point_2d": [30,110]}]'
    >>> score("vision_reasoner", f"<think>a mug</think><answer>{truth}</answer>", truth)
    Reward(total=7.0, terms={'thinking': 1.0, 'format': 2.0, 'accuracy': 3.0, 'non_repetition': 1.0})
    """
    case = read_case(response, truth, size, masks=masks, frame=frame, format=format, prompt_boxes=prompt_boxes)
    return find_reward(preset).score(case)
