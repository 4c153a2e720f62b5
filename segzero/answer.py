"""Parser and writer of a policy's answers: a think-chain and instances, in coordinates of the policy's frame.

>>> text = '<think>one mug</think><answer>[{"bbox_2d": [10,20,30,40], "point_2d": [15,25]}]</answer>'
>>> answer = parse_answer(text)
>>> answer.instances
(Instance(box=(10.0, 20.0, 30.0, 40.0), points=((15.0, 25.0),)),)
>>> render_answer(answer) == text
True

`parse_answer` reads any text in three steps, each in linear time: find the part that is the answer (`_locate`), read
it by its brackets into lists, dicts and words (`_read`), and check each object (`_instance`).
"""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from segzero.errors import unknown_name

FORMATS = ("multi", "seg_zero", "phrase", "refine")
POINTS = {"multi": 1, "seg_zero": 2, "phrase": 0, "refine": 1}  # points per object in a format
MAX_OBJECTS = 120  # the published rewards ignore further ones
MAX_DEPTH = 16  # nested brackets; a good answer has three
MAX_TOKENS = 20_000  # brackets, commas, colons and words; MAX_OBJECTS good objects have under 3000
MAX_PHRASES = 32  # different ones; each costs the segmenter a pass
MAX_PHRASE = 200  # characters
MAX_COORDINATE = 1e9  # no image is larger, and scaling such a number can't overflow

ERRORS = {
    "no_answer": "there are no <answer> tags, and no list or object without them",
    "truncated": "the text ends before the answer does; objects complete until then are kept",
    "not_json": "what stands in the tags can't be read, or some brackets don't match",
    "not_a_list": "the answer is JSON, but a number, a word or null where a list or an object belongs",
    "bad_box": "an object has no box of four finite numbers, or isn't an object",
    "inverted_box": "a box has no area: its right or bottom edge isn't beyond its left or top one",
    "out_of_frame": "a box lies wholly outside the frame",
    "bad_point": "an object has a point that isn't two finite numbers",
    "no_point": "an object has no point; its box is kept (only ever a warning)",
    "bad_phrase": f"an object of the format phrase has no phrase of 1 to {MAX_PHRASE} characters",
    "no_box": "an object has only a phrase, which the segmenter can't read: nothing is drawn for it",
    "bad_action": 'an answer about a mask is none of {"keep": true}, objects, or points with the labels 1 and 0',
    "too_many": f"more objects than the format has (multi: {MAX_OBJECTS}, seg_zero: 1, phrase: {MAX_OBJECTS}, "
    f"of {MAX_PHRASES} phrases, refine: {MAX_OBJECTS}, or a point of each label); the rest is left out",
}


@dataclass(frozen=True)
class Instance:
    """An object in an answer: a box and points inside it, in frame coordinates."""

    box: tuple[float, float, float, float]  # x0, y0, x1, y1
    points: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class Phrase:
    """An object in an answer of the format `phrase`: words that a segmenter reads, and which of their instances."""

    text: str
    box: tuple[float, float, float, float] | None = None  # in frame coordinates; None: all instances are meant


@dataclass(frozen=True)
class MaskAction:
    """Action of an answer of the format `refine` on the mask that the policy was shown: keep it, or amend it by points.

    There is at most one point that belongs to the object, and one that does not, in frame coordinates. An answer with
    objects has no action: it replaces the mask by theirs.
    """

    positive: tuple[float, float] | None = None
    negative: tuple[float, float] | None = None

    @property
    def keeps(self) -> bool:
        """True if the mask is to stay as it is."""
        return self.positive is None and self.negative is None

    @property
    def points(self) -> tuple[tuple[float, float], ...]:
        """The points that there are, the positive one first."""
        return tuple(point for point in (self.positive, self.negative) if point is not None)

    @property
    def labels(self) -> tuple[int, ...]:
        """Label of each point: 1 inside, 0 outside."""
        return tuple(label for point, label in ((self.positive, 1), (self.negative, 0)) if point is not None)


@dataclass(frozen=True)
class Answer:
    """A parsed answer. Without objects, action and error, it says that nothing is there."""

    think: str = ""
    instances: tuple[Instance, ...] = ()
    error: str | None = None  # one of ERRORS; None if the text could be read
    warnings: tuple[str, ...] = ()  # each one of ERRORS, in order of appearance: mostly objects that were left out
    phrases: tuple[Phrase, ...] = ()  # of the format phrase; those with a box are instances, too
    action: MaskAction | None = None  # of the format refine

    @property
    def count(self) -> int:
        """Number of objects, phrases without a box among them; an action concerns one mask."""
        return len(self.phrases) or len(self.instances) or int(self.action is not None)

    @property
    def keeps(self) -> bool:
        """True if the mask that the policy was shown is to stay as it is."""
        return self.action is not None and self.action.keeps

    @property
    def corrects(self) -> bool:
        """True for an answer from which something is drawn: objects, phrases, or points that amend a mask."""
        return self.count > 0 and not self.keeps


