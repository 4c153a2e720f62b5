"""Batches on which verl is known to break pass a step of training."""

from dataclasses import replace
from io import BytesIO

import pytest
from PIL import Image

from segzero.data.parquet import to_parquet
from segzero.sample import Sample
from segzero.tiny.questions import make_samples
from tests.helpers.launching import kill_part, logged, parts, start, wait_for_step

pytestmark = pytest.mark.training


def test_empty_cut_and_equally_long_answers_about_images_of_unlike_size(scenes, tmp_path):
    """One token an answer: nothing in any can be read, all are cut at the limit, all prompts of a size equally long.

    In their own size the images give prompts of very different length, but for a step of four alike. Then the server of
    the rollouts dies, which ends the run.
    """
    samples = make_samples(8, 12)
    sizes = [64, 224, 224, 224, 224, 224, 224, 224]
    question = samples[0].question
    made = [_resized(replace(s, question=question), side) for s, side in zip(samples, sizes, strict=True)]
    to_parquet(made, tmp_path / "train.parquet")
    to_parquet(made[:1], tmp_path / "val.parquet")
    run = tmp_path / "run"
    endless = "trainer.total_training_steps=500"
    process = start(tmp_path, run, "data.max_response_length=1", "data.shuffle=false", endless)
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


def _resized(sample: Sample, side: int) -> Sample:
    assert isinstance(sample.image, bytes)
    file = BytesIO()
    Image.open(BytesIO(sample.image)).resize((side, side)).save(file, "PNG")
    return replace(sample, image=file.getvalue(), width=side, height=side, objects=())
