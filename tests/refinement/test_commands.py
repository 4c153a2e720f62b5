"""`--refine` on the command line."""

import json

import pytest

from segzero.data.parquet import to_parquet
from segzero.evaluation.predictions import Predictions
from segzero.images import load_image


@pytest.fixture
def scene_file(held_out, tmp_path):
    path = tmp_path / "scene.png"
    path.write_bytes(held_out[0].image)
    return path


def test_infer_says_what_each_look_did(run_segzero, scene_file, held_out, tmp_path):
    command = ["infer", scene_file, held_out[0].question, "--policy-backend", "transformers", "--out", tmp_path / "out"]
    code, out, err = run_segzero(*command, "--refine", 2)
    assert code == 0, err
    steps = json.loads((tmp_path / "out" / "scene.json").read_text())["steps"]
    assert 1 <= len(steps) <= 2
    assert f"({', '.join(step['action'] for step in steps)})" in " ".join(out.split())


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (("--refine-seconds", 3), "--refine-seconds limits --refine, which is not given"),
        (("--refine", 9), "a mask can be looked at 1 to 8 times, not 9"),
        (("--refine", 1, "--refine-seconds", 0), "0.0 seconds leave no time to look at a mask"),
        (("--prompt", "refine"), "the prompt refine is for looks at a mask"),
    ],
)
def test_infer_refuses(run_segzero, scene_file, flags, complaint):
    code, _, err = run_segzero("infer", scene_file, "the circle", "--policy-backend", "transformers", *flags)
    assert code == 2 and complaint in err


def test_a_mask_model_has_no_policy_that_could_look(run_segzero, scene_file, mask_model):
    code, _, err = run_segzero("infer", scene_file, "the circle", "--mask-model", mask_model, "--refine", 1)
    assert code == 2 and "--refine lets a policy look at its masks" in err


def test_an_evaluation_keeps_how_often_masks_are_looked_at(run_segzero, held_out, tmp_path):
    to_parquet(held_out[:3], tmp_path / "data" / "test.parquet")
    command = ["eval", "--benchmark", "own", "--data", tmp_path / "data", "--policy-backend", "transformers"]
    command += ["--out", tmp_path / "out", "--cache", tmp_path / "cache"]
    code, _, err = run_segzero(*command, "--refine", 1)
    assert code == 0, err
    run = json.loads((tmp_path / "out" / "own" / "run.json").read_text())
    assert run["settings"]["refine"] == 1
    with Predictions.open(tmp_path / "out" / "own" / "predictions.jsonl", write=False) as lines:
        results = [lines.get(sample.id).result(sample, load_image(sample.image)) for sample in held_out[:3]]
    assert all(result.error or len(result.steps) == 1 for result in results) and any(one.steps for one in results)
    code, _, err = run_segzero(*command)
    assert code == 2 and "refine" in err  # other settings, the same folder
