"""Batches on which verl is known to break pass a step of training."""

import json
import shutil
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from segzero import shipped
from segzero.data.parquet import to_parquet
from segzero.sample import Sample
from segzero.tiny.questions import make_samples
from tests.helpers.launching import kill_part, logged, parts, start, wait_for_step

pytestmark = pytest.mark.training

BEGINNING = "<think>"  # of the shipped policy's answers, a token of its own


def test_empty_cut_and_equally_long_answers_about_images_of_unlike_size(scenes, tmp_path):
    """One token an answer: nothing in any can be read, all are cut at the limit, all prompts of a size equally long.

    In their own size the images give prompts of very different length, but for a step of four alike. The policy would
    answer with the image's placeholder half of the time, but the engine never samples it. Then the server of the
    rollouts dies, which ends the run.
    """
    samples = make_samples(8, 12)
    sizes = [64, 224, 224, 224, 224, 224, 224, 224]
    question = samples[0].question
    made = [_resized(replace(s, question=question), side) for s, side in zip(samples, sizes, strict=True)]
    to_parquet(made, tmp_path / "train.parquet")
    to_parquet(made[:1], tmp_path / "val.parquet")
    run = tmp_path / "run"
    settings = ["data.max_response_length=1", "data.shuffle=false", "trainer.total_training_steps=500"]
    model = f"actor_rollout_ref.model.path={_policy_that_writes_placeholders(tmp_path / 'policy')}"
    process = start(tmp_path, run, model, *settings)
    wait_for_step(process, 2)
    [server] = parts(process, "ray::GroupServer")
    line = kill_part(process, server)
    assert "rollout replica 0" in line or "died" in line, line
    first, second = (row["data"] for row in logged(run)[:2])
    assert first["prompt_length/min"] < first["prompt_length/max"]
    assert second["prompt_length/min"] == second["prompt_length/max"]
    for step in (first, second):
        assert step["answer/readable"] == 0 and step["answer/truncated"] == 1
        assert step["response_length/max"] == 1
        assert step["reward/flat_groups"] == 1 and step["actor/grad_norm"] == pytest.approx(0, abs=1e-6)
        assert step["answer/thought"] == 0
    recorded = [json.loads(line) for line in (run / "rollouts" / "rollouts.jsonl").read_text().splitlines()]
    assert {row[which]["text"] for row in recorded for which in ("best", "worst")} == {BEGINNING}


def _policy_that_writes_placeholders(folder: Path) -> Path:
    """Copy the shipped policy with the image's placeholder as likely as the token that its answers begin with."""
    shutil.copytree(shipped.policy_path(), folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    head = weights["model.embed_tokens.weight"]  # [vocabulary, hidden]; it makes the logits, too
    [beginning] = tokenizer(BEGINNING, add_special_tokens=False).input_ids
    head[tokenizer.convert_tokens_to_ids("<|image_pad|>")] = head[beginning]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


def _resized(sample: Sample, side: int) -> Sample:
    assert isinstance(sample.image, bytes)
    file = BytesIO()
    Image.open(BytesIO(sample.image)).resize((side, side)).save(file, "PNG")
    return replace(sample, image=file.getvalue(), width=side, height=side, objects=())
