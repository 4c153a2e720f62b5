"""Whatever a policy writes, the parser answers. FUZZ_EXAMPLES=1000000 (`make fuzz`) looks longer than the usual 20,000.

The strings are mutated real answers, and any unicode, surrogates too. A failure is shrunk to the smallest string
that shows it; copy it into the table of test_answer.py.
"""

import math
import os

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from segzero.answer import ERRORS, FORMATS, MAX_COORDINATE, MAX_OBJECTS, POINTS, Answer, parse_answer, render_answer

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", 20_000))
ROUND = 5_000  # strings between two restarts: hypothesis remembers each string of a round

REAL = [
    '<think>one mug</think><answer>[{"bbox_2d": [10,20,30,40], "point_2d": [15,25]}]</answer>',
    '<think>two</think>\n<answer>[{"bbox_2d": [1,2,300,400], "point_2d": [30,110]}, '
    '{"bbox_2d": [225,296,706,786], "point_2d": [302,410]}]</answer>',
    "<think> process </think><answer>{'bbox': [10,100,200,210], 'points_1': [30,110], 'points_2': [35,180]}</answer>",
    '<think>a < b</think>\n\n<answer>\n```json\n[\n\t{"bbox_2d": [2.5, 2, 70, 78], "is": "it\'s"}\n]\n```\n</answer>',
    "<think>there is none</think><answer>[]</answer>",
    '```json\n[{"bbox_2d": ["1", "2", "3", "4"], "point_2d": ["2", 3.0]}]\n```',
    '<answer>[[{"bbox_2d": [nan, 1e999, -Infinity, 4], "point_2d": null}], [1, 2, 3, 4]]</answer>',
    "The answer is {'bbox_2d': [1,2,3,4], 'point_2d': [2,3]} and {'bbox_2d': [5,6,7,8], 'point_2d': [6,7]}.",
]
PIECES = [
    *"[]{},:\"'\\<>/-.0 9\n\t`e_",
    *("<think>", "</think>", "<answer>", "</answer>", "```json", "```", "<|im_end|>", "[[", "]]", "}, {", "[]", "{}"),
    *("bbox_2d", "point_2d", '"bbox_2d": [1,2,3,4]', '"point_2d": [1,2]'),
    *("9" * 400, "-1", "null", "nan", "Infinity", "1e400", "\ud800", "\x00", "\u2028", "\uff11", "\u0130"),
]
CODEPOINTS = st.characters(exclude_categories=())  # surrogates and unassigned ones too
ANYTHING = st.one_of(st.text(CODEPOINTS, max_size=60), st.lists(st.sampled_from(PIECES), max_size=40).map("".join))


def mutate(recipe: bytes) -> str:
    """A real answer, named by the first byte, after one mutation for every four further bytes.

    Bytes, as they are the cheapest thing to draw: a million strings are minutes, and yet shrink.
    """
    text = REAL[recipe[0] % len(REAL)]
    for how, where, length, which in zip(*(recipe[i::4] for i in range(1, 5)), strict=False):
        a = where * (len(text) + 1) // 256
        b = min(a + length // 4, len(text))
        piece = PIECES[which % len(PIECES)]
        match how % 8:
            case 0:  # cut
                text = text[:a]
            case 1:  # remove
                text = text[:a] + text[b:]
            case 2:  # repeat
                text = text[:b] + text[a:b] + text[b:]
            case 3:  # swap with what follows
                text = text[:a] + text[b : 2 * b - a] + text[a:b] + text[2 * b - a :]
            case 4:  # replace a few of the same character
                text = text.replace(text[a : a + 1] or " ", piece, 4)
            case _:
                text = text[:a] + piece + text[a:]
    return text


def check(text: str, format: str) -> Answer:
    answer = parse_answer(text, format, extent=(840, 840))
    codes = [*answer.warnings] if answer.error is None else [answer.error, *answer.warnings]
    assert set(codes) <= ERRORS.keys()
    assert answer.error is None or not answer.instances
    assert len(answer.instances) <= (1 if format == "seg_zero" else MAX_OBJECTS)
    for instance in answer.instances:
        x0, y0, x1, y1 = instance.box
        assert x0 < x1 and y0 < y1 and x1 > 0 and y1 > 0 and x0 < 840 and y0 < 840
        assert len(instance.points) <= POINTS[format]
        for number in [*instance.box, *(v for point in instance.points for v in point)]:
            assert isinstance(number, float) and math.isfinite(number) and abs(number) <= MAX_COORDINATE
    if answer.error is None:
        again = parse_answer(render_answer(answer, format), format, extent=(840, 840))
        assert (again.think, again.instances, again.error) == (answer.think, answer.instances, None)
        assert all(code == "no_point" for code in again.warnings)
    return answer


def run(number: int, count: int, texts: st.SearchStrategy[str]) -> None:
    @seed(number)
    @settings(max_examples=count, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(texts)
    def holds(text):
        answer = check(text, FORMATS[len(text) % 2])
        assert answer == parse_answer(text, FORMATS[len(text) % 2], extent=(840, 840))

    holds()


@pytest.mark.parametrize("number", range(math.ceil(EXAMPLES / ROUND)))
def test_mutated_answers(number):
    run(number, ROUND, st.binary(min_size=5, max_size=21).map(mutate))


def test_any_text():
    run(0, EXAMPLES // 20, ANYTHING)
