"""What the policy said: a think-chain and instances, in the coordinates of the frame it was asked in.

>>> text = '<think>one mug</think><answer>[{"bbox_2d": [10,20,30,40], "point_2d": [15,25]}]</answer>'
>>> answer = parse_answer(text)
>>> answer.instances
(Instance(box=(10.0, 20.0, 30.0, 40.0), points=((15.0, 25.0),)),)
>>> render_answer(answer) == text
True
"""

from dataclasses import dataclass

FORMATS = ("multi", "seg_zero")


@dataclass(frozen=True)
class Instance:
    """One thing found: a box and points inside it, in frame coordinates."""

    box: tuple[float, float, float, float]  # x0, y0, x1, y1
    points: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class Answer:
    """`error` is None when the text could be read; no instances and no error means: nothing is there."""

    think: str = ""
    instances: tuple[Instance, ...] = ()
    error: str | None = None  # one of ERRORS
    warnings: tuple[str, ...] = ()  # one of ERRORS each, for objects that were left out


def render_answer(answer: Answer, format: str = "multi") -> str:
    """The text a policy would write to say this; integers, in the style of the prompts' examples."""
    if format == "seg_zero":
        [instance] = answer.instances
        (x1, y1), (x2, y2) = instance.points
        body = f'{{"bbox": {_numbers(instance.box)}, "points_1": {_numbers((x1, y1))}, "points_2": {_numbers((x2, y2))}}}'
    else:
        objects = (f'{{"bbox_2d": {_numbers(i.box)}, "point_2d": {_numbers(i.points[0])}}}' for i in answer.instances)
        body = f"[{', '.join(objects)}]"
    return f"<think>{answer.think}</think><answer>{body}</answer>"


def _numbers(values: tuple[float, ...]) -> str:
    return "[" + ",".join(str(round(v)) for v in values) + "]"
