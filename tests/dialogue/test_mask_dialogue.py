"""Dialogues with a mask model: masks that a question refers to reach it, and clicks go to a segmenter."""

import json

import numpy as np
import pytest

from segzero.dialogue import Dialogue
from segzero.errors import UserError
from segzero.mask_pipeline import MaskPipeline
from tests.helpers.drawn_halves import DrawnHalves


def test_the_mask_of_each_reference_reaches_the_model(scene):
    model = DrawnHalves()
    dialogue = Dialogue(scene[0], MaskPipeline(model))
    first = dialogue.ask("the left half")
    rest = dialogue.ask("what is not in [REF:1]")
    assert rest.empty and dialogue.registry.rounds[1].refers == (1,)
    dialogue.ask("what lies between [REF:1] and [REF:2]")
    assert [question.question for question in model.asked][1:] == [
        "what is not in [REF:1]",
        "what lies between [REF:1] and [REF:2]",
    ]
    (one,), (again, nothing) = (question.earlier for question in model.asked[1:])
    assert np.array_equal(one, first.union) and np.array_equal(again, one) and not nothing.any()
    assert dialogue.ask("what is beside [REF:2]").empty and len(model.asked) == 3  # nothing relates to nothing


def test_corrections_need_a_segmenter(scene, pipeline):
    dialogue = Dialogue(scene[0], MaskPipeline(DrawnHalves()))
    dialogue.ask("the left half")
    with pytest.raises(UserError, match="there is no segmenter beside the mask model"):
        dialogue.refine(1, [(3, 3)])
    model = DrawnHalves()
    dialogue = Dialogue(scene[0], MaskPipeline(model, segmenter=pipeline.segmenter))
    before = dialogue.ask("the left half").union
    corrected = dialogue.refine(1, [(3, 3)], [0]).union
    assert not np.array_equal(before, corrected)
    dialogue.ask("the rest of it")
    assert np.array_equal(model.asked[-1].earlier[0], corrected)


def test_a_dialogue_goes_on_with_other_models(scene, recorded, tmp_path):
    dialogue = Dialogue(scene[0], MaskPipeline(DrawnHalves()))
    dialogue.ask("the left half")
    path = dialogue.save(tmp_path / "dialogue.json")
    assert Dialogue.load(path, scene[0], MaskPipeline(DrawnHalves())).memory == "masks"
    other = Dialogue.load(path, scene[0], recorded)
    assert other.memory == "text" and len(other.registry.regions) == 1
    with pytest.raises(UserError, match="unknown memory mode 'masks'"):
        Dialogue(scene[0], recorded, "masks")


def test_the_command_asks_a_mask_model(scene, mask_model, tmp_path, run_segzero, monkeypatch):
    scene[0].save(tmp_path / "scene.png")
    lines = iter([scene[1], "/refine 1 60,60", "what is left of it", "exit"])
    monkeypatch.setattr("builtins.input", lambda prompt: next(lines))
    monkeypatch.chdir(tmp_path)
    code, out, _ = run_segzero("chat", "scene.png", "--mask-model", mask_model)
    assert code == 0 and "using the small one" in out  # the segmenter, for /refine
    rounds = sorted(tmp_path.glob("dialogue/round_*.json"))
    assert len(rounds) == 2 and not json.loads(rounds[0].read_text())["think"]
