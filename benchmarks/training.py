"""Speed of GRPO on a CPU with the shipped policy: ours against verl as shipped and TRL, with the phases of a step.

Every run trains the same policy on the same samples with the same reward, 16 prompts x 8 answers and one update per
step, in processes of its own, one run after the other. The time of a step is that between two lines of the log; the
first three steps are left out. The start lasts from the command to the end of the first step, update included.

    python -m benchmarks.training [--only start,one-step-off,verl,trl,sam2,memory] [--steps 12]

`start` is our own run with its phases, which the others compare with; `one-step-off` is the same with rollouts beside
the update; `sam2` and `memory` are measured directly (training_parts.py). TRL gets an environment of its own, made by
uv in ~/.cache/segzero-benchmarks.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks import training_parts
from benchmarks.peers.shared import ANSWERS, LEARNING_RATE, MAX_ANSWER, MAX_PROMPT, PROMPTS, REWARD

ROOT = Path(__file__).parents[1]
PARTS = ("start", "one-step-off", "verl", "trl", "sam2", "memory")
DROPPED = 3  # steps at the start that are left out
TRL = "1.16.0"
TRL_PACKAGES = (
    "torch",
    "torchvision",
    "transformers",
    "accelerate",
    "datasets",
    "numpy",
    "scipy",
    "pillow",
    "pycocotools",
)
PHASES = {  # phase of our steps -> verl's timer
    "generate": "gen",  # until the last group is written and scored
    "log-probs": "old_log_prob",
    "advantage": "adv",
    "update": "update_actor",
    "rollouts": "wait",  # with one-step-off: what is left of those of the next step
    "sync": "update_weights",
}


@dataclass(frozen=True)
class Run:
    """Log of a run."""

    name: str
    ends: list[float]  # seconds from the start of the run to the end of each step
    rows: list[dict]  # content of the log's lines

    @property
    def steps(self) -> list[float]:
        """Seconds of each step that is not left out."""
        return [b - a for a, b in zip(self.ends, self.ends[1:], strict=False)][DROPPED - 1 :]

    @property
    def rates(self) -> list[float]:
        """Samples per second of these steps."""
        return [PROMPTS * ANSWERS / seconds for seconds in self.steps]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(PARTS), help="some of " + ", ".join(PARTS))
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--sam2-models", default="tiny,hiera-t")
    parser.add_argument("--keep", type=Path, help="a folder for logs and data; a temporary one otherwise")
    args = parser.parse_args()
    chosen = args.only.split(",")
    if unknown := set(chosen) - set(PARTS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    if args.steps <= DROPPED:
        parser.error(f"--steps must be above {DROPPED}, as the first {DROPPED} are left out")

    if {"start", "one-step-off", "verl", "trl"} & set(chosen):
        with tempfile.TemporaryDirectory() as temporary:
            compare_runs(chosen, args.steps, (args.keep or Path(temporary)).absolute())
    if "sam2" in chosen:
        training_parts.segmenter_phase(args.sam2_models.split(","))
    if "memory" in chosen:
        training_parts.trajectory_memory()


def compare_runs(chosen: list[str], steps: int, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    data = make_data(folder, steps)
    print(f"{PROMPTS} prompts x {ANSWERS} answers per step, {steps} steps; median (fastest to slowest)", flush=True)
    ours = run_ours(data, folder, steps)
    report(ours)
    phases(ours)
    if "one-step-off" in chosen:
        ahead = run_ours(data, folder, steps, "segzero.one_step_off=true")
        report(ahead, ours)
        phases(ahead)
        for run in (ours, ahead):
            rewards = [row["reward/mean"] for row in run.rows[-10:]]
            print(f"  reward of the last {len(rewards)} steps, {run.name}: {statistics.mean(rewards):.3f}", flush=True)
    for part, run in (("verl", run_verl), ("trl", run_trl)):
        if part in chosen:
            report(run(data, folder, steps), ours)


def make_data(folder: Path, steps: int) -> Path:
    from segzero.data.parquet import to_parquet
    from segzero.tiny.questions import HELD_OUT_SEED, make_samples

    to_parquet(make_samples(8, HELD_OUT_SEED + 7), folder / "val.parquet")
    return to_parquet(make_samples(PROMPTS * steps, 7_000), folder / "train.parquet")


# The runs


def run_ours(data: Path, folder: Path, steps: int, *overrides: str) -> Run:
    name = "ours, " + " ".join(overrides) if overrides else "ours"
    run = folder / "ours"
    shutil.rmtree(run, ignore_errors=True)
    command = [sys.executable, "-m", "segzero", "train", *common(data), f"reward={REWARD}"]
    command += [f"trainer.default_local_dir={run}", f"trainer.total_training_steps={steps}"]
    command += ["trainer.val_before_train=false", "trainer.test_freq=-1", "trainer.save_freq=-1"]
    command += ["segzero.segmenter.path=null", "segzero.resume=none", *overrides]
    return watch(name, command, run / "metrics.jsonl", steps, folder)


def run_verl(data: Path, folder: Path, steps: int) -> Run:
    log = folder / "verl.jsonl"
    command = [sys.executable, "-m", "benchmarks.peers.verl_stock", data, log, str(steps), *common(data)]
    return watch("verl 0.9.1 as shipped", command, log, steps, folder)


def run_trl(data: Path, folder: Path, steps: int) -> Run:
    log = folder / "trl.jsonl"
    command = [trl_python(), "-m", "benchmarks.peers.trl_grpo", data, log, str(steps)]
    return watch(f"TRL {TRL}, generating with transformers", command, log, steps, folder)


def common(data: Path) -> list[str]:
    """Overrides of both verl runs that make their configuration the same as TRL's."""
    return [
        f"data.train_files={data}",
        f"data.val_files={data.with_name('val.parquet')}",
        f"data.train_batch_size={PROMPTS}",
        f"actor_rollout_ref.rollout.n={ANSWERS}",
        f"data.max_prompt_length={MAX_PROMPT}",
        f"data.max_response_length={MAX_ANSWER}",
        f"actor_rollout_ref.actor.optim.lr={LEARNING_RATE}",
    ]


