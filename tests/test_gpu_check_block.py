"""The block of `make gpu-check` where there is no GPU: lines that fail, hang or do not apply, and what is printed."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.gpu_check import lines
from benchmarks.gpu_check.__main__ import main, run
from benchmarks.gpu_check.block import ROOT, Failed, Figure, Line, Outcome, Setting, Skipped, kill_session, render
from benchmarks.gpu_check.lines import all_lines, compare, healthy
from benchmarks.gpu_check.released import CUP, PHOTO, wrong
from benchmarks.gpu_check.size import settings_of
from benchmarks.gpu_check.versions import why_no_gpu
from segzero import shipped
from segzero.training.batch import batch_sizes
from segzero.training.config import compose
from segzero.training.launch import resolve_config

without_gpu = pytest.mark.skipif(why_no_gpu() is None, reason="there is a GPU here")


def test_a_line_that_fails_does_not_stop_the_others(tmp_path, capsys):
    def fails(setting):
        raise Failed("the weights\nwere not synchronised", tmp_path / "full.log")

    def breaks(setting):
        return str(1 / 0)

    def does_not_apply(setting):
        raise Skipped("the card is too small")

    checks = {"one": fails, "two": breaks, "three": does_not_apply, "four": lambda setting: "3 steps"}
    four = [Line(name, f"line {name}", 5, check) for name, check in checks.items()]
    outcomes = run(four, Setting("cpu", tmp_path))
    assert [outcome.verdict for outcome in outcomes] == ["FAIL", "FAIL", "skip", "pass"]
    said = capsys.readouterr().out.splitlines()
    log = os.path.relpath(tmp_path / "full.log")
    assert said == [
        f"FAIL  line one: the weights were not synchronised; log {log} (0 s)",
        "FAIL  line two: ZeroDivisionError: division by zero (0 s)",
        "skip  line three: the card is too small (0 s)",
        "pass  line four: 3 steps (0 s)",
    ]


def test_a_line_that_hangs_is_ended_with_all_that_it_started(tmp_path):
    pid = tmp_path / "pid"
    hanging = f"set -m; sleep 600 & echo $! > {pid}; wait"  # -m: in a process group of its own, as Ray's workers are
    line = Line("hang", "hang", 1, lambda setting: str(setting.run("a sleep", ["bash", "-c", hanging]).check()))
    begin = time.monotonic()
    [outcome] = run([line], Setting("cpu", tmp_path))
    assert outcome.verdict == "FAIL"
    assert re.match(r"a sleep was stopped after \d+ s", outcome.text)
    while is_running(int(pid.read_text())) and time.monotonic() < begin + 60:
        time.sleep(0.01)
    assert not is_running(int(pid.read_text()))


def is_running(pid: int) -> bool:
    """False for a process that has ended, reaped or not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def test_a_command_runs_once_and_its_last_words_are_the_reason(tmp_path):
    setting = Setting("cpu", tmp_path)
    code = "print('Traceback'); print('segzero: the card is full; lower the share'); print('bye'); raise SystemExit(2)"
    first = setting.run("train", [sys.executable, "-c", code])
    assert setting.run("train", ["false"]) is first
    with pytest.raises(Failed, match=r"^train ended with exit code 2: segzero: the card is full; lower the share$"):
        first.check()


def test_no_time_left_is_a_failure(tmp_path):
    line = Line("late", "late", 5, lambda setting: "fine")
    [outcome] = run([line], Setting("cpu", tmp_path, until=time.monotonic()))
    assert outcome.verdict == "FAIL" and "ONLY=late" in outcome.text


def test_the_block():
    outcomes = [
        Outcome("full", "full fine-tuning", "pass", "3 steps, saved", 81.2),
        Outcome("lora", "LoRA", "FAIL", "no step had a gradient", 70.9, "build/gpu-check/lora.log"),
        Outcome("released", "released checkpoints", "skip", "name a checkpoint", 0.0),
    ]
    block = render(["SegZero gpu-check, commit 1234567", "GPU none"], outcomes, [Figure("a step", "3.1 s", "2.9 s")])
    assert block.splitlines() == [
        "```",
        "SegZero gpu-check, commit 1234567",
        "GPU none",
        "",
        "pass  full fine-tuning: 3 steps, saved (81 s)",
        "FAIL  LoRA: no step had a gradient; log build/gpu-check/lora.log (71 s)",
        "skip  released checkpoints: name a checkpoint (0 s)",
        "",
        "1 pass, 1 FAIL, 1 skip",
        "```",
        "",
        "| figure | measured | estimated |",
        "|---|---|---|",
        "| a step | 3.1 s | 2.9 s |",
    ]


