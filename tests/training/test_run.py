"""A whole run on the CPU, rollouts one step ahead: train, be killed, resume, merge, answer."""

import io
import json
import subprocess
import time
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.kills.training import damage, lost_rows, rows_of
from segzero.data.parquet import from_parquet
from segzero.policy import Request, Sampling, load_policy
from segzero.prompts import render_messages
from segzero.tiny.questions import HELD_OUT_SEED, make_samples
from segzero.training.config import compose
from tests.helpers.launching import complaint, kill, start, wait

pytestmark = pytest.mark.training

# Pays for words about a single object, so that groups about several are flat; once a file exists, it raises.
REWARD = """
from pathlib import Path

def reward(answer, truth):
    if Path({broken!r}).exists():
        return 1 / 0
    return len(answer.think.split()) + len(answer.instances) if len(truth) == 1 else 0
"""


def test_train_be_killed_resume_merge(scenes, tmp_path, monkeypatch):
    """The resumed run goes on until its reward raises, which ends it in a line."""
    run, broken = tmp_path / "run", tmp_path / "broken"
    (tmp_path / "words.py").write_text(REWARD.format(broken=str(broken)))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    asked = ["reward=custom", "reward.name=words.reward", "segzero.one_step_off=true", "trainer.save_freq=1"]
    asked += ["trainer.total_training_steps=500", "segzero.keep_last=0", "segzero.record=8"]
    asked += ["algorithm.filter_groups.enable=true", "algorithm.filter_groups.max_num_gen_batches=2"]
    first = start(scenes, run, *asked)
    wait_for_save(run, 2, first)
    rows = rows_of(run)
    kill(first)
    first.communicate()
    kept = sorted(int(path.name.split("_")[-1]) for path in run.glob("global_step_*"))
    assert kept and kept[-1] >= 2
    assert damage(run, kept) == [] and lost_rows(run, rows) == []

    last = kept[-1] + 2
    weighed = [f"algorithm.rollout_correction.{choice}" for choice in ("bypass_mode=false", "rollout_is=token")]
    again = start(scenes, run, *asked, *weighed, f"trainer.test_freq={last}")
    wait_for_save(run, last, again)
    broken.touch()
    output = wait(again)
    line = complaint(output)
    assert again.returncode == 2
    assert "ZeroDivisionError" in line and "3 failures, at samples tiny-11-" in line
    assert f"resuming from {run / f'global_step_{kept[-1]}'}" in output
    assert lost_rows(run, rows) == []  # the same file goes on
    rows = [row for row in rows_of(run) if row["step"] <= last]
    assert [row["step"] for row in rows[-2:]] == [kept[-1] + 1, last]
    assert 0 <= rows[-1]["data"]["val/giou"] <= 1
    check_lags([row["data"] for row in rows])
    trained = {step: names for step, names in samples_by_step(run).items() if step <= last}
    assert {last - 1, last} <= trained.keys()
    replaced = {row["step"]: int(row["data"]["rollout/refilled_groups"]) for row in rows}
    assert sum(replaced.values()) > 0 and "flat groups replaced" in output
    order = sampled_order(scenes)  # a killed run repeats the batch that was ahead; every sample is taken once
    for step in range(1, last + 1):
        taken, order = order[: 4 + replaced[step]], order[4 + replaced[step] :]
        if order:  # the order of the next epoch is another
            assert trained.get(step, set(taken)) == set(taken)

    from segzero.training.merge import merge

    out = merge(run / f"global_step_{last}", tmp_path / "merged", dtype="float32")
    assert json.loads((out / "segzero.json").read_text())["prompt"] == "multi"
    output = [written(out, backend) for backend in ("transformers", "vllm")]
    assert output[0] == output[1] and all(text.startswith("<think>") for text in output[0])


def wait_for_save(run: Path, step: int, process: subprocess.Popen) -> None:
    """Wait until a step is saved and logged."""
    deadline = time.monotonic() + 600
    while not ((run / f"global_step_{step}").exists() and any(row["step"] == step for row in rows_of(run))):
        assert process.poll() is None, process.communicate()[0][-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.2)


def check_lags(rows: list[dict]) -> None:
    """The weights of an answer are one step old; those of each call's first step, and of replacements, are new."""
    resumed = len(rows) - 2
    for place, row in enumerate(rows):
        most = float(place not in (0, resumed))
        assert most * (row["rollout/refilled_groups"] == 0) <= row["rollout/weights_lag"] <= most
    assert abs(rows[0]["actor/ppo_kl"]) < 1e-3  # vLLM and the trainer agree on the probabilities
    fresh, older = (row["rollout_corr/rollout_is_std"] for row in rows[resumed:])
    # Of the importance weights, which the resumed run uses instead of vLLM's log-probs.
    assert fresh < 1e-3 and (older > 1e-3 or rows[-1]["rollout/weights_lag"] == 0)


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
