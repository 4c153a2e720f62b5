"""The parser against tables of what models write, and of what nobody should have to."""

import sys
import time

import pytest

from segzero.answer import ERRORS, MAX_OBJECTS, Answer, Instance, parse_answer, render_answer
from segzero.errors import UserError

BOX = '"bbox_2d": [10, 20, 30, 40]'
GOOD = f'{{{BOX}, "point_2d": [15, 25]}}'
OTHER = '{"bbox_2d": [50, 60, 70, 80], "point_2d": [55, 65]}'
ONE = (Instance((10.0, 20.0, 30.0, 40.0), ((15.0, 25.0),)),)
TWO = (*ONE, Instance((50.0, 60.0, 70.0, 80.0), ((55.0, 65.0),)))
PUBLISHED = "<think> t </think><answer>{'bbox': [10,100,200,210], 'points_1': [30,110], 'points_2': [35,180]}</answer>"


def tagged(body: str) -> str:
    return f"<think>t</think><answer>{body}</answer>"


READ = {  # what models really write -> one or two instances, without a complaint
    "plain": (tagged(f"[{GOOD}]"), ONE),
    "two": (tagged(f"[{GOOD}, {OTHER}]"), TWO),
    "fenced": (tagged(f"\n```json\n[{GOOD}]\n```\n"), ONE),
    "fence without a language": (tagged(f"```\n[{GOOD}]\n```"), ONE),
    "single quotes": (tagged("[{'bbox_2d': [10,20,30,40], 'point_2d': [15,25]}]"), ONE),
    "no quotes": (tagged("[{bbox_2d: [10,20,30,40], point_2d: [15,25]}]"), ONE),
    "numbers as strings": (tagged('[{"bbox_2d": ["10","20","30","40.0"], "point_2d": ["15","25"]}]'), ONE),
    "floats": (tagged('[{"bbox_2d": [10.0, 2e1, 30., 40], "point_2d": [15.0, +25]}]'), ONE),
    "a trailing comma": (tagged(f"[{GOOD[:-1]},}},]"), ONE),
    "a lone object": (tagged(GOOD), ONE),
    "objects in a row": (tagged(f"{GOOD}, {OTHER}"), TWO),
    "an object a line": (tagged(f"{GOOD}\n{OTHER}\n"), TWO),
    "a list in a list": (tagged(f"[[{GOOD}], [{OTHER}]]"), TWO),
    "a box in a list": (tagged('[{"bbox_2d": [[10,20],[30,40]], "point_2d": [[15,25]]}]'), ONE),
    "more keys": (tagged('[{"n": null, ' + GOOD[1:-1] + ', "ok": true, "in": {"a": [1]}}]'), ONE),
    "a label": (tagged(r'[{"label": "a \" }] {\'mug\', [bbox: 5", ' + GOOD[1:] + "]"), ONE),
    "the published keys": (tagged("{'bbox': [10,20,30,40], 'points_1': [15,25], 'points_2': [16,26]}"), ONE),
    "an apostrophe": (tagged(f"[{{'label': 'the dog's bowl', {GOOD[1:-1]}}}]"), ONE),
    "prose around it": (tagged(f"Here it is: [{GOOD}] (a mug [red])"), ONE),
    "trailing text": (tagged(f"[{GOOD}]") + " I hope {this} helps [1].<|im_end|>", ONE),
    "no think": (f"<answer>[{GOOD}]</answer>", ONE),
    "think with brackets": (f"<think>a < b > [c] {{d}}</think><answer>[{GOOD}]</answer>", ONE),
    "think about tags": (f"<think>in <answer> </answer> tags</think><answer>[{GOOD}]</answer>", ONE),
    "two answers, the last counts": (tagged(f"[{OTHER}]") + f"<answer>[{GOOD}]</answer>", ONE),
    "a second answer cut off": (tagged(f"[{GOOD}]") + '<answer>[{"bbox_2d": [1', ONE),
    "the closing tag cut off": (f"<answer>[{GOOD}]</ans", ONE),
    "no tags": (f"[{GOOD}]", ONE),
    "no tags, fenced": (f"Sure:\n```json\n[\n\t{GOOD},\n\t{OTHER}\n]\n```", TWO),
    "no tags, after think": (f"<think>hm [no] {{no}}</think>\n{GOOD}", ONE),
    "no tags, amid prose": (f"The mug [red] is at [{GOOD}].", ONE),
}

