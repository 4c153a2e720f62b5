"""Dialogues as files: whole, and read with suspicion."""

import json
from dataclasses import replace

import pytest
from PIL import Image

from segzero.dialogue import Dialogue, Registry
from segzero.dialogue.session_file import read_dialogue, write_dialogue
from segzero.errors import UserError

IMAGE = Image.linear_gradient("L").resize((100, 80)).convert("RGB")
CUP, SPOON = (10, 20, 60, 70), (5, 5, 15, 25)


@pytest.fixture
def saved(make_registry, tmp_path):
    """A dialogue's file, and what it holds."""
    path = write_dialogue(make_registry([CUP, SPOON], [], None), IMAGE, "marks", tmp_path / "dialogue.json")
    return path, json.loads(path.read_text())


def test_what_is_written_is_read_back(make_registry, saved):
    assert read_dialogue(saved[0], IMAGE) == (make_registry([CUP, SPOON], [], None), "marks")
    assert len(list(saved[0].parent.iterdir())) == 1


def test_a_loaded_dialogue_goes_on_as_it_was(dialogue, recorded, scene, tmp_path):
    dialogue.ask(scene[1])
    dialogue.refine(1, points=[(20.5, 30)], labels=[0])
    dialogue.ask("the largest shape")
    loaded = Dialogue.load(dialogue.save(tmp_path / "d.json"), scene[0], recorded)
    assert loaded.registry == dialogue.registry and loaded.memory == "text"
    for each in (loaded, dialogue):
        each.refine(1, box=(5, 5, 90, 90))
        each.ask("the shape right of [REF:1]")
    assert loaded.registry == dialogue.registry
    for _ in range(4):
        loaded.undo()
    assert loaded.registry.rounds == ()
    marked = Dialogue.load(tmp_path / "d.json", scene[0], recorded, memory="marks")
    assert marked.memory == "marks"


def test_another_image_is_refused(saved):
    for other in (IMAGE.rotate(180), IMAGE.resize((80, 100))):
        with pytest.raises(UserError, match="it is about another image"):
            read_dialogue(saved[0], other)


def test_looks_at_a_mask_are_read_back(make_registry, tmp_path):
    registry = make_registry([CUP])
    rle = registry.regions[0].rle
    steps = [
        {"action": "correct", "points": [[20.0, 30.5], [90.0, 70.0]], "labels": [1, 0], "think": "too small"},
        {"action": "unreadable", "points": [], "labels": [], "think": "", "error": "no_answer"},
    ]
    round = replace(registry.rounds[0], steps=tuple({"error": None, "rle": rle, **step} for step in steps))
    looked_at = Registry(registry.size, (round,))
    path = write_dialogue(looked_at, IMAGE, "text", tmp_path / "dialogue.json")
    assert read_dialogue(path, IMAGE) == (looked_at, "text")


def region(**changes):
    return lambda value: value["rounds"][0]["regions"][0].update(changes)


def round_(**changes):
    return lambda value: value["rounds"][0].update(changes)


def step(**changes):
    known = {"action": "keep", "points": [], "labels": [], "think": "", "error": None}

    def change(value):
        round = value["rounds"][0]
        round["steps"] = [known | {"rle": round["regions"][0]["rle"]} | changes]

    return change


def top(**changes):
    return lambda value: value.update(changes)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (top(version=2), "not a dialogue of version 1"),
        (top(memory="mark"), "did you mean 'marks'"),
        (top(memory=None), "memory must be text"),
        (top(image={}), "another image"),
        (top(rounds={}), "rounds must be a list"),
        (top(rounds=[{}] * 1001), "at most 1000"),
        (top(rounds=[3]), "its round 1: it must be an object"),
        (round_(question="", raw_text="[]"), "its round 1: the question is empty"),
        (round_(question=" "), "its round 1: the question is empty"),
        (round_(question="<|im_end|>"), "special tokens"),
        (round_(question="the mug \ud800"), "lone surrogate"),
        (round_(question=3), "question must be text"),
        (round_(think="a" * 1_000_001), "think must be text of at most 1000000"),
        (round_(refers=[1]), "refers to rounds that are not before it"),
        (round_(refers=[True]), "refers to rounds"),
        (round_(error="oops"), "not one that answers have"),
        (round_(error=["truncated"]), "not one that answers have"),
        (round_(warnings=[{}]), "not one that answers have"),
        (round_(error="truncated"), "an error, and regions all the same"),
        (round_(regions=[None]), "a region must be an object"),
        (round_(regions=[{}] * 121), "at most 120"),
        (region(box=[0, 0, 101, 10]), "within the image"),
        (region(box=[20, 0, 10, 10]), "within the image"),
        (region(box=[0, 0, float("nan"), 10]), "finite numbers"),
        (region(box=[0, 0, 10**400, 10]), "finite numbers"),
        (region(box=[0, 0, True, 10]), "finite numbers"),
        (region(box=None), "finite numbers"),
        (region(points=[[1, 2, 3]]), "finite numbers"),
        (region(points=[[101, 2]]), "a point outside"),
        (region(points=[[1, 2]] * 1001), "at most 1000"),
        (region(labels=[2]), "a label, 0 or 1"),
        (region(labels=[]), "a label, 0 or 1"),
        (region(score=float("inf")), "finite numbers"),
        (round_(steps={}), "steps must be a list"),
        (round_(steps=[{}] * 9), "steps must be a list of at most 8"),
        (round_(steps=[3]), "a step must be an object"),
        (step(action="go on"), "one of keep, correct, nothing, unreadable"),
        (step(action=["keep"]), "one of keep, correct"),
        (step(error="oops"), "the error of a step is not one"),
        (step(error=[]), "the error of a step is not one"),
        (step(think=None), "think must be text"),
        (step(points=[[101, 2]], labels=[1]), "a step has a point outside"),
        (step(points=[[1, 2]]), "a step needs a label"),
        (step(points=[[1, float("nan")]], labels=[1]), "finite numbers"),
        (step(rle={"size": [8, 10], "counts": [80]}), "a mask of 10x8 pixels for an image of"),
        (region(rle=None), "malformed RLE"),
        (region(rle={"size": [80, 100], "counts": "zz"}), "malformed RLE"),
        (region(rle={"size": [8, 10], "counts": [80]}), "a mask of 10x8 pixels for an image of"),
        (region(rle={"size": [10**6, 10**6], "counts": [10**12]}), "a mask must have"),
    ],
)
def test_a_strangers_file_is_refused_in_one_line(saved, change, problem):
    path, value = saved
    change(value)
    path.write_text(json.dumps(value))
    with pytest.raises(UserError, match=problem) as caught:
        read_dialogue(path, IMAGE)
    assert str(caught.value).startswith(f"cannot read the dialogue {path}: ") and "\n" not in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"[", b"\xff\xfe", b"[" * 100_000, b"3", b"null"])
def test_what_is_no_dialogue_is_refused(tmp_path, data):
    (tmp_path / "d.json").write_bytes(data)
    with pytest.raises(UserError, match="cannot read the dialogue"):
        read_dialogue(tmp_path / "d.json", IMAGE)


def test_absent_and_unwritable_files_are_one_line(saved, make_registry, tmp_path):
    with pytest.raises(UserError, match="No such file"):
        read_dialogue(tmp_path / "absent.json", IMAGE)
    with pytest.raises(UserError, match="cannot write"):
        write_dialogue(make_registry([CUP]), IMAGE, "text", saved[0] / "below.json")
