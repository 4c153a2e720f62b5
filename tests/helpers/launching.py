"""Whole runs for the tests: `segzero train` as a user types it, small, in a process group of its own."""

import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import psutil

from segzero import shipped
from segzero.data.parquet import to_parquet
from segzero.tiny.questions import make_samples
from segzero.training.stall import STACKS

COMMAND = [str(Path(sys.executable).with_name("segzero")), "train"]
SCRIPTS = Path(__file__).parents[2] / "training_scripts"
SEGMENTER = str(shipped.segmenter_path())
SOON = 60  # s
# Two steps, a validation after each; the second is saved. The likeliest token always: all such runs learn from the same
# answers. As those of a group are all alike, the advantages come from an estimator that compares over the whole batch.
TWO_STEPS = [
    "trainer.total_training_steps=2",
    "trainer.save_freq=2",
    "trainer.test_freq=1",
    "segzero.keep_last=0",
    "actor_rollout_ref.rollout.top_k=1",
    "algorithm.adv_estimator=reinforce_plus_plus",
]


def write_one_object_scenes(folder: Path, count: int) -> None:
    """Write train.parquet and val.parquet of those of `count` scenes' questions that mean one object."""
    single = [sample for sample in make_samples(count, 12) if len(sample.objects) == 1]
    for split in ("train", "val"):
        to_parquet(single, folder / f"{split}.parquet")


def overrides_of(launcher: str) -> list[str]:
    """What a launcher passes to `segzero train`, before the user's own."""
    text = (SCRIPTS / f"{launcher}.sh").read_text().replace("\\\n", " ")
    [line] = [line for line in text.splitlines() if line.startswith("segzero train ")]
    words = shlex.split(line)
    assert words[-1] == "$@", "the user's overrides come last"
    return words[2:-1]


def spawn(launcher: str, places: dict[str, str], *overrides: str) -> subprocess.Popen:
    """Type a launcher's name, with MODEL_PATH, DATA and SEGMENTER_PATH as `places`."""
    return _popen(["bash", str(SCRIPTS / f"{launcher}.sh"), *overrides], places)


def start(data: Path, run: Path, *overrides: str) -> subprocess.Popen:
    """Train on `data`'s train.parquet and val.parquet."""
    fixed = [
        f"data.train_files={data / 'train.parquet'}",
        f"data.val_files={data / 'val.parquet'}",
        f"trainer.default_local_dir={run}",
        "data.train_batch_size=4",
        "actor_rollout_ref.rollout.n=4",
        "reward=mask",
        "trainer.save_freq=-1",
        "trainer.test_freq=-1",
        "trainer.val_before_train=false",
        "segzero.stall_minutes=8",
    ]
    return _popen([*COMMAND, *fixed, *overrides], {})


def _popen(command: list[str], more: dict[str, str]) -> subprocess.Popen:
    environment = {name: value for name, value in os.environ.items() if name != "VERL_PLATFORM"}
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment | more,
        start_new_session=True,
    )


def wait(process: subprocess.Popen, seconds: float = 600) -> str:
    """All that it said."""
    try:
        said, _ = process.communicate(timeout=seconds)
    finally:
        if process.poll() is None:
            kill(process)
    return said


def stacks_of_stall(run: Path) -> str:
    """Where the processes of a run stood that was ended for standing still; empty for any other."""
    file = run / STACKS
    return file.read_text() if file.exists() else ""


def wait_for_step(process: subprocess.Popen, step: int) -> None:
    """Read what it says until that step has ended."""
    heard: list[str] = []
    assert process.stdout is not None
    while not (heard and heard[-1].startswith(f"step {step}/")):
        line = process.stdout.readline()
        assert line, "".join(heard)
        heard.append(line)


def kill(process: subprocess.Popen) -> None:
    os.killpg(process.pid, signal.SIGKILL)


def kill_part(process: subprocess.Popen, victim: psutil.Process) -> str:
    """Kill one process of a run, and return the line with which the run ends soon after."""
    victim.kill()
    line = complaint(wait(process, SOON))
    assert process.returncode == 2
    return line


def parts(process: subprocess.Popen, title: str) -> list[psutil.Process]:
    """Processes of the run whose title begins so."""
    return [part for part in psutil.Process(process.pid).children(recursive=True) if _titled(part, title)]


def _titled(process: psutil.Process, title: str) -> bool:
    try:
        return any(part.startswith(title) for part in process.cmdline()[:1])
    except psutil.Error:
        return False


def complaint(said: str) -> str:
    """The one line with which `segzero` ends a run."""
    [line] = [line for line in said.splitlines() if line.startswith("segzero:")]
    assert "Traceback" not in said, said[-3000:]
    return line


def logged(run: Path) -> list[dict]:
    """The rows of its metrics.jsonl."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
