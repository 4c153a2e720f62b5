"""Rounds asked with true and with predicted history: in which order, how often, with what they are told.

`Listed` is a policy that answers from a list; what is drawn is drawn by the shipped segmenter.
"""

from dataclasses import replace

import pytest

from segzero.answer import Answer, Instance, render_answer
from segzero.dialogue import Dialogue
from segzero.errors import TimedOut, Unavailable, UserError
from segzero.evaluation.predict import answer
from segzero.frames import stretch
from segzero.images import load_image
from segzero.masks import encode
from segzero.pipeline import SegZeroPipeline
from segzero.policy import Reply
from segzero.sample import Object, Sample

FRAME = stretch(448)  # the scenes have 224 pixels a side
TRUE = Object((20, 30, 60, 80), ((40, 50),))
NOTHING = "<answer>[]</answer>"
UNREADABLE = "I can't say."


def box_answer(*boxes) -> str:
    """The answer whose boxes are these, in the frame's numbers."""
    return render_answer(Answer(instances=tuple(Instance(box, (box[:2],)) for box in boxes)))


class Listed:
    """Answers by a word of the question; what it was asked is kept, call by call."""

    name, frame, prompt = "listed", FRAME, "multi"

    def __init__(self, **answers) -> None:
        self.answers, self.calls = answers, []

    def generate(self, requests, sampling):
        asked = [request.messages[1]["content"][-1]["text"] for request in requests]
        self.calls.append(asked)
        return [Reply(self._answer(text), 1, False) for text in asked]

    def close(self):
        pass

    def _answer(self, text: str) -> str:
        said = self.answers[self.word(text)]
        if isinstance(said, Exception):
            raise said
        return said

    def word(self, text: str) -> str:
        """The first word of the question."""
        return text.split('Please find "')[1].split()[0].strip('"')

    @property
    def words(self) -> list[list[str]]:
        """The first words of the questions, call by call."""
        return [[self.word(text) for text in call] for call in self.calls]


class Counting:
    """The segmenter itself; how many images and prompts it gets is counted."""

    def __init__(self, segmenter) -> None:
        self.segmenter, self.images, self.prompts = segmenter, 0, 0

    def embed(self, images):
        self.images += len(images)
        return self.segmenter.embed(images)

    def decode(self, embeddings, prompts, all_masks=False):
        self.prompts += sum(map(len, prompts))
        return self.segmenter.decode(embeddings, prompts, all_masks)


@pytest.fixture
def make(pipeline):
    """make(cup="<answer>...") -> a pipeline whose policy says so of a question that begins with cup."""
    return lambda **answers: SegZeroPipeline(Listed(**answers), Counting(pipeline.segmenter))


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


CUP, PLATE = (100, 120, 200, 260), (10, 10, 90, 90)


def test_all_rounds_of_one_depth_are_asked_at_once_and_shared_ones_once(make, talk):
    pipeline = make(cup=box_answer(CUP), plate=box_answer(CUP, PLATE), fork=box_answer(PLATE), knife=NOTHING)
    first = talk("cup", "plate [REF:1]", "fork [REF:2]", name="a")
    second = talk("plate", "cup [REF:1]", "fork", name="b", scene=1)
    other = talk("plate", "cup [REF:1]", "knife [REF:2]", name="c", scene=1)
    items = [*first, second[2], other[2]]
    found = answer(pipeline, items, "predicted")
    assert pipeline.policy.words == [["cup", "plate"], ["plate", "cup"], ["fork", "fork", "knife"]]
    assert [one.id for one in found] == [item.id for item in items]
    assert [len(one.objects) for one in found] == [1, 2, 1, 1, 0]
    assert (pipeline.segmenter.images, pipeline.segmenter.prompts) == (2, 1 + 2 + 1 + 1)  # only what is scored
    assert found[1].objects[0].box == (50, 60, 100, 130) and found[1].objects[1].box == (5, 5, 45, 45)
    alone = answer(make(fork=box_answer(PLATE), cup=box_answer(CUP), plate=NOTHING), [second[2]], "predicted")
    assert alone[0].objects == found[3].objects


def test_each_history_is_told_its_own(make, talk):
    pipeline = make(cup=box_answer(CUP), plate=box_answer(PLATE))
    items = talk("cup", "plate left of [REF:1]")
    answer(pipeline, items, "true")
    answer(pipeline, items, "predicted")
    (first, true), (again,), (predicted,) = pipeline.policy.calls
    assert first == again and "Earlier" not in first
    assert 'round 1, "cup": <box>[40, 60, 120, 160]</box> <point>[80, 100]</point>' in true
    assert "plate left of <box>[40, 60, 120, 160]</box>" in true
    assert 'round 1, "cup": <box>[100, 120, 200, 260]</box> <point>[100, 120]</point>' in predicted
    assert "plate left of <box>[100, 120, 200, 260]</box>" in predicted