def test_what_a_healthy_run_is(tmp_path):
    setting = Setting("cpu", tmp_path)
    ended = setting.run("a run", ["true"])
    (tmp_path / "run").mkdir()
    good = '{{"actor/loss": 0.1, "actor/grad_norm": 0.2, "reward/mean": 1.0, "training/rollout_probs_diff_mean": {}}}'
    log = tmp_path / "run" / "metrics.jsonl"
    log.write_text(f'{{"step": 1, "data": {good.format(0.002)}}}\n')
    assert len(healthy(setting, "run", ended, 1)) == 1
    for steps, row, reason in [
        (2, good.format(0.002), "1 of 2 steps"),
        (1, good.format(0.3), "differ by 0.30000"),
        (1, good.format("NaN"), "differ by nan"),
        (1, good.format(0.002).replace("0.2,", "0.0,"), "no step had a gradient"),
        (1, good.format(0.002).replace('"actor/loss": 0.1', '"actor/loss": NaN'), "actor/loss is nan"),
    ]:
        log.write_text(f'{{"step": 1, "data": {row}}}\n')
        with pytest.raises(Failed, match=reason):
            healthy(setting, "run", ended, steps)


def test_probabilities_are_compared_and_not_their_logarithms():
    one, other = {"log_probs": [[0.0, -20.0], [-0.1]]}, {"log_probs": [[-0.01, -30.0], [-0.1]]}
    assert compare(one, other) == pytest.approx((1 - np.exp(-0.01)) / 3, abs=1e-6)


def test_the_photo_and_what_counts_as_its_cup():
    assert PHOTO.stat().st_size <= 100_000
    with Image.open(PHOTO) as photo:
        mask = np.zeros(photo.size[::-1], bool)
    assert wrong(mask) == "no mask was drawn"
    x0, y0, x1, y1 = CUP
    mask[y0 + 20 : y1, x0:x1] = True
    assert wrong(mask) is None
    saucer = np.zeros_like(mask)
    saucer[40:388, 77:480] = True
    assert "not the cup's" in wrong(saucer)


@without_gpu
def test_without_a_gpu_one_line_says_so(capsys):
    assert main([]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("gpu-check: ") and "--device cpu" in line


def test_unknown_lines_are_named(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--only", "full,speed"])
    assert ended.value.code == 2
    assert "unknown line speed" in capsys.readouterr().err


@without_gpu
def test_the_gpu_tests_are_collected_and_skip():
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "tests/gpu", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout
    assert f"{len(all_lines())} skipped" in done.stdout


def test_a_process_that_has_ended_is_ended_again_without_harm():
    process = subprocess.Popen(["true"], start_new_session=True)
    process.wait()
    kill_session(process)


@pytest.mark.parametrize(("memory", "lora", "prompts"), [(24, 32, 4), (80, 32, 8), (141, 0, 8)])
def test_the_large_run_by_the_size_of_the_card(tmp_path, memory, lora, prompts):
    config = compose("train", settings_of(Setting("cuda", tmp_path), shipped.policy_path(), memory))
    assert config.trainer.device == "cuda" and config.segzero.accelerator.memory_gb == memory
    assert config.actor_rollout_ref.model.lora_rank == lora
    assert config.actor_rollout_ref.rollout.load_format == ("safetensors" if lora else "dummy")
    assert batch_sizes(config).total == prompts * 8


def test_runs_on_a_gpu_are_configured_without_one(tmp_path, monkeypatch):
    """Every key that the lines set is one that a run on a GPU reads."""
    monkeypatch.setattr(lines, "card_gb", lambda: 80.0)
    commands = []
    setting = Setting("cuda", tmp_path)
    monkeypatch.setattr(setting, "run", lambda name, command, **_: commands.append([str(part) for part in command]))
    lines.train(setting, "full", lines.STEPS, *lines.FULL)
    lines.train(setting, "lora", lines.STEPS, lines.EAGER)
    lines.run_batch(setting, "sdpa", "float32")
    configs = [
        resolve_config(compose("train", [part for part in command if part[:1] != "-" and "=" in part]))
        for command in commands
    ]
    full, adapters, batch = configs
    assert {config.trainer.device for config in configs} == {"cuda"}
    assert (
        full.actor_rollout_ref.rollout.gpu_memory_utilization == 0.15
        and not full.actor_rollout_ref.rollout.enforce_eager
    )
    assert adapters.actor_rollout_ref.model.lora_rank == 32 and adapters.actor_rollout_ref.rollout.enforce_eager
    assert batch.actor_rollout_ref.model.override_config.attn_implementation == "sdpa"
    assert not batch.actor_rollout_ref.model.use_remove_padding