FAILED = {  # -> error
    "nothing": ("", "no_answer"),
    "prose": ("There is no such thing.", "no_answer"),
    "prose with an empty list": ("There is nothing, so [] it is.", "no_answer"),
    "prose with brackets": ("I see [something] here.", "no_answer"),
    "only think": ("<think>hm</think>", "no_answer"),
    "cut off in think": ("<think>the mug is", "truncated"),
    "cut off in think, with a bracket": ("<think>the mug is at [1,2", "truncated"),
    "cut off at the tag": ("<think>t</think><answer>", "truncated"),
    "cut off at the bracket": ("<answer>[", "truncated"),
    "cut off in the first object": ('<answer>[{"bbox_2d": [10, 20, 30, 4', "truncated"),
    "cut off in the first object's point": (f'<answer>[{{{BOX}, "point_2d": [1', "truncated"),
    "cut off in a bare box": ("<answer>[10, 20, 30, 4", "truncated"),
    "cut off, but the tag is there": (tagged('[{"bbox_2d": [10, 20, 30'), "truncated"),
    "an empty tag": (tagged(""), "not_json"),
    "words": (tagged("the mug"), "not_json"),
    "a closing bracket": (tagged("]"), "not_json"),
    "brackets that don't match": (tagged("[}]"), "not_json"),
    "too deep": (tagged("[" * 100 + "]" * 100), "not_json"),
    "null": (tagged("null"), "not_a_list"),
    "a number": (tagged(" 42 "), "not_a_list"),
    "a string": (tagged('"none"'), "not_a_list"),
    "only a comma": (tagged("[,]"), "bad_box"),
    "only a colon": (tagged("[:]"), "bad_box"),
    "an empty string": (tagged("['']"), "bad_box"),
    "an empty object": (tagged("{}"), "bad_box"),
    "a list of words": (tagged('["mug"]'), "bad_box"),
    "no box": (tagged('[{"point_2d": [15, 25]}]'), "bad_box"),
    "three numbers": (tagged('[{"bbox_2d": [1,2,3]}]'), "bad_box"),
    "five numbers": (tagged('[{"bbox_2d": [1,2,3,4,5]}]'), "bad_box"),
    "a box that is a word": (tagged('[{"bbox_2d": "mug"}]'), "bad_box"),
    "a word for a number": (tagged('[{"bbox_2d": [1,2,3,four]}]'), "bad_box"),
    "an empty box": (tagged('[{"bbox_2d": [], "point_2d": [1,2]}]'), "bad_box"),
    "null for a box": (tagged('[{"bbox_2d": null, "point_2d": [1,2]}]'), "bad_box"),
    "nan": (tagged('[{"bbox_2d": [1, 2, NaN, 4]}]'), "bad_box"),
    "infinity": (tagged('[{"bbox_2d": [1, 2, Infinity, 4]}]'), "bad_box"),
    "overflow": (tagged('[{"bbox_2d": [1, 2, 1e999, 4]}]'), "bad_box"),
    "a number of 10000 digits": (tagged(f'[{{"bbox_2d": [1, 2, {"9" * 10_000}, 4]}}]'), "bad_box"),
    "far beyond any image": (tagged('[{"bbox_2d": [1, 2, 1e12, 4]}]'), "bad_box"),
    "a boolean": (tagged('[{"bbox_2d": [true, 2, 3, 4]}]'), "bad_box"),
    "inverted": (tagged('[{"bbox_2d": [30, 20, 10, 40]}]'), "inverted_box"),
    "no width": (tagged('[{"bbox_2d": [10, 20, 10, 40]}]'), "inverted_box"),
    "no height": (tagged('[{"bbox_2d": [10, 40, 30, 40]}]'), "inverted_box"),
    "right of the frame": (tagged('[{"bbox_2d": [840, 1, 850, 5]}]'), "out_of_frame"),
    "below the frame": (tagged('[{"bbox_2d": [1, 630, 5, 640]}]'), "out_of_frame"),
    "left of the frame": (tagged('[{"bbox_2d": [-9, 1, 0, 5]}]'), "out_of_frame"),
    "above the frame": (tagged('[{"bbox_2d": [1, -9, 5, -1]}]'), "out_of_frame"),
    "a point of one number": (tagged(f'[{{{BOX}, "point_2d": [15]}}]'), "bad_point"),
    "a point of three numbers": (tagged(f'[{{{BOX}, "point_2d": [1,2,3]}}]'), "bad_point"),
    "null for a point": (tagged(f'[{{{BOX}, "point_2d": null}}]'), "bad_point"),
    "nan in a point": (tagged(f'[{{{BOX}, "point_2d": [nan, 2]}}]'), "bad_point"),
}