def test_rounds_after_one_that_could_not_be_read_still_count(make, talk):
    pipeline = make(cup=UNREADABLE, knife=box_answer(CUP))
    items = talk("cup", "plate [REF:1]", "fork [REF:2]", "knife")
    found = answer(pipeline, items, "predicted")
    assert [one.error for one in found] == ["no_answer", "lost_reference", "lost_reference", None]
    assert "means round 1, whose answer could not be read" in found[1].problem
    assert pipeline.policy.words == [["cup"], ["knife"]]  # what can't be said is not asked
    for one, item in zip(found[:3], items, strict=False):
        assert one.score.failed and one.score.iou == 0 and one.score.union == 40 * 50
        assert one.row(item).error == one.error
    assert [one.error for one in answer(make(cup=UNREADABLE, plate=NOTHING), items[:2], "true")] == ["no_answer", None]


def test_what_an_earlier_answer_does_not_have_is_lost_too(make, talk):
    found = answer(make(cup=box_answer(CUP)), talk("cup", "instance 2", "the second one"), "predicted")
    assert [one.error for one in found] == [None, "lost_reference", "lost_reference"]


@pytest.mark.parametrize("empty", [True, False])
def test_what_relates_to_nothing_is_nothing_without_asking(make, talk, empty):
    pipeline = make(cup=NOTHING, knife=NOTHING)
    found = answer(pipeline, talk("cup", "knife", "plate of [REF:1]", empty=empty), "predicted")
    assert pipeline.policy.words == [["cup"], ["knife"]] and pipeline.segmenter.images == 0
    last = found[-1]
    assert (last.error, last.objects, last.raw_text) == (None, (), "")
    assert last.score.pred_empty and last.score.iou == float(empty)


def test_true_rounds_can_be_nothing_or_unknown(make, talk):
    [*_, item] = talk("cup", "plate of [REF:1]")
    nothing = replace(item, turns=({"question": "cup", "boxes": []},))
    unknown = replace(item, turns=({"question": "cup"},))
    senseless = replace(item, turns=({"boxes": [[1, 2]]},))
    pipeline = make()
    found = answer(pipeline, [nothing, replace(unknown, id="u"), replace(senseless, id="s")], "true")
    assert [one.error for one in found] == [None, "lost_reference", "unreadable"] and pipeline.policy.calls == []
    assert "its round 1 can't be read" in found[2].problem


def test_what_is_refused_is_that_rounds_failure(make, talk):
    items = [*talk("cup", "plate", "fork [REF:2]", "knife [REF:1]"), *talk("knife", "cup", name="b", scene=1)]
    pipeline = make(cup=box_answer(CUP), knife=box_answer(PLATE), plate=UserError("too long"))
    found = answer(pipeline, items, "predicted")
    assert [one.error for one in found] == [None, "policy_error", "lost_reference", None, None, None]
    late = make(cup=box_answer(CUP), plate=TimedOut("slow"), knife=NOTHING)
    assert [one.error for one in answer(late, items[:2], "predicted")] == [None, "time_out"]


def test_all_of_one_depth_can_be_refused_where_others_are_answered(make, talk):
    items = [*talk("cup", "plate"), *talk("cup", "plate", name="b", scene=1)]
    for some in (items, items[:2]):
        found = answer(make(cup=box_answer(CUP), plate=UserError("too long")), some, "predicted")
        assert [one.error for one in found] == [None, "policy_error"] * (len(some) // 2)
        with pytest.raises(UserError, match="sample 'a-2': no server"):  # that it answered before is no comfort
            answer(make(cup=box_answer(CUP), plate=Unavailable("no server")), some, "predicted")


@pytest.mark.parametrize("history", ["true", "predicted"])
def test_a_policy_that_refuses_all_is_no_samples_fault(make, talk, history):
    items = [*talk("cup"), *talk("plate", name="b")]
    with pytest.raises(UserError, match="no server"):
        answer(make(cup=UserError("no server"), plate=UserError("no server")), items, history)
    with pytest.raises(UserError, match="sample 'a-1': no server"):
        answer(make(cup=UserError("no server")), items[:1], history)


def test_an_image_that_cannot_be_read_fails_all_its_rounds(make, talk):
    items = [replace(one, image=b"\x89PNG\r\n\x1a\nno more") for one in talk("cup", "plate [REF:1]")]
    found = answer(make(fork=NOTHING), [*items, *talk("fork", name="b")], "predicted")
    assert [one.error for one in found] == ["image_error", "image_error", None]


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
    found = answer(pipeline, items, "predicted")
    assert [one.raw_text for one in found] == [result.raw_text for result in results]
    for one, result in zip(found, results, strict=True):
        assert [o.mask for o in one.objects] == [encode(each.mask) for each in result.instances]
        assert [o.box for o in one.objects] == [each.box for each in result.instances]