def render_answer(answer: Answer, format: str = "multi") -> str:
    """Write an answer as a policy would, in the style of the prompts' examples."""
    _check_format(format)
    if format == "phrase":
        objects = [_render_phrase(phrase) for phrase in answer.phrases]
    elif answer.action is not None:
        objects = _render_action(answer.action)
    else:
        objects = [_render_instance(instance, format) for instance in answer.instances]
    lone = len(objects) == 1 and (format == "seg_zero" or answer.keeps)
    body = objects[0] if lone else f"[{', '.join(objects)}]"
    return f"<think>{answer.think}</think><answer>{body}</answer>"


def parse_answer(text: str, format: str = "multi", extent: tuple[float, float] | None = None) -> Answer:
    """Parse a policy's text. Never raises, whatever the text; what is wrong with it is in `error`.

    An unusable object becomes a warning beside the usable ones; if none is usable, the first problem is the error.
    `extent` is the frame's width and height: boxes wholly outside it are refused, boxes partly outside stay as written.

    >>> parse_answer("<answer>[]</answer>").error is None  # a valid answer: nothing is there
    True
    >>> parse_answer("I see no such thing.").error
    'no_answer'
    >>> parse_answer("<answer>{'bbox_2d': [1, 2, 30, 40], 'point_2d': [5, 6]}, {'bbox_2d': [1,").warnings
    ('truncated',)
    """
    _check_format(format)
    start, body, missing = _locate(text)
    think = _think(text[:start])
    values, problems = _read(body)
    if values is None:
        error = missing or ("not_a_list" if _is_scalar(body) else "not_json")
        return Answer(think, error=error)
    objects = list(islice(_objects(values), MAX_OBJECTS + 1))
    if format == "phrase":
        return _phrase_answer(think, objects, problems, extent)
    if format == "refine" and not any(_has_box(item) for item in objects):
        return _action_answer(think, objects, problems)
    checked = [_instance(item, POINTS[format], extent) for item in objects[:MAX_OBJECTS]]
    instances = tuple(instance for instance, _ in checked if instance)
    warnings = [code for _, code in checked if code] + problems
    limit = 1 if format == "seg_zero" else MAX_OBJECTS
    if (len(objects) > MAX_OBJECTS or len(instances) > limit) and "too_many" not in problems:
        warnings.append("too_many")
    if not instances and warnings:
        return Answer(think, error=warnings[0], warnings=tuple(warnings[1:]))
    return Answer(think, instances[:limit], warnings=tuple(warnings))


def _locate(text: str) -> tuple[int, str, str | None]:
    """Find the start of the answer, its text, and the error to report if it has no bracket.

    The last complete answer after the think-chain counts: a policy that answers again means the last one, and the
    "<answer> </answer>" that it may repeat from its instructions while thinking is not an answer.
    """
    thought = text.rfind("</think>")
    floor = max(thought, 0) if text.find("<answer>", max(thought, 0)) >= 0 else 0
    start = text.rfind("<answer>", floor, max(text.rfind("</answer>"), 0))
    if start >= 0:
        return start, text[start + len("<answer>") : text.find("</answer>", start)], None
    start = text.rfind("<answer>", floor)
    if start >= 0:
        return start, text[start + len("<answer>") :], "truncated"
    if thought < 0 and "<think>" in text:
        return len(text), "", "truncated"
    untagged = text[thought + len("</think>") :] if thought >= 0 else text
    return len(text), _without_prose(untagged), "no_answer"


def _think(text: str) -> str:
    """Find the think-chain in the text before the answer; either of its tags may be missing."""
    end = text.rfind("</think>")
    start = text.find("<think>", 0, end if end >= 0 else len(text))
    if start < 0 and end < 0:
        return ""
    return text[start + len("<think>") if start >= 0 else 0 : end if end >= 0 else len(text)].strip()


def _without_prose(text: str) -> str:
    """Find an answer without tags: text that begins with a bracket or a code fence, or else the first object.

    Square brackets amid prose are not an answer; "[]" there would be read as "nothing is there".
    """
    text = text.lstrip()
    if text.startswith(("[", "{", "```")):
        return text
    brace = text.find("{")
    if brace < 0:
        return ""
    lead = text[:brace].rstrip()
    return text[len(lead) - 1 :] if lead.endswith("[") else text[brace:]


