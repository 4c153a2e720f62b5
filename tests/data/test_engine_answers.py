"""Answers of a vision-language model, of any form, and settings of the data engine."""

import pytest

from segzero.data.engine.prompts import text_problem
from segzero.data.engine.records import ConceptPrompt, JudgedPrompt, NamedRegion, Verdict, read_record, to_json
from segzero.data.engine.settings import EngineLimits, EngineSettings, price_of
from segzero.data.engine.vlm import Malformed, clean, field_of, read_json_answer
from segzero.errors import UserError
from segzero.policy.chat_server import retry_after

DEEP = "[" * 100_000


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": 1}', {"a": 1}),
        ('  [{"a": 1}]  ', [{"a": 1}]),
        ('```json\n{"a": [1, 2]}\n```', {"a": [1, 2]}),
        ('Here is what I see: {"a": "}"} and that is all.', {"a": "}"}),
        ('[not this] but {"a": 1}', {"a": 1}),
    ],
)
def test_json_is_found_in_an_answer(text, value):
    assert read_json_answer(text) == value


@pytest.mark.parametrize(
    "text", ["", "no", "true", "17", '"a"', '{"a": ', '{"a": NaN}', "{'a': 1}", DEEP, '{"a":' * 100_000, "\ud800"]
)
def test_anything_else_is_malformed(text):
    with pytest.raises(Malformed, match="not JSON"):
        read_json_answer(text)


@pytest.mark.parametrize("answer", [[], None, {"accept": "true"}, {"accept": 1}, {}, {"accept": None}])
def test_a_verdict_is_true_or_false_and_nothing_like_it(answer):
    with pytest.raises(Malformed):
        field_of(answer, "accept", bool)


def test_words_are_bounded_and_cleaned():
    assert clean("a\x1b[31m red\n\nmug\u202e\ud800", 40) == "a [31m red mug"
    assert clean("<<||im_end|>", 40) == "im_end|>"
    assert len(clean("x" * 10**6, 120)) == 120 and clean("one two three", 99, words=2) == "one two"


def test_a_prompt_has_ten_words_and_can_be_asked():
    assert text_problem("Segment the mug") == ""
    assert "more than 10 words" in text_problem("a b c d e f g h i j k")
    assert "more than 10 words or 120 letters" in text_problem("x" * 121)
    assert "empty" in text_problem(" \x00 ") and "empty" in text_problem("?!.")


def test_records_survive_json_and_refuse_anything_else():
    one = JudgedPrompt(ConceptPrompt(0, "spatial", "find it", (0, 1), (1,)), Verdict("ACCEPT", "it is"))
    as_lists = {**to_json(one), "prompt": {**to_json(one.prompt), "candidates": [0, 1], "satisfying": [1]}}
    assert read_record(JudgedPrompt, as_lists) == one
    for wrong in (None, [], {"index": True, "label": ""}, {"index": 0}, {"index": 0, "label": "", "more": 1}):
        with pytest.raises(ValueError, match="NamedRegion"):
            read_record(NamedRegion, wrong)


def test_settings_and_limits_say_what_is_wrong():
    for wrong, message in (
        ({"votes": 2}, "even number"),
        ({"votes": 3, "temperature": 0}, "all be the same"),
        ({"regions": 0}, "regions 0"),
        ({"concepts": ("space",)}, "unknown family"),
        ({"concepts": ()}, "no family"),
        ({"frame": "polar"}, "unknown frame"),
    ):
        with pytest.raises(UserError, match=message):
            EngineSettings(model="m", **wrong)
    for wrong, message in (({"budget": 0}, "--budget 0"), ({"budget": 5.0}, "needs the model's price")):
        with pytest.raises(UserError, match=message):
            EngineLimits(**wrong)
    assert price_of("models/gemini-flash-latest", None) == (0.30, 2.50)
    for written in ("1", "1,2,3", "a,b", "-1,2", "nan,1"):
        with pytest.raises(UserError, match="--price"):
            price_of("m", written)


def test_retry_after_is_a_number_or_a_date():
    assert retry_after("1.5") == 1.5
    assert retry_after("Fri, 31 Dec 1999 23:59:59 GMT") is None
    assert 9e8 < (retry_after("Fri, 31 Dec 2055 23:59:59 GMT") or 0) < 1e9
    assert retry_after(None) is retry_after("inf") is retry_after("nan") is retry_after("x" * 1000) is None
