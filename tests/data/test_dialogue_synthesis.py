"""Dialogues from annotated instances: every answer is unambiguous, and ambiguous questions are not asked."""

import json

import numpy as np
import pytest

from segzero.data.check import check
from segzero.data.dialogue_synthesis import (
    RoundQuestion,
    Thing,
    as_samples,
    choose_question,
    extend_dialogue,
    follow_ups,
    things_of,
)
from segzero.data.parquet import from_parquet
from segzero.data.prepare import prepare
from segzero.data.readers import read
from segzero.data.recipe import SampleRecipe
from segzero.dialogue.prompting import build_prompt, registry_from_turns
from segzero.errors import UserError
from segzero.frames import stretch
from segzero.masks import decode, encode
from segzero.sample import Object, Sample
from tests.helpers.reader_files import box_mask, png, write_json

SIZE = (100, 100)


def thing(name: str, x: float, y: float, side: float = 10, whole: int | None = None, **words: str) -> Thing:
    box = (x - side / 2, y - side / 2, x + side / 2, y + side / 2)
    mask = box_mask(*map(int, box), SIZE)
    return Thing(name, Object(box, ((x, y),), encode(mask)), words, whole)


def questions_about(things, answer, any_name: str = "") -> dict[str, tuple[int, ...]]:
    return {question.text: question.targets for question in follow_ups(things, answer, 1, SIZE, any_name)}


def test_a_side_needs_a_single_thing_there_and_the_others_clearly_elsewhere():
    desk = [thing("mug", 50, 50), thing("pen", 20, 50), thing("pen", 80, 50), thing("pen", 90, 20)]
    questions = questions_about(desk, (0,))
    assert questions["the pen left of [REF:1]"] == (1,)
    assert "the pen right of [REF:1]" not in questions, "there are two"
    assert "the pen above [REF:1]" not in questions, "two others are as high as the mug"
    assert not any("mug" in text for text in questions)


def test_nothing_on_a_side_is_an_answer_if_all_others_are_clearly_on_the_other():
    desk = [thing("mug", 20, 50), thing("pen", 60, 20), thing("pen", 80, 80)]
    questions = {question.text: question for question in follow_ups(desk, (0,), 2, SIZE)}
    empty = questions["the pen left of [REF:2]"]
    assert (empty.kind, empty.targets, empty.refers_to) == ("nothing", (), 2)
    desk[1] = thing("pen", 18, 20)
    assert "the pen left of [REF:1]" not in questions_about(desk, (0,))


def test_a_name_that_fits_everything_compares_with_all():
    desk = [thing("mug", 50, 50), thing("pen", 20, 20), thing("cup", 80, 80)]
    assert questions_about(desk, (0,), "object")["the object left of [REF:1]"] == (1,)
    assert "the object left of [REF:1]" not in questions_about(desk, (0,))


def test_others_of_the_same_are_all_that_share_the_attribute():
    desk = [thing("pen", 10, 10, colour="red"), thing("pen", 50, 50, colour="blue"), thing("mug", 80, 80, colour="red")]
    questions = questions_about(desk, (0,))
    assert questions["others of the same kind as [REF:1]"] == (1,)
    assert questions["others of the same colour as [REF:1]"] == (2,)
    assert questions_about(desk, (1,))["others of the same colour as [REF:1]"] == ()


def test_choices_among_several_need_a_clear_lead():
    pens = [thing("pen", 20, 20, 30, colour="red"), thing("pen", 50, 22, 10, colour="blue"), thing("mug", 90, 90)]
    questions = questions_about(pens, (0, 1))
    assert questions["the leftmost of [REF:1]"] == (0,) and questions["the largest of [REF:1]"] == (0,)
    assert questions["the smallest of [REF:1]"] == questions["the blue one of [REF:1]"] == (1,)
    assert "the topmost of [REF:1]" not in questions, "they are at nearly the same height"
    assert not any("left of" in text for text in questions), "which of them it is left of would be ambiguous"


def test_parts_and_wholes():
    room = [thing("chair", 30, 30, 40), thing("chair", 80, 80, 30), thing("leg", 20, 40, 8, whole=0)]
    assert questions_about(room, (0,))["the leg of [REF:1]"] == (2,)
    assert questions_about(room, (1,))["the leg of [REF:1]"] == ()
    assert questions_about(room, (2,)) == {"the whole of [REF:1]": (0,)}


def test_a_part_lies_in_a_larger_thing_of_another_name():
    def of(name: str, *boxes) -> Sample:
        objects = tuple(Object(box, (), encode(box_mask(*box, SIZE))) for box in boxes)
        return Sample(name, "", name, *SIZE, objects, category=name)

    things = things_of([of("chair", (10, 10, 50, 50), (60, 60, 90, 90)), of("leg", (12, 40, 16, 50), (0, 0, 12, 12))])
    assert [question.whole for question in things] == [None, None, 0, None]


def test_a_dialogue_repeats_nothing_and_refers_to_earlier_answers():
    room = [thing("chair", 15 + 20 * i, 20 + 15 * i, colour=c) for i, c in enumerate(("red", "blue", "red", "green"))]
    first = RoundQuestion("first", "the green chair", (3,))
    for seed in range(20):
        questions = extend_dialogue([first], room, SIZE, 4, np.random.default_rng(seed))
        assert len({question.text for question in questions}) == len(questions) == 4
        for number, question in enumerate(questions[1:], 2):
            assert 1 <= question.refers_to < number and questions[question.refers_to - 1].targets
            assert f"[REF:{question.refers_to}]" in question.text