KEPT = {  # one good object beside something else -> warnings
    "a bad box after": (f'[{GOOD}, {{"bbox_2d": [1]}}]', ("bad_box",)),
    "a bad box before": (f'[{{"bbox_2d": [1]}}, {GOOD}]', ("bad_box",)),
    "three": (f'[{{"bbox": [9,9,1,1]}}, {GOOD}, 7, {{{BOX}, "point": 1}}]', ("inverted_box", "bad_box", "bad_point")),
    "out of the frame": (f'[{GOOD}, {{"bbox_2d": [900, 1, 950, 9]}}]', ("out_of_frame",)),
    "cut off": (f'[{GOOD}, {{"bbox_2d": [50, 60, 70, 8', ("truncated",)),
    "cut off after a comma": (f"[{GOOD},", ("truncated",)),
    "no closing bracket": (f"[{GOOD}", ("truncated",)),
    "no closing brace": (f"[{GOOD[:-1]}]", ("not_json",)),
    "a bracket too many": (f"[{GOOD[:-1]}]}}]", ("not_json",)),
    "a box's bracket missing": (f'[{GOOD}, {{"bbox_2d": [1,2,3}}]', ("bad_box", "not_json")),
}  # fmt: skip


@pytest.mark.parametrize("name", READ)
def test_what_models_write_is_read(name):
    text, instances = READ[name]
    answer = parse_answer(text, extent=(840, 630))
    assert (answer.instances, answer.error, answer.warnings) == (instances, None, ())


@pytest.mark.parametrize("name", FAILED)
def test_what_cannot_be_used_has_a_code(name):
    text, error = FAILED[name]
    answer = parse_answer(text, extent=(840, 630))
    assert answer.error == error
    assert answer.instances == ()


@pytest.mark.parametrize("name", KEPT)
def test_a_good_object_survives_its_neighbours(name):
    body, warnings = KEPT[name]
    for text in [f"<answer>{body}", tagged(body), body]:
        answer = parse_answer(text, extent=(840, 630))
        assert (answer.instances, answer.error, answer.warnings) == (ONE, None, warnings)


def test_every_code_is_reached_and_explained():
    seen = {error for _, error in FAILED.values()} | {code for _, codes in KEPT.values() for code in codes}
    of_phrases = {"bad_phrase", "no_box"}  # tests/test_phrase_answers.py
    of_actions = {"bad_action"}  # tests/refinement/test_actions.py
    assert seen | {"no_point", "too_many"} | of_phrases | of_actions == ERRORS.keys()
    assert all(ERRORS.values())


@pytest.mark.parametrize("body", ["[]", " [ ] ", "```json\n[]\n```", "[[]]", "No match: []", "[] (no [red] mug)"])
@pytest.mark.parametrize("format", ["multi", "seg_zero"])
def test_nothing_there_is_a_valid_answer(body, format):
    assert parse_answer(tagged(body), format) == Answer("t")


def test_nothing_there_without_tags():
    assert parse_answer("[]") == Answer()
    assert parse_answer("<think>none</think>\n[]") == Answer("none")


def test_an_object_without_a_point_keeps_its_box():
    instance = Instance(ONE[0].box)
    assert parse_answer(tagged(f"[{{{BOX}}}]")) == Answer("t", (instance,), warnings=("no_point",))
    assert parse_answer(tagged("[10, 20, 30, 40]")) == Answer("t", (instance,), warnings=("no_point",))
    assert parse_answer(tagged("[[10, 20, 30, 40], [1]]")).warnings == ("no_point", "bad_box")


def test_seg_zero_has_one_object_with_two_points():
    instance = Instance((10.0, 100.0, 200.0, 210.0), ((30.0, 110.0), (35.0, 180.0)))
    assert parse_answer(PUBLISHED, "seg_zero") == Answer("t", (instance,))
    assert parse_answer(PUBLISHED, "multi").instances == (Instance(instance.box, instance.points[:1]),)
    two = parse_answer(tagged(f"[{GOOD}, {OTHER}]"), "seg_zero")
    assert (two.instances, two.warnings) == (ONE, ("too_many",))


def test_a_box_partly_outside_is_kept_as_written():
    text = tagged('[{"bbox_2d": [-5, 600, 900, 700], "point_2d": [900, 900]}]')
    instance = Instance((-5.0, 600.0, 900.0, 700.0), ((900.0, 900.0),))
    assert parse_answer(text, extent=(840, 630)).instances == (instance,)