# Brackets, strings, other words. A quote ends a string only where JSON continues after it, so that 'it's' is one;
# a string that doesn't end on its line is as long as the line. Possessive (++, *+): no token is ever tried twice.
_TOKEN = re.compile(
    r"""(?P<mark>[\[\]{},:])
      | "(?P<double>(?:[^"\\\n]++|\\[^\n]|"(?!\s*+(?:[,:}\]]|\Z)))*+)"?
      | '(?P<single>(?:[^'\\\n]++|\\[^\n]|'(?!\s*+(?:[,:}\]]|\Z)))*+)'?
      | (?P<bare>(?:[^\s"'\\\[\]{},:]++|\\)++)""",
    re.VERBOSE,
)
_OPENING = re.compile(r"[\[{]")
_COLON = object()


def _read(text: str) -> tuple[list[Any] | None, list[str]]:
    """Read the first list, or the objects in a row, as lists, dicts and words; None if there is no bracket.

    Commas and quotes are optional; a bracket that doesn't match closes everything up to the one it matches. Brackets
    that the text leaves open are dropped, but the finished objects in open lists are kept.
    """
    first = _OPENING.search(text)
    if first is None:
        return None, []
    values: list[Any] = []
    stack: list[tuple[str, list[Any]]] = []  # open brackets, outermost first, with their contents
    problems: list[str] = []
    for count, match in enumerate(_TOKEN.finditer(text, first.start())):
        if count == MAX_TOKENS:
            problems.append("too_many")
            break
        kind = match.lastgroup or ""
        token = match[kind]
        if kind != "mark":
            if stack:
                stack[-1][1].append(token)
        elif token in "[{":
            if not stack and values and token == "[":
                break
            if len(stack) == MAX_DEPTH:
                problems.append("not_json")
                break
            stack.append((token, []))
        elif not stack:
            continue  # between objects in a row
        elif token in ",:":
            bracket, items = stack[-1]
            if bracket == "{" and token == ":":
                items.append(_COLON)
            elif not items:
                items.append("")  # "[,]" is not the empty list
        else:
            wanted = "[" if token == "]" else "{"
            if stack[-1][0] != wanted and "not_json" not in problems:
                problems.append("not_json")
            if all(bracket != wanted for bracket, _ in stack):
                continue
            closed = None
            while closed != wanted:
                closed, items = stack.pop()
                (stack[-1][1] if stack else values).append(_pairs(items) if closed == "{" else items)
            if not stack and closed == "[":
                break
    if stack and not problems:
        problems.append("truncated")
    for bracket, items in stack:
        if bracket == "{":
            break
        values += [item for item in items if not isinstance(item, str)]
    return values, problems


def _pairs(items: list[Any]) -> dict[str, object]:
    """Make a dict of the words before and after each colon between two braces."""
    colons = [i for i, item in enumerate(items) if item is _COLON]
    return {items[i - 1]: items[i + 1] for i in colons if 0 < i < len(items) - 1 and isinstance(items[i - 1], str)}


def _is_scalar(body: str) -> bool:
    """True if a text without brackets is JSON."""
    try:
        json.loads(body)
    except ValueError:
        return False
    return True


def _objects(values: list[Any]) -> Iterator[object]:
    """Objects in lists, nested to any depth; four words in a list are a box without a name."""
    for value in values:
        if not isinstance(value, list):
            yield value
        elif len(value) == 4 and all(isinstance(item, str) for item in value):
            yield {"bbox": value}
        else:
            yield from _objects(value)


def _instance(item: object, count: int, extent: tuple[float, float] | None) -> tuple[Instance | None, str | None]:
    """Make the instance that an object describes, with at most `count` points; also returns what is wrong with it.

    Any key with "bbox" in it names the box, any with "point" a point, as in the published parser.
    """
    named = {key.lower(): value for key, value in item.items()} if isinstance(item, dict) else {}
    box = _numbers(next((value for key, value in named.items() if "bbox" in key), None), 4)
    if box is None:
        return None, "bad_box"
    x0, y0, x1, y1 = box
    if x1 <= x0 or y1 <= y0:
        return None, "inverted_box"
    if x1 <= 0 or y1 <= 0 or (extent is not None and (x0 >= extent[0] or y0 >= extent[1])):
        return None, "out_of_frame"
    points = []
    for value in [value for key, value in named.items() if "point" in key][:count]:
        point = _numbers(value, 2)
        if point is None:
            return None, "bad_point"
        points.append((point[0], point[1]))
    return Instance((x0, y0, x1, y1), tuple(points)), None if points else "no_point"


def _phrase_answer(
    think: str, objects: list[object], problems: list[str], extent: tuple[float, float] | None
) -> Answer:
    """Make the answer that objects of the format phrase are."""
    phrases: list[Phrase] = []
    warnings: list[str] = []
    for item in objects[:MAX_OBJECTS]:
        phrase, code = _phrase(item, extent)
        if phrase and phrase.text not in (texts := {one.text for one in phrases}) and len(texts) == MAX_PHRASES:
            phrase, code = None, "too_many"
        phrases += [phrase] if phrase else []
        warnings += [code] if code else []
    warnings += problems
    if len(objects) > MAX_OBJECTS and "too_many" not in problems:
        warnings.append("too_many")
    if not phrases and warnings:
        return Answer(think, error=warnings[0], warnings=tuple(warnings[1:]))
    instances = tuple(Instance(phrase.box) for phrase in phrases if phrase.box)
    return Answer(think, instances, warnings=tuple(warnings), phrases=tuple(phrases))


