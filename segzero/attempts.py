"""Attempts at a question, shown to the policy when it reads the question again.

>>> from segzero.answer import parse_answer
>>> texts = ['<think>a cup</think><answer>[{"bbox_2d": [1,2,30,40], "point_2d": [5,6]}]</answer>', "no idea", "[]"]
>>> print(attempts_note([parse_answer(text) for text in texts]))
Attempts at this question so far:
1. [{"bbox_2d": [1,2,30,40], "point_2d": [5,6]}]
2. []
"""

from collections.abc import Sequence

from segzero.answer import Answer, render_objects

_TITLE = "Attempts at this question so far:"


def attempts_note(answers: Sequence[Answer], format: str = "multi") -> str:
    """Write the objects of each answer on a line, in the given order and without the thinking.

    An unreadable answer is left out; without a readable one the note is empty. It goes into the notes of
    `segzero.prompts.render_messages`.
    """
    objects = [render_objects(answer, format) for answer in answers if answer.error is None]
    return "\n".join([_TITLE, *(f"{number}. {text}" for number, text in enumerate(objects, 1))]) if objects else ""
