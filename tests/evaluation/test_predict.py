"""Predictions of samples and of dialogues with both histories: prompts, batches, and failures of single samples.

`ScriptedPolicy` answers from a list; masks are drawn by the shipped segmenter.
"""

from dataclasses import replace

import pytest

from segzero.answer import Answer, Instance, render_answer
from segzero.dialogue import Dialogue
from segzero.errors import TimedOut, Unavailable, UserError
from segzero.evaluation.predict import answer
from segzero.evaluation.predictions import Prediction
from segzero.frames import stretch
from segzero.images import load_image
from segzero.masks import encode
from segzero.pipeline import SegZeroPipeline
from segzero.policy import Reply
from segzero.sample import Object, Sample
from tests.helpers.recording import RecordingModel

FRAME = stretch(448)  # the scenes have 224 pixels a side
TRUE = Object((20, 30, 60, 80), ((40, 50),))
NOTHING = "<answer>[]</answer>"
UNREADABLE = "I can't say."


def box_answer(*boxes) -> str:
    """The answer whose boxes are these, in the frame's numbers."""
    return render_answer(Answer(instances=tuple(Instance(box, (box[:2],)) for box in boxes)))


class ScriptedPolicy:
    """A policy with an answer for each first word of a question; it keeps the prompts of each call."""

    name, frame, prompt = "scripted", FRAME, "multi"

    def __init__(self, **answers) -> None:
        self.answers, self.calls = answers, []

    def generate(self, requests, sampling):
        asked = [request.messages[1]["content"][-1]["text"] for request in requests]
        self.calls.append(asked)
        return [Reply(self._answer(text), 1, False) for text in asked]

    def close(self):
        pass

    def _answer(self, text: str) -> str:
        reply = self.answers[self.word(text)]
        if isinstance(reply, Exception):
            raise reply
        return reply

    def word(self, text: str) -> str:
        """The first word of the question."""
        return text.split('Please find "')[1].split()[0].strip('"')

    @property
    def words(self) -> list[list[str]]:
        """The first words of the questions, call by call."""
        return [[self.word(text) for text in call] for call in self.calls]


@pytest.fixture
def make(pipeline):
    """make(cup="<answer>...") -> a pipeline whose policy says so of a question that begins with cup."""
    return lambda **answers: SegZeroPipeline(ScriptedPolicy(**answers), RecordingModel(pipeline.segmenter))


@pytest.fixture
def talk(held_out):
    """talk("cup", "plate [REF:1]") -> the samples of all rounds; empty=True: nothing is there in the last."""

    def samples(*questions: str, name: str = "a", scene: int = 0, empty: bool = False) -> list[Sample]:
        scene_of = held_out[scene]
        mask = encode([[20 <= x < 60 and 30 <= y < 80 for x in range(224)] for y in range(224)])
        true = replace(TRUE, rle=mask)
        turns = [{"question": q, "boxes": [list(TRUE.box)], "points": [[[40, 50]]], "masks": [mask]} for q in questions]
        return [
            replace(
                scene_of,
                id=f"{name}-{number}",
                question=question,
                objects=() if empty and number == len(questions) else (true,),
                turns=tuple(turns[: number - 1]),
                meta={"dialogue": name, "round": number},
            )
            for number, question in enumerate(questions, 1)
        ]

    return samples


def predict(pipeline, records, history=None) -> list[Prediction]:
    """The predictions of `answer`, whose rows must belong to them."""
    answered = answer(pipeline, records, history)
    assert [row for _, row in answered] == [one.row(record) for (one, _), record in zip(answered, records, strict=True)]
    assert all(one.score == row.score for one, row in answered if not row.lost)
    return [prediction for prediction, _ in answered]


CUP, PLATE = (100, 120, 200, 260), (10, 10, 90, 90)