def test_questions_for_nothing_are_rare_unless_asked_for():
    possible = [RoundQuestion("nothing", str(i), ()) for i in range(50)] + [RoundQuestion("same", "x", (1,))]
    rng = np.random.default_rng(0)
    chosen = [choose_question(possible, rng) for _ in range(400)]
    share = sum(question is not None and question.kind == "nothing" for question in chosen) / 400
    assert 0.13 < share < 0.27
    assert 0.6 < sum(choose_question(possible[:50], rng) is None for _ in range(100)) / 100 < 0.95, (
        "rare also where all are"
    )
    some = choose_question(possible, rng, "nothing")
    assert some is not None and some.kind == "nothing" and choose_question(possible, rng, "part") is None


def test_each_round_is_a_sample_with_the_rounds_before_it():
    room = [thing("mug", 20, 50), thing("pen", 60, 20), thing("pen", 80, 80)]
    questions = [
        RoundQuestion("first", "the mug", (0,)),
        RoundQuestion("same", "the pen left of [REF:1]", (), 1, "left of"),
    ]
    template = Sample("room-7", "room.png", "the mug", *SIZE, meta={"image_id": 7})
    first, second = as_samples(questions, room, template)
    assert (first.id, first.turns, first.objects) == ("room-7-1", (), (room[0].object,))
    assert (second.id, second.empty, second.meta["references"]) == ("room-7-2", True, [1])
    assert second.meta["dialogue"] == "room-7" and second.meta["round"] == 2 and second.meta["image_id"] == 7
    registry = registry_from_turns(second.turns, SIZE)
    assert (decode(registry.regions[0].rle) == decode(room[0].object.rle)).all()
    prompt = build_prompt(second.question, registry, stretch(200))
    assert prompt.question == "the pen left of <box>[30, 90, 50, 110]</box>"
    assert prompt.notes.endswith('round 1, "the mug": <box>[30, 90, 50, 110]</box> <point>[40, 100]</point>')


@pytest.fixture
def coco(tmp_path):
    """Two images: a cat left of two dogs of very different sizes; a cat with its nose."""
    folder = tmp_path / "coco"
    (folder / "images").mkdir(parents=True)
    boxes = [[(0, 5, 40, 15, 50), (1, 50, 10, 90, 50), (1, 60, 70, 72, 82)], [(0, 20, 20, 80, 80), (2, 40, 40, 50, 50)]]
    annotations, images = [], []
    for number, there in enumerate(boxes):
        (folder / "images" / f"{number}.png").write_bytes(png(SIZE, (number, 60, 90)))
        images.append({"id": number, "file_name": f"{number}.png", "width": 100, "height": 100})
        for category, *box in there:
            rle = encode(box_mask(*box, SIZE))
            found = {"id": len(annotations), "image_id": number, "category_id": category, "segmentation": rle}
            annotations.append(found)
    names = [{"id": id, "name": name} for id, name in enumerate(("cat", "dog", "nose"))]
    return write_json(folder / "instances.json", {"images": images, "annotations": annotations, "categories": names})


def test_prepared_dialogues_pass_the_check(coco, tmp_path):
    card = prepare(str(coco), "coco", tmp_path / "out", SampleRecipe(dialogues=3))
    samples = list(from_parquet(tmp_path / "out"))
    later = [sample for sample in samples if sample.turns]
    assert card.kinds["as read"] == 4 and card.kinds["later rounds"] == len(later) >= 4
    assert {sample.meta["round"] for sample in later} == {2, 3}
    assert all(sample.turns[-1]["points"] for sample in later if sample.turns[-1]["boxes"])
    report = check(tmp_path / "out")
    assert report.ok, report.wrong
    again = prepare(str(coco), "coco", tmp_path / "again", SampleRecipe(dialogues=3), workers=2)
    assert again.kinds == card.kinds and list(from_parquet(tmp_path / "again")) == samples


def test_incomplete_annotations_allow_choices_only(coco, tmp_path):
    value = json.loads(coco.read_text())
    for image in value["images"]:
        image["neg_category_ids"] = []  # as LVIS, which annotates no more than what it looked for
    coco.write_text(json.dumps(value))
    prepare(str(coco), "coco", tmp_path / "out", SampleRecipe(dialogues=2))
    later = [sample for sample in from_parquet(tmp_path / "out") if sample.turns]
    assert later and {sample.category for sample in later} == {"choice"}


def test_dialogues_of_one_round_are_refused():
    with pytest.raises(UserError, match="--dialogues 1: a dialogue has 2 to 12 rounds"):
        SampleRecipe(dialogues=1)


def test_questions_stay_as_read_if_no_dialogue_is_possible(coco, tmp_path):
    value = json.loads(coco.read_text())
    value["annotations"] = value["annotations"][:1]
    value["images"][0]["neg_category_ids"] = []
    coco.write_text(json.dumps(value))
    prepare(str(coco), "coco", tmp_path / "out", SampleRecipe(dialogues=3))
    [sample] = from_parquet(tmp_path / "out")
    [as_read] = read(coco, "coco")
    assert (sample.id, sample.question, sample.meta["round"]) == (as_read.id, as_read.question, 1)
