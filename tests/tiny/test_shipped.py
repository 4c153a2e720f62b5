"""The shipped models: they match their manifest, and the policy has the intended, middling figures."""

import json
import os
import subprocess
import sys

import pytest

from segzero.errors import UserError
from segzero.policy.checkpoint import shown_name
from segzero.shipped import mask_model_path, policy_path, segmenter_path, weights_path
from segzero.tiny import manifest

MIDDLING = (0.40, 0.55)  # box IoU that leaves reinforcement learning room for improvement


@pytest.fixture(scope="module")
def checkpoint():
    from segzero.tiny.evaluate import load_checkpoint

    return load_checkpoint(policy_path())


def test_files_are_as_the_manifest_says_and_small():
    assert set(manifest.read(weights_path())) == {"policy", "segmenter", "mask_model"}
    assert manifest.check(weights_path()) == []
    assert sum(file.stat().st_size for file in weights_path().rglob("*") if file.is_file()) <= 20e6
    assert sum(file.stat().st_size for file in mask_model_path().rglob("*") if file.is_file()) <= 5e6


def test_the_names_on_their_cards():
    assert shown_name(str(policy_path())) == manifest.SHOWN_NAMES["policy"] == "tiny policy"
    assert shown_name(str(segmenter_path())) == manifest.SHOWN_NAMES["segmenter"] == "tiny SAM2"
    assert shown_name(str(mask_model_path())) == manifest.SHOWN_NAMES["mask_model"] == "tiny prompt head"


def test_a_changed_missing_or_added_file_is_noticed(tmp_path):
    folder = tmp_path / "policy"
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_text(name)
    manifest.record(tmp_path, "policy", "command", 0, {"box_iou": 0.5})
    assert manifest.check(tmp_path) == []
    (folder / "config.json").write_text("changed")
    (folder / "model.safetensors").unlink()
    (folder / "extra.json").write_text("")
    assert manifest.check(tmp_path) == [
        "policy/config.json differs from the manifest",
        "policy/extra.json is not in the manifest",
        "policy/model.safetensors is missing",
    ]
    with pytest.raises(UserError, match=r"no manifest\.json"):
        manifest.read(tmp_path / "elsewhere")


def test_a_wrong_share_is_a_mistake_of_the_user(tmp_path):
    command = [sys.executable, "-m", "segzero.tiny", "policy", "--out", str(tmp_path), "--share"]
    wrong = subprocess.run([*command, "2"], capture_output=True, text=True)
    assert wrong.returncode == 2 and "--share 2.0" in wrong.stderr and "Traceback" not in wrong.stderr
    assert list(tmp_path.iterdir()) == []


def test_manifest_has_the_held_out_figures():
    held_out = manifest.read(weights_path())["policy"]["held_out"]
    assert held_out["count"] == 500
    assert held_out["format"] >= 0.98
    assert MIDDLING[0] <= held_out["box_iou"] <= MIDDLING[1]
    assert held_out["nothing_right"] >= 0.5
    assert all(kind["score"] > kind["chance"] for kind in held_out["kinds"].values())


@pytest.mark.slow
def test_policy_answers_held_out_questions(checkpoint):
    from segzero.tiny.evaluate import evaluate_policy

    figures = evaluate_policy(*checkpoint, count=45)
    assert figures.format >= 0.95
    assert 0.25 < figures.box_iou < 0.75
    assert figures.false_empty < 0.3


@pytest.mark.slow
def test_policy_reaches_its_figures_on_500_scenes(checkpoint):
    from segzero.tiny.evaluate import evaluate_policy

    recorded = manifest.read(weights_path())["policy"]["held_out"]
    figures = evaluate_policy(*checkpoint)
    assert figures.format >= 0.98
    assert MIDDLING[0] <= figures.box_iou <= MIDDLING[1]
    assert figures.box_iou == pytest.approx(recorded["box_iou"], abs=0.01)
    assert figures.nothing_right >= 0.5
    for kind, of_kind in figures.kinds.items():
        assert of_kind.score > of_kind.chance, kind


@pytest.mark.slow
def test_mask_model_reaches_its_figures():
    from segzero.tiny.train_mask_model import evaluate_mask_model

    recorded = manifest.read(weights_path())["mask_model"]["held_out"]
    assert recorded["giou"] >= 0.80 and recorded["n_acc"] >= 0.8
    assert evaluate_mask_model(mask_model_path()) == pytest.approx(recorded, abs=0.01)


@pytest.mark.slow
def test_greedy_text_is_the_same_in_vllm_and_transformers(checkpoint, tmp_path):
    pytest.importorskip("vllm")
    from segzero.tiny.evaluate import answer_texts
    from segzero.tiny.questions import HELD_OUT_SEED, make_samples

    out = tmp_path / "texts.json"
    environment = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1"}
    subprocess.run([sys.executable, "-c", VLLM_SCRIPT, str(out)], env=environment, check=True, timeout=600)
    samples = make_samples(72, HELD_OUT_SEED + 2)
    assert json.loads(out.read_text()) == answer_texts(*checkpoint, samples)


# In a process of its own: an engine keeps its memory until the process ends.
VLLM_SCRIPT = """
import json, pathlib, sys
from transformers import AutoProcessor
from vllm import LLM, SamplingParams
from segzero.prompts import render_messages
from segzero.shipped import policy_path
from segzero.tiny.evaluate import fitted_image
from segzero.tiny.questions import HELD_OUT_SEED, make_samples

if __name__ == "__main__":
    processor = AutoProcessor.from_pretrained(policy_path())
    engine = LLM(str(policy_path()), dtype="float32", enforce_eager=True, max_model_len=1024, seed=0)
    requests = [
        {
            "prompt": processor.apply_chat_template(
                render_messages(sample.question), tokenize=False, add_generation_prompt=True
            ),
            "multi_modal_data": {"image": fitted_image(sample)},
        }
        for sample in make_samples(72, HELD_OUT_SEED + 2)
    ]
    replies = engine.generate(requests, SamplingParams(temperature=0, max_tokens=192), use_tqdm=False)
    pathlib.Path(sys.argv[1]).write_text(json.dumps([reply.outputs[0].text for reply in replies]))
"""
