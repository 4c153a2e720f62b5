"""`segzero words`: its output, its files, and its errors."""

import json

import pytest

from segzero.shipped import policy_path, segmenter_path
from segzero.tiny.questions import HELD_OUT_SEED
from segzero.tiny.scenes import make_scene
from tests.helpers.random_sam3 import build_sam3

OURS = ["--policy-backend", "transformers"]


@pytest.fixture(scope="module")
def sam3(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sam3")
    build_sam3(folder)
    return str(folder)


@pytest.fixture
def run(run_segzero, monkeypatch, tmp_path):
    """Run `segzero words ARGS` in a folder with a scene."""
    import numpy as np
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    Image.fromarray(make_scene(np.random.default_rng(HELD_OUT_SEED + 21)).image).save("scene.png")
    return lambda *arguments: run_segzero("words", *arguments)


def test_each_phrase_has_its_files_and_its_line(run, tmp_path):
    code, out, _ = run("scene.png", "all the shapes", "[b]dog", "--format", "json,coco", "--out", "found", *OURS)
    assert code == 0 and "no --policy given" in out
    lines = out.replace("\n", " ")
    assert "all the shapes: " in lines and "[b]dog: " in lines and "presence " in lines
    names = {path.name for path in (tmp_path / "found").iterdir()}
    assert names == {"scene_1.json", "scene_1_coco.json", "scene_2.json", "scene_2_coco.json"}
    answer = json.loads((tmp_path / "found" / "scene_1.json").read_text())
    assert answer["question"] == "all the shapes" and 0 <= answer["presence"] <= 1 and len(answer["instances"]) > 1


def test_sam3_needs_no_policy_and_heeds_boxes(run, tmp_path, sam3):
    options = ["--segmenter", sam3, "--box-threshold", "0.0", "--text-threshold", "0", "--format", "json"]
    code, out, _ = run("scene.png", "red cup", *options, "--out", "a")
    assert code == 0 and "12 found" in out and "policy" not in out
    code, _, _ = run("scene.png", "red cup", *options, "--out", "b", "--box", "9,9,60,60", "--not-box", "80,80,99,99")
    assert code == 0
    plain, shown = (json.loads((tmp_path / name / "scene.json").read_text()) for name in "ab")
    assert plain["presence"] != shown["presence"]
    code, out, _ = run("scene.png", "red cup", *options[:2], "--text-threshold", "1", "--out", "c")
    assert code == 0 and "red cup: nothing there, presence 0." in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["scene.png", ""], "a phrase is empty"),
        (["scene.png", *["cup"] * 33], "33 phrases; at most 32"),
        (["scene.png", "x" * 201], "201 characters; at most 200"),
        (["scene.png", "cup", "--box-threshold", "1.5"], "the box threshold is 1.5; give a number from 0 to 1"),
        (["scene.png", "cup", "--text-threshold", "nan"], "the text threshold is nan"),
        (["nowhere.png", "cup"], "nowhere.png"),
        (["scene.png", "cup", "--format", "gif"], "format 'gif'"),
        (["scene.png", "cup", "--box", "5,5,1,1"], "--box 5,5,1,1: x1 must be above x0"),
        (["scene.png", "cup", "--not-box", "0,0,9"], "--not-box 0,0,9: write x0,y0,x1,y1 in pixels"),
        (["scene.png", "cup", "--box", "1,1,9,9"], "--box: boxes beside phrases are for SAM3"),
        (["scene.png", "cup", "--segmenter", str(policy_path())], "not a segmenter"),
        (["scene.png", "cup", "--segmenter", "no/where/here"], "no such segmenter"),
        (["scene.png", "cup", "--mask-model", "head"], "--mask-model: a mask model draws one mask for a question"),
        (["scene.png", "cup", "--segmenter", str(segmenter_path()), "--policy", "no/where/here"], "no/where/here"),
    ],
)
def test_a_mistake_is_one_line(run, tmp_path, arguments, message):
    code, _, err = run(*arguments, "--out", "found")
    assert code == 2 and message in err and err.count("\n") == 1
    assert not (tmp_path / "found").exists()


def test_options_without_effect_are_refused(run, sam3):
    code, _, err = run("scene.png", "cup", "--segmenter", sam3, "--policy", "any", "--frame", "native")
    assert code == 2 and "reads phrases itself, without a policy; leave --policy, --frame out" in err
