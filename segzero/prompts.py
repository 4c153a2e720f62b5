"""Prompts: templates that turn a question into the messages a policy reads.

The sentences of `seg_zero` and `vision_reasoner` are those that the released checkpoints were trained with, down to
the missing spaces between sentences. `multi` is ours: it also says how to answer "nothing there"; `phrase` too asks for
words that SAM3 reads. `refine` asks about a mask that the image shows (`segzero.refinement`).

>>> render_text("The mug left of the laptop.", "multi").splitlines()[0][:40]
'Please find "the mug left of the laptop"'
"""

from dataclasses import dataclass
from typing import Any

from segzero.errors import UserError, unknown_name

REFINE = "refine"  # the prompt about a mask that the image shows
SYSTEM = "You are a helpful assistant."  # the first message of Qwen's own chat templates, too

_THINK = "Output the thinking process in <think> </think> and final answer in <answer> </answer> tags."
_EXAMPLE_ONE = "{'bbox': [10,100,200,210], 'points_1': [30,110], 'points_2': [35,180]}"
_EXAMPLE_MANY = (
    '[{"bbox_2d": [10,100,200,210], "point_2d": [30,110]}, {"bbox_2d": [225,296,706,786], "point_2d": [302,410]}]'
)
_EXAMPLE_PHRASES = '[{"phrase": "red cup"}, {"phrase": "dog", "bbox_2d": [10,100,200,210]}]'
_AFTER_MANY = (
    '" with bboxs and points.',
    "Compare the difference between object(s) and find the most closely matched object(s).",
    _THINK,
    "Output the bbox(es) and point(s) inside the interested object(s) in JSON format.",
)
_LAST_MANY = f"i.e., <think> thinking process here </think><answer>{_EXAMPLE_MANY}</answer>"


@dataclass(frozen=True)
class Prompt:
    """Template of a prompt: the words before and after the question, and the answer format they ask for."""

    before: str
    after: tuple[str, ...]  # sentences, joined without a space as the published checkpoints expect
    format: str  # a format of segzero.answer


PROMPTS: dict[str, Prompt] = {
    "seg_zero": Prompt(
        before="Please find '",
        after=(
            "' with bbox and points.",
            "Compare the difference between objects and find the most closely matched one.",
            _THINK,
            "Output the one bbox and points of two largest inscribed circles inside the interested object"
            " in JSON format.",
            f"i.e., <think> thinking process here </think><answer>{_EXAMPLE_ONE}</answer>",
        ),
        format="seg_zero",
    ),
    "vision_reasoner": Prompt('Please find "', (*_AFTER_MANY, _LAST_MANY), format="multi"),
    "multi": Prompt(
        before='Please find "',
        after=(*_AFTER_MANY, "If nothing in the image matches, the answer is the empty list [].", _LAST_MANY),
        format="multi",
    ),
    "phrase": Prompt(
        before='Please find "',
        after=(
            '" by the noun phrases of the object(s).',
            "Compare the difference between object(s) and find the most closely matched object(s).",
            _THINK,
            "Output short noun phrases in JSON format, each of which names all objects of its kind, with a bbox where"
            " only one of them is meant.",
            "If nothing in the image matches, the answer is the empty list [].",
            f"i.e., <think> thinking process here </think><answer>{_EXAMPLE_PHRASES}</answer>",
        ),
        format="phrase",
    ),
}


# Not among PROMPTS: whoever shows a mask asks with it, whatever prompt the policy's questions have.
_REFINE = Prompt(
    before='Please find "',
    after=(
        '" with bboxs and points.',
        "The mask so far is outlined, all else is dark.",
        _THINK,
        'If the mask is right, answer {"keep": true}; if nothing in the image matches, [].',
        'A point alone amends the mask, with "label": 1 inside or 0 outside.',
        _LAST_MANY,
    ),
    format="refine",
)


def get_prompt(name: str) -> Prompt:
    """Look up a prompt by name; an unknown name is the user's mistake."""
    if name == REFINE:
        return _REFINE
    if name not in PROMPTS:
        raise unknown_name("prompt", name, list(PROMPTS))
    return PROMPTS[name]


def normalise(question: str) -> str:
    """Normalise a question's spelling for all uses: one line, lower case, no closing punctuation.

    >>> normalise('  The thing that would\\n hurt, if you sat on it?! ')
    'the thing that would hurt, if you sat on it'
    """
    if "<|" in question:  # the model's special tokens: the end of a turn, a second image
        raise UserError("the question holds '<|', which opens a model's special tokens; leave it out")
    if any("\ud800" <= character <= "\udfff" for character in question):
        raise UserError("the question holds half a character (a lone surrogate); leave it out")
    text = " ".join(question.split()).lower().rstrip(".?! ")
    if not text:
        raise UserError("the question is empty; say what to look for, e.g. 'the largest shape'")
    return text


def render_text(question: str, prompt: str = "multi") -> str:
    """Render the text of the user's message, without the image."""
    chosen = get_prompt(prompt)
    return chosen.before + normalise(question) + "".join(chosen.after)


def render_messages(question: str, prompt: str = "multi", notes: str = "", images: int = 1) -> list[dict[str, Any]]:
    """Render chat messages with a placeholder for each image, for the chat template of any Qwen-VL processor.

    `notes` come on lines of their own before the question, such as earlier rounds, or which image is which.

    >>> [m["role"] for m in render_messages("the mug")]
    ['system', 'user']
    """
    if "<|" in notes:
        raise UserError("the notes hold '<|', which opens a model's special tokens; leave it out")
    text = render_text(question, prompt)
    return [
        {"role": "system", "content": [{"type": "text", "text": SYSTEM}]},
        {
            "role": "user",
            "content": [{"type": "image"}] * images + [{"type": "text", "text": f"{notes}\n{text}" if notes else text}],
        },
    ]
