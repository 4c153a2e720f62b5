"""Answers about a mask: what is read as which action, and what a correction draws."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segzero.answer import ERRORS, Answer, Instance, MaskAction, parse_answer, render_answer
from segzero.frames import relative, stretch
from segzero.masks import decode, encode, mask_iou
from segzero.refinement.correction import MaskCorrection, anchor, correction_prompts, labelled_points, settled

OBJECT = '{"bbox_2d": [1, 2, 9, 8], "point_2d": [3, 4]}'
POSITIVE, NEGATIVE = '{"point_2d": [3, 4], "label": 1}', '{"point_2d": [5, 6], "label": 0}'
READ = {
    '{"keep": true}': MaskAction(),
    '[{"keep": true}]': MaskAction(),
    "{'keep': True}": MaskAction(),
    f"[{POSITIVE}, {NEGATIVE}]": MaskAction((3, 4), (5, 6)),
    f"[{NEGATIVE}, {POSITIVE}]": MaskAction((3, 4), (5, 6)),
    f"[{POSITIVE}]": MaskAction(positive=(3, 4)),
    NEGATIVE: MaskAction(negative=(5, 6)),
    "[]": None,
}
UNREADABLE = {
    '{"keep": false}': "bad_action",
    '{"keep": true}, ' + POSITIVE: "bad_action",
    '[{"point_2d": [3, 4]}]': "bad_action",
    '[{"point_2d": [3, 4], "label": 2}]': "bad_action",
    '[{"bbox_2d": [4, 2, 3, 4], "point_2d": [2, 3]}]': "inverted_box",
    '[{"point_2d": [3], "label": 1}]': "bad_point",
    '[{"point_2d": [3, 1e400], "label": 1}]': "bad_point",
    "keep": "not_json",
    "true": "not_a_list",
}


def parse(body: str) -> Answer:
    return parse_answer(f"<think>t</think><answer>{body}</answer>", "refine")


@pytest.mark.parametrize("body", READ)
def test_an_action_is_read(body):
    assert parse(body) == Answer("t", action=READ[body])


@pytest.mark.parametrize("body", UNREADABLE)
def test_an_answer_without_an_action_has_an_error(body):
    answer = parse(body)
    assert (answer.error, answer.action) == (UNREADABLE[body], None)


def test_objects_replace_the_mask_and_actions_beside_them_are_left_out():
    found = Instance((1, 2, 9, 8), ((3, 4),))
    assert parse(f"[{OBJECT}, {OBJECT}]") == Answer("t", (found, found))
    assert parse(f'[{OBJECT}, {NEGATIVE}, {{"keep": true}}]') == Answer("t", (found,), warnings=("bad_box", "bad_box"))


def test_what_an_answer_does_to_a_mask():
    said = {"[]": (False, False), '{"keep": true}': (True, False), POSITIVE: (False, True), OBJECT: (False, True)}
    for body, (keeps, corrects) in said.items():
        answer = parse(body)
        assert (answer.keeps, answer.corrects) == (keeps, corrects), body
    assert not parse("well").corrects


def test_a_good_point_beside_a_bad_one_is_kept():
    assert parse(f'[{POSITIVE}, {{"point_2d": 7, "label": 0}}]') == Answer(
        "t", warnings=("bad_point",), action=MaskAction(positive=(3, 4))
    )
    assert parse(f"[{POSITIVE}, {POSITIVE}]").warnings == ("too_many",)


SAID = [Answer("t", action=action) for action in READ.values()] + [
    Answer("t", (Instance((1, 2, 9, 8), ((3, 4),)),) * 2)
]


@pytest.mark.parametrize("answer", SAID)
def test_what_is_written_is_read_back(answer):
    assert parse_answer(render_answer(answer, "refine"), "refine") == answer


PIECES = (
    "<answer>",
    "</answer>",
    "{",
    "}",
    "[",
    "]",
    '"keep"',
    ": true",
    '"point_2d"',
    ": [1, 2]",
    '"label"',
    ": 1",
    ",",
)


@given(st.lists(st.sampled_from(PIECES), max_size=40).map("".join))
def test_any_text_is_an_action_nothing_or_an_error(text):
    answer = parse_answer(text, "refine")
    assert answer.error is None or answer.error in ERRORS
    assert not (answer.error and answer.action)


def test_points_leave_the_frame_and_stay_in_the_image():
    current = encode(np.ones((50, 200), bool))
    for frame in (stretch(840), relative(1000)):
        extent = frame.extent((200, 50))
        action = MaskAction((extent[0] / 2, extent[1] / 2), (9e8, -5))
        corrected = MaskCorrection.of(action, current, frame, (200, 50))
        assert corrected.points == ((100, 25), (199, 0)) and corrected.labels == (1, 0)


def test_a_negative_point_alone_gets_one_of_the_mask_beside_it():
    mask = np.zeros((60, 100), bool)
    mask[10:30, 10:30] = mask[10:30, 60:90] = True
    x, y = anchor(mask, (75, 20))
    assert mask[int(y), int(x)] and x < 30
    prompt = MaskCorrection(encode(mask), ((75.0, 20.0),), (0,)).prompt((16, 16))
    assert prompt.labels == (1, 0) and prompt.points[0] == (x, y) and prompt.mask.shape == (16, 16)
    nothing = MaskCorrection(encode(np.zeros_like(mask)), ((75.0, 20.0),), (1,)).prompt((16, 16))
    assert nothing.mask is None and nothing.labels == (1,)


def test_sam_draws_the_whole_from_a_half_and_a_point(judged, pipeline):
    sample = judged["half"]
    embeddings = pipeline.segmenter.embed([sample.open()])
    amended = MaskCorrection(sample.current_mask, sample.objects[0].points[:1], (1,))
    [[drawn]] = pipeline.segmenter.decode(embeddings, [[amended.prompt(embeddings.features[0].shape[-2:])]])
    true = decode(sample.mask())
    assert mask_iou(decode(sample.current_mask), true) < 0.6 < 0.85 < mask_iou(drawn.masks[0], true)


def test_objects_are_drawn_without_the_mask_so_far():
    mask = encode(np.eye(60, dtype=bool))
    [prompt] = correction_prompts(parse(f"[{OBJECT}]"), mask, stretch(10), (60, 60))
    assert (prompt.box, prompt.points, prompt.mask) == ((6, 12, 54, 48), ((18, 24),), None)
    assert labelled_points(prompt) == [((18, 24), 1)]
    for body in ("[]", '{"keep": true}', "well"):
        assert correction_prompts(parse(body), mask, stretch(10), (60, 60)) == []


def test_an_answer_that_draws_the_mask_again_keeps_it():
    mask = np.zeros((100, 100), bool)
    mask[30:70, 30:70] = True
    upper = mask & (np.arange(100) < 50)[:, None]
    answer = parse(f"[{OBJECT}, {OBJECT}]")
    for drawn, keeps in (
        ([mask], True),
        ([np.roll(mask, 1, axis=0)], True),  # along the border alone
        ([upper, mask & ~upper], True),  # in two pieces
        ([upper], False),
        ([], False),
    ):
        after = settled(answer, [encode(each) for each in drawn], encode(mask), (100, 100))
        assert (after.keeps, after.think) == (keeps, "t")
        assert keeps or after == answer
    keep, nothing = parse('{"keep": true}'), parse("[]")
    assert settled(keep, [], encode(mask), (100, 100)) == keep
    assert settled(nothing, [], encode(np.zeros_like(mask)), (100, 100)) == nothing