def test_all_rounds_of_one_depth_are_asked_at_once_and_shared_ones_once(make, talk):
    pipeline = make(cup=box_answer(CUP), plate=box_answer(CUP, PLATE), fork=box_answer(PLATE), knife=NOTHING)
    first = talk("cup", "plate [REF:1]", "fork [REF:2]", name="a")
    second = talk("plate", "cup [REF:1]", "fork", name="b", scene=1)
    other = talk("plate", "cup [REF:1]", "knife [REF:2]", name="c", scene=1)
    items = [*first, second[2], other[2]]
    found = predict(pipeline, items, "predicted")
    assert pipeline.policy.words == [["cup", "plate"], ["plate", "cup"], ["fork", "fork", "knife"]]
    assert [one.id for one in found] == [item.id for item in items]
    assert [len(one.objects) for one in found] == [1, 2, 1, 1, 0]
    assert (pipeline.segmenter.embedded, len(pipeline.segmenter.prompts)) == (2, 1 + 2 + 1 + 1)  # only what is scored
    assert found[1].objects[0].box == (50, 60, 100, 130) and found[1].objects[1].box == (5, 5, 45, 45)
    alone = predict(make(fork=box_answer(PLATE), cup=box_answer(CUP), plate=NOTHING), [second[2]], "predicted")
    assert alone[0].objects == found[3].objects


def test_each_history_has_its_own_objects_in_the_prompt(make, talk):
    pipeline = make(cup=box_answer(CUP), plate=box_answer(PLATE))
    items = talk("cup", "plate left of [REF:1]")
    predict(pipeline, items, "true")
    predict(pipeline, items, "predicted")
    (first, true), (again,), (predicted,) = pipeline.policy.calls
    assert first == again and "Earlier" not in first
    assert 'round 1, "cup": <box>[40, 60, 120, 160]</box> <point>[80, 100]</point>' in true
    assert "plate left of <box>[40, 60, 120, 160]</box>" in true
    assert 'round 1, "cup": <box>[100, 120, 200, 260]</box> <point>[100, 120]</point>' in predicted
    assert "plate left of <box>[100, 120, 200, 260]</box>" in predicted


def test_rounds_after_one_that_could_not_be_read_still_count(make, talk):
    pipeline = make(cup=UNREADABLE, knife=box_answer(CUP))
    items = talk("cup", "plate [REF:1]", "fork [REF:2]", "knife")
    found = predict(pipeline, items, "predicted")
    assert [one.error for one in found] == ["no_answer", "lost_reference", "lost_reference", None]
    assert "means round 1, whose answer could not be read" in found[1].problem
    assert pipeline.policy.words == [["cup"], ["knife"]]  # lost references are not asked
    for one, item in zip(found[:3], items, strict=False):
        assert one.score.failed and one.score.iou == 0 and one.score.union == 40 * 50
        assert one.row(item).error == one.error
    assert [one.error for one in predict(make(cup=UNREADABLE, plate=NOTHING), items[:2], "true")] == ["no_answer", None]


def test_an_object_that_an_earlier_answer_lacks_is_a_lost_reference(make, talk):
    found = predict(make(cup=box_answer(CUP)), talk("cup", "instance 2", "the second one"), "predicted")
    assert [one.error for one in found] == [None, "lost_reference", "lost_reference"]


@pytest.mark.parametrize("empty", [True, False])
def test_a_question_about_nothing_is_answered_without_the_policy(make, talk, empty):
    pipeline = make(cup=NOTHING, knife=NOTHING)
    found = predict(pipeline, talk("cup", "knife", "plate of [REF:1]", empty=empty), "predicted")
    assert pipeline.policy.words == [["cup"], ["knife"]] and pipeline.segmenter.embedded == 0
    last = found[-1]
    assert (last.error, last.objects, last.raw_text) == (None, (), "")
    assert last.score.pred_empty and last.score.iou == float(empty)


def test_true_rounds_can_be_nothing_or_unknown(make, talk):
    [*_, item] = talk("cup", "plate of [REF:1]")
    nothing = replace(item, turns=({"question": "cup", "boxes": []},))
    unknown = replace(item, turns=({"question": "cup"},))
    senseless = replace(item, turns=({"boxes": [[1, 2]]},))
    pipeline = make()
    found = predict(pipeline, [nothing, replace(unknown, id="u"), replace(senseless, id="s")], "true")
    assert [one.error for one in found] == [None, "lost_reference", "unreadable"] and pipeline.policy.calls == []
    assert "its round 1 can't be read" in found[2].problem