def _phrase(item: object, extent: tuple[float, float] | None) -> tuple[Phrase | None, str | None]:
    """Make the phrase that an object describes; an object with an unusable box is no object."""
    named = {key.lower(): value for key, value in item.items()} if isinstance(item, dict) else {}
    text = clean_phrase(next((value for key, value in named.items() if "phrase" in key), None))
    if not text:
        return None, "bad_phrase"
    if all("bbox" not in key or value in ("null", "None", "") for key, value in named.items()):
        return Phrase(text), None
    instance, code = _instance(item, 0, extent)
    return (Phrase(text, instance.box), None) if instance else (None, code)


def _has_box(item: object) -> bool:
    return isinstance(item, dict) and any("bbox" in key.lower() for key in item)


def _action_answer(think: str, objects: list[object], problems: list[str]) -> Answer:
    """Make the answer that objects of the format refine are: {"keep": true}, or points with labels."""
    keeps = False
    points: dict[str, tuple[float, float]] = {}  # by label
    warnings: list[str] = []
    for item in objects:
        named = {key.lower(): value for key, value in item.items()} if isinstance(item, dict) else {}
        label = named.get("label")
        if "keep" in named and str(named["keep"]).lower() == "true":
            keeps = True
        elif label not in ("0", "1"):
            warnings.append("bad_action")
        elif (point := _numbers(next((value for key, value in named.items() if "point" in key), None), 2)) is None:
            warnings.append("bad_point")
        elif label in points:
            warnings.append("too_many")
        else:
            points[label] = (point[0], point[1])
    warnings = list(dict.fromkeys([*warnings, *problems]))
    if keeps and points:  # it can't do both
        return Answer(think, error="bad_action", warnings=tuple(warnings))
    if not keeps and not points and warnings:
        return Answer(think, error=warnings[0], warnings=tuple(warnings[1:]))
    action = MaskAction(points.get("1"), points.get("0")) if keeps or points else None
    return Answer(think, warnings=tuple(warnings), action=action)


def clean_phrase(value: object) -> str:
    """Normalise a phrase's spelling, which quotes and backslashes are not part of; empty if it is not usable.

    >>> clean_phrase(' red  "cup" ')
    'red cup'
    """
    if not isinstance(value, str) or len(value) > MAX_PHRASE or "<|" in value:
        return ""
    text = " ".join(re.sub(r'["\\]', " ", value).split()).lower().rstrip(".?! ")
    return "" if any("\ud800" <= character <= "\udfff" for character in text) else text


def _render_phrase(phrase: Phrase) -> str:
    box = f', "bbox_2d": {_render_numbers(phrase.box)}' if phrase.box else ""
    return f'{{"phrase": "{clean_phrase(phrase.text)}"{box}}}'


def _render_action(action: MaskAction) -> list[str]:
    if action.keeps:
        return ['{"keep": true}']
    pairs = zip(action.points, action.labels, strict=True)
    return [f'{{"point_2d": {_render_numbers(point)}, "label": {label}}}' for point, label in pairs]


def _numbers(value: object, count: int) -> tuple[float, ...] | None:
    """Parse `count` finite numbers in a list, or in lists within a list; None if it has others."""
    if not isinstance(value, list):
        return None
    words = [word for item in value for word in (item if isinstance(item, list) else [item])]
    if len(words) != count:
        return None
    numbers = tuple(_number(word) for word in words)
    return numbers if all(abs(number) <= MAX_COORDINATE for number in numbers) else None


def _number(word: object) -> float:
    try:
        return float(word) if isinstance(word, str) else math.nan
    except ValueError:
        return math.nan


def _render_instance(instance: Instance, format: str) -> str:
    box, points = ("bbox", ["points_1", "points_2"]) if format == "seg_zero" else ("bbox_2d", ["point_2d"])
    parts = [(box, instance.box), *zip(points, instance.points, strict=False)]
    return "{" + ", ".join(f'"{key}": {_render_numbers(numbers)}' for key, numbers in parts) + "}"


def _render_numbers(values: tuple[float, ...]) -> str:
    return "[" + ",".join(str(int(v)) if float(v).is_integer() else repr(float(v)) for v in values) + "]"


def _check_format(format: str) -> None:
    if format not in FORMATS:
        raise unknown_name("answer format", format, list(FORMATS))