def trl_python() -> Path:
    """Python of TRL's own environment, which has the versions of this one for packages that both need."""
    from importlib.metadata import version

    home = Path.home() / ".cache" / "segzero-benchmarks" / f"trl-{TRL}"
    python = home / "bin" / "python"
    if not (home / "complete").exists():
        print(f"installing TRL {TRL} in {home}", flush=True)
        uv = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}") or "uv"
        packages = [f"trl=={TRL}", *(f"{name}=={version(name)}" for name in TRL_PACKAGES)]
        subprocess.run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, home], check=True)
        subprocess.run([uv, "pip", "install", "--quiet", "--python", python, *packages], check=True)
        (home / "complete").touch()
    return python


def watch(name: str, command: list, log: Path, steps: int, folder: Path) -> Run:
    """Run a command and record the time of each line of its log."""
    log.unlink(missing_ok=True)
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("VERL_", "VLLM_"))}
    environment |= {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    environment.pop("OMP_NUM_THREADS", None)  # each run chooses for itself
    output = folder / f"{name.split()[0].rstrip(',')}.log"
    ends: list[float] = []
    with output.open("w") as out:
        begin = time.perf_counter()
        process = subprocess.Popen([*map(str, command)], stdout=out, stderr=subprocess.STDOUT, env=environment)
        try:
            while process.poll() is None:
                lines = log.read_bytes().count(b"\n") if log.exists() else 0
                ends += [time.perf_counter() - begin] * (min(lines, steps) - len(ends))
                time.sleep(0.02)
        finally:
            process.terminate()
            process.wait()
    if len(ends) < steps:
        sys.exit(f"{name}: {len(ends)} of {steps} steps were made. Its output ends with:\n{output.read_text()[-3000:]}")
    rows = [json.loads(line)["data"] for line in log.read_text().splitlines()[:steps]]
    return Run(name, ends, rows)


# The report


def report(run: Run, ours: Run | None = None) -> None:
    print(f"\n{run.name}\n  start to the end of the first step  {run.ends[0]:.1f} s")
    print(f"  per step    {spread(run.steps)} s")
    print(f"  samples/s   {spread(run.rates)}")
    if ours is not None:
        middle = statistics.median(ours.rates) / statistics.median(run.rates)
        low, high = min(ours.rates) / max(run.rates), max(ours.rates) / min(run.rates)
        print(f"  ours is     {middle:.2f}x as fast (slowest against fastest {low:.2f}x, the reverse {high:.2f}x)")
    sys.stdout.flush()


def phases(run: Run) -> None:
    """Print the time of each phase of our steps."""
    rows = run.rows[DROPPED:]
    print(f"  {'phase':12}{'seconds':>24}{'share':>8}")
    total, known = statistics.median(run.steps), [0.0] * len(rows)
    for phase, timer in PHASES.items():
        seconds = [row.get(f"timing_s/{timer}", 0.0) for row in rows]
        known = [a + b for a, b in zip(known, seconds, strict=True)]
        print(f"  {phase:12}{spread(seconds):>24}{statistics.median(seconds) / total:>8.0%}")
        if phase == "generate":
            scored = [row["rollout/reward_seconds"] for row in rows]
            print(f"  {'  reward':12}{spread(scored):>24}         per group, while others are written")
    waited = [max(0.0, whole - part) for whole, part in zip(run.steps, known, strict=True)]
    print(f"  {'wait, log':12}{spread(waited):>24}{statistics.median(waited) / total:>8.0%}")


def spread(values: list[float]) -> str:
    digits = 3 if max(values) < 1 else 2
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


if __name__ == "__main__":
    main()