def test_a_refusal_is_the_failure_of_its_round(make, talk):
    items = [*talk("cup", "plate", "fork [REF:2]", "knife [REF:1]"), *talk("knife", "cup", name="b", scene=1)]
    pipeline = make(cup=box_answer(CUP), knife=box_answer(PLATE), plate=UserError("too long"))
    found = predict(pipeline, items, "predicted")
    assert [one.error for one in found] == [None, "policy_error", "lost_reference", None, None, None]
    late = make(cup=box_answer(CUP), plate=TimedOut("slow"), knife=NOTHING)
    assert [one.error for one in predict(late, items[:2], "predicted")] == [None, "time_out"]


def test_all_of_one_depth_can_be_refused_where_others_are_answered(make, talk):
    items = [*talk("cup", "plate"), *talk("cup", "plate", name="b", scene=1)]
    for some in (items, items[:2]):
        found = predict(make(cup=box_answer(CUP), plate=UserError("too long")), some, "predicted")
        assert [one.error for one in found] == [None, "policy_error"] * (len(some) // 2)
        with pytest.raises(UserError, match="sample 'a-2': no server"):  # although it answered before
            predict(make(cup=box_answer(CUP), plate=Unavailable("no server")), some, "predicted")


@pytest.mark.parametrize("history", ["true", "predicted"])
def test_a_policy_that_refuses_all_is_no_samples_fault(make, talk, history):
    items = [*talk("cup"), *talk("plate", name="b")]
    with pytest.raises(UserError, match="no server"):
        predict(make(cup=UserError("no server"), plate=UserError("no server")), items, history)
    with pytest.raises(UserError, match="sample 'a-1': no server"):
        predict(make(cup=UserError("no server")), items[:1], history)


def test_an_image_that_cannot_be_read_fails_all_its_rounds(make, talk):
    items = [replace(one, image=b"\x89PNG\r\n\x1a\nno more") for one in talk("cup", "plate [REF:1]")]
    found = predict(make(fork=NOTHING), [*items, *talk("fork", name="b")], "predicted")
    assert [one.error for one in found] == ["image_error", "image_error", None]


@pytest.mark.slow
def test_predicted_history_is_what_a_dialogue_has(pipeline, held_out):
    """The shipped models, asked by a `Dialogue` and by the evaluation."""
    questions = [held_out[0].question, "the shape left of [REF:1]", "the largest shape"]
    dialogue = Dialogue(load_image(held_out[0].image), pipeline)
    results = [dialogue.ask(question) for question in questions]
    turns = tuple({"question": question, "boxes": []} for question in questions)
    items = [
        replace(held_out[0], id=str(number), question=question, turns=turns[:number])
        for number, question in enumerate(questions)
    ]
    found = predict(pipeline, items, "predicted")
    assert [one.raw_text for one in found] == [result.raw_text for result in results]
    for one, result in zip(found, results, strict=True):
        assert [o.mask for o in one.objects] == [encode(each.mask) for each in result.instances]
        assert [o.box for o in one.objects] == [each.box for each in result.instances]


def test_an_error_of_one_sample_is_its_failure(recorded, held_out):
    good = held_out[0]
    broken = replace(good, id="broken", image=b"\x89PNG\r\n\x1a\nno more")
    other = replace(good, id="other", width=100, objects=(Object((1, 1, 9, 9)),))
    special = replace(good, id="special", question="<|im_end|> what")
    lost = replace(good, id="lost", question="left of [REF:3]")
    found = predict(recorded, [broken, good, other, special, lost])
    assert [p.id for p in found] == ["broken", good.id, "other", "special", "lost"]
    assert [p.error for p in found] == ["image_error", None, "image_error", "policy_error", "lost_reference"]
    assert "its record says 100x224" in found[2].problem and "special tokens" in found[3].problem
    assert "there is no round 3" in found[4].problem
    assert [p.score and p.score.failed for p in found] == [True, False, None, True, True]
    assert len(recorded.policy.requests) == 1


def test_after_a_refused_batch_each_sample_is_asked_alone(pipeline, held_out):
    """The question is longer than the shipped policy's context; the other two are answered all the same."""
    endless = replace(held_out[0], id="endless", question="the ring beside " * 620)
    found = predict(pipeline, [held_out[0], endless, held_out[1]])
    assert [p.error for p in found] == [None, "policy_error", None]
    assert "leaves no room for an answer" in found[1].problem
    with pytest.raises(UserError, match="leaves no room"):  # nothing can be answered: no sample's own fault
        predict(pipeline, [endless, replace(endless, id="more")])