def test_without_an_extent_only_what_no_frame_has_is_outside():
    assert parse_answer(tagged('[{"bbox_2d": [9000, 1, 9001, 5], "point_2d": [1, 2]}]')).error is None
    assert parse_answer(tagged('[{"bbox_2d": [-9, 1, -2, 5], "point_2d": [1, 2]}]')).error == "out_of_frame"


@pytest.mark.parametrize("count", [MAX_OBJECTS, MAX_OBJECTS + 1, 5000])
def test_too_many_objects(count):
    answer = parse_answer(tagged(f"[{', '.join([GOOD] * count)}]"))
    assert answer.instances == ONE * MAX_OBJECTS
    assert answer.warnings == (() if count == MAX_OBJECTS else ("too_many",))


@pytest.mark.parametrize(
    ("text", "think"),
    [
        ("<think> a mug </think><answer>[]</answer>", "a mug"),
        ("<think>a < b, </b> and <answer></think><answer>[]</answer>", "a < b, </b> and <answer>"),
        ("a mug</think><answer>[]</answer>", "a mug"),
        ("<think>a mug<answer>[]</answer>", "a mug"),
        ("<think>a mug", "a mug"),
        ("a mug<answer>[]</answer>", ""),
        ("<answer>[]</answer><think>late</think>", ""),
        ("<think></think><answer>[]</answer>", ""),
        ("<think>one</think><answer>[1]</answer><think>two</think><answer>[]</answer>",
         "one</think><answer>[1]</answer><think>two"),
    ],
)  # fmt: skip
def test_think(text, think):
    assert parse_answer(text).think == think


@pytest.mark.parametrize("format", ["multi", "seg_zero"])
@pytest.mark.parametrize("think", ["", "a mug", "<think>", "</think>", "<answer>[]</answer>", "</answer>", "[{"])
def test_what_is_rendered_is_read_back(format, think):
    points = ((15.25, 1e-7), (16.0, 26.0))
    instances = (Instance((0.1, 0.2, 0.30000000000000004, 1e9), points[: 2 if format == "seg_zero" else 1]),)
    for answer in [Answer(think, instances), Answer(think, (Instance((1.0, 2.0, 3.0, 4.0)),)), Answer(think)]:
        again = parse_answer(render_answer(answer, format), format)
        assert (again.think, again.instances, again.error) == (think, answer.instances, None)


def test_rendering_follows_the_prompts_examples():
    from segzero.prompts import _EXAMPLE_MANY, _EXAMPLE_ONE

    assert _EXAMPLE_MANY in render_answer(parse_answer(_EXAMPLE_MANY))
    assert _EXAMPLE_ONE.replace("'", '"') in render_answer(parse_answer(_EXAMPLE_ONE, "seg_zero"), "seg_zero")


def test_an_unknown_format_is_the_callers_mistake():
    with pytest.raises(UserError, match=r"unknown answer format 'mutli'; did you mean 'multi'\?"):
        parse_answer("[]", "mutli")
    with pytest.raises(UserError, match="unknown answer format"):
        render_answer(Answer(), "xml")


HOSTILE = [
    *"[]{}<\"'\\9,: \n", "[]", "{}", "[{", "{[", "}{", "][", "[,", "{:", '\\"', "\"'", '" ', '"\\',
    '":', '"a":', "[1", "a ",
    "<answer>", "</answer>", "<answer></answer>", "<answer>[", "<think>", "</think>", "<think></think>", "\ud800",
    '{"bbox_2d":', '{"bbox_2d":[1,2,3,4]},', "[1,2,3,4],",
]  # fmt: skip


@pytest.mark.parametrize("unit", HOSTILE)
def test_a_megabyte_of_anything_takes_linear_time(unit):
    for before, after in [("", ""), ("<answer>[", "]</answer>"), ('<answer>[{"bbox_2d": [1,', ""), ("<answer>[{'", "")]:
        start = time.process_time()
        parse_answer(before + unit * (1_000_000 // len(unit)) + after)
        assert time.process_time() - start < 1


def test_the_callers_stack_may_be_nearly_full():
    def at_depth(n: int) -> Answer:
        return at_depth(n - 1) if n else parse_answer(tagged("[" * 10_000))

    assert at_depth(sys.getrecursionlimit() - 200).error == "not_json"
