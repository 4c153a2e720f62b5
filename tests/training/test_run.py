"""A whole run on the CPU, rollouts one step ahead: train, be killed, resume, merge, answer."""

import io
import json
import time
from itertools import islice
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.kills.training import damage, lost_rows, rows_of
from segzero.data.parquet import from_parquet
from segzero.policy import Request, Sampling, load_policy
from segzero.prompts import render_messages
from segzero.tiny.questions import HELD_OUT_SEED, make_samples
from segzero.training.config import compose
from tests.helpers.launching import complaint, kill, logged, start, wait

pytestmark = pytest.mark.training


def test_train_be_killed_resume_merge(scenes, tmp_path):
    run, ahead = tmp_path / "run", ["segzero.one_step_off=true", "trainer.save_freq=1"]
    first = start(scenes, run, *ahead, "trainer.total_training_steps=50")
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
    again = [f"trainer.total_training_steps={last}", f"trainer.test_freq={last}"]
    again += ["algorithm.filter_groups.enable=true", "algorithm.filter_groups.metric=presence"]
    again += ["algorithm.filter_groups.max_num_gen_batches=2", "segzero.record=8"]
    output = wait(start(scenes, run, *ahead, *again))
    assert f"resuming from {run / f'global_step_{kept[-1]}'}" in output, output[-3000:]
    steps = [row["step"] for row in logged(run)]
    assert steps[-2:] == [kept[-1] + 1, last], output[-3000:]  # the same file goes on
    assert 0 <= logged(run)[-1]["data"]["val/giou"] <= 1
    check_lags([row["data"] for row in logged(run)])
    trained = samples_by_step(run)
    assert {last - 1, last} <= trained.keys() <= set(range(1, last + 1))
    # Nearly all answers of the shipped policy find something, so nearly all groups are flat by this term.
    replaced = {row["step"]: int(row["data"].get("rollout/refilled_groups", 0)) for row in logged(run)}
    assert 0 < replaced[last] <= 4 and 0 < replaced[last - 1] <= 4 and "flat groups replaced" in output
    order = iter(sampled_order(scenes))  # a killed run repeats the batch that was ahead; every sample is taken once
    for step in range(1, last + 1):
        taken = set(islice(order, 4 + replaced[step]))
        assert trained.get(step, taken) == taken

    from segzero.training.merge import merge

    out = merge(run / f"global_step_{last}", tmp_path / "merged", dtype="float32")
    assert json.loads((out / "segzero.json").read_text())["prompt"] == "multi"
    output = [written(out, backend) for backend in ("transformers", "vllm")]
    assert output[0] == output[1] and all(text.startswith("<think>") for text in output[0])


def check_lags(rows: list[dict]) -> None:
    """The weights of an answer are one step old; those of each call's first step, and of replacements, are new."""
    resumed = len(rows) - 2
    lags = [row["rollout/weights_lag"] for row in rows]
    assert lags[:-1] == [float(place not in (0, resumed)) for place in range(len(rows) - 1)]
    assert 0 <= lags[-1] <= 1
    for row in (rows[0], rows[resumed]):
        assert abs(row["actor/ppo_kl"]) < 1e-3  # vLLM and the trainer agree on the probabilities


def samples_by_step(run: Path) -> dict[int, set[str]]:
    """The samples of each step, as recorded by the run before its kill and by the one after it."""
    found: dict[int, set[str]] = {}
    for line in (run / "rollouts" / "rollouts.jsonl").read_text().splitlines():
        row = json.loads(line)
        found.setdefault(row["step"], set()).add(row["sample"])
    return found


def sampled_order(scenes: Path) -> list[str]:
    """The samples in the order in which verl's sampler takes them, an epoch of nine steps."""
    from verl.trainer.ppo.utils import create_rl_sampler

    names = [sample.id for sample in from_parquet(scenes / "train.parquet")]
    return [names[place] for place in create_rl_sampler(compose("train").data, names)]


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
