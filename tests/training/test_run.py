"""A whole run on the CPU: train, be killed, resume, merge, answer."""

import io
import json
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

from benchmarks.kills.training import damage, lost_rows, rows_of
from segzero.policy import Request, Sampling, load_policy
from segzero.prompts import render_messages
from segzero.tiny.questions import HELD_OUT_SEED, make_samples
from tests.helpers.launching import complaint, kill, logged, start, wait

pytestmark = pytest.mark.training


def test_train_be_killed_resume_merge(scenes, tmp_path):
    run = tmp_path / "run"
    first = start(scenes, run, "trainer.save_freq=1", "trainer.total_training_steps=50")
    deadline = time.monotonic() + 600
    while not (run / "global_step_2").exists() and first.poll() is None and time.monotonic() < deadline:
        time.sleep(0.2)
    rows = rows_of(run)
    kill(first)
    first.communicate()
    kept = sorted(int(path.name.split("_")[-1]) for path in run.glob("global_step_*"))
    assert kept and kept[-1] >= 2
    assert damage(run, kept) == [] and lost_rows(run, rows) == []

    last = kept[-1] + 2
    again = ["trainer.save_freq=1", f"trainer.total_training_steps={last}", f"trainer.test_freq={last}"]
    again += ["algorithm.filter_groups.enable=true", "algorithm.filter_groups.metric=presence"]
    again += ["algorithm.filter_groups.max_num_gen_batches=2"]
    output = wait(start(scenes, run, *again))
    assert f"resuming from {run / f'global_step_{kept[-1]}'}" in output, output[-3000:]
    steps = [row["step"] for row in logged(run)]
    assert steps[-2:] == [kept[-1] + 1, last], output[-3000:]  # the same file goes on
    final = logged(run)[-1]["data"]
    assert 0 <= final["val/giou"] <= 1
    # Nearly all answers of the shipped policy find something, so nearly all groups are flat by this term.
    replaced = [row["data"]["rollout/refilled_groups"] for row in logged(run)[-2:]]
    assert min(replaced) > 0 and max(replaced) <= 4 and "flat groups replaced" in output
    assert final["training/global_step"] == last and final["rollout/kept_flat_groups"] <= 4
    ahead = taken(run, last) - taken(run, kept[-1])
    assert ahead % 36 == (8 + sum(replaced)) % 36  # of 36 samples, none was passed over or taken twice
    assert abs(final["actor/ppo_kl"]) < 1e-3  # vLLM and the trainer agree on the probabilities

    from segzero.training.merge import merge

    out = merge(run / f"global_step_{last}", tmp_path / "merged", dtype="float32")
    assert json.loads((out / "segzero.json").read_text())["prompt"] == "multi"
    output = [written(out, backend) for backend in ("transformers", "vllm")]
    assert output[0] == output[1] and all(text.startswith("<think>") for text in output[0])


def taken(run: Path, step: int) -> int:
    """The number of prompts that were taken from the data, in the epoch of that step."""
    return torch.load(run / f"global_step_{step}" / "data.pt", weights_only=True)["_num_yielded"]


def written(policy: Path, backend: str) -> list[str]:
    """Answers of a merged policy to four held-out questions."""
    loaded = load_policy(policy, backend)
    requests = [
        Request(loaded.frame.fit(Image.open(io.BytesIO(s.image)).convert("RGB")), render_messages(s.question))
        for s in make_samples(4, HELD_OUT_SEED + 77)
    ]
    texts = [reply.text for reply in loaded.generate(requests, Sampling(max_tokens=120))]
    loaded.close()
    return texts


def test_a_reward_that_raises_ends_the_run_in_a_line(scenes, tmp_path, monkeypatch):
    (tmp_path / "broken_reward.py").write_text("def reward(answer, truth):\n    return 1 / 0\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    custom = ["reward=custom", "reward.name=broken_reward.reward", "segzero.segmenter.path=null"]
    process = start(scenes, tmp_path / "run", *custom)
    line = complaint(wait(process))
    assert process.returncode == 2
    assert "ZeroDivisionError" in line and "3 failures, at samples tiny-11-" in line
