"""Memory of real training runs on a CPU against the estimates of dry_run.

Each configuration is trained for two steps of two prompts, most of them with two answers to each. Every half second
the proportional set sizes (PSS, in which a page that several processes share counts once in all) of the run and its
descendants are added up; the largest sum is the measured peak. The estimate is
`segzero.training.memory.estimate_memory` for that configuration.

    python -m benchmarks.estimates [--only tiny,plain,kl,group,logits]

tiny    the shipped policy, hardware=cpu
plain   Qwen's vocabulary on a narrow Qwen2.5-VL of random weights, hardware=cpu, no KL loss
kl      the same with KL loss and its reference model, as hardware=gpu4 has it, rehearse=cpu
group   the same as plain, four answers of up to 48 tokens to each prompt
logits  the same as plain, one prompt per step, in rows of their own and with the logits of a whole pass in memory
        (segzero.shared_prompt=false, use_fused_kernels=false)
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

ROOT = Path(__file__).parent.parent
INTERVAL = 0.5  # seconds between two samples of the memory
TOLERANCE = 0.25  # relative error of an estimate that is accepted
WIDTH, LAYERS = 512, 4  # size of the random policy
COMMON = ["reward=vision_reasoner", "trainer.total_training_steps=2", "trainer.val_before_train=false"]
COMMON += ["trainer.test_freq=-1", "trainer.save_freq=-1", "data.train_batch_size=2", "actor_rollout_ref.rollout.n=2"]
REAL = ["model=qwen2_5_vl_3b", "data.frame=stretch(840)", "data.prompt=vision_reasoner", "data.max_prompt_length=1120"]
REAL += ["data.max_response_length=32", "actor_rollout_ref.rollout.max_model_len=1400", "segzero.segmenter.path=null"]
NO_KL = "actor_rollout_ref.actor.use_kl_loss=false"
RUNS = {
    "tiny": ["hardware=cpu", "data.max_response_length=48"],
    "plain": ["hardware=cpu", *REAL, NO_KL],
    "kl": ["hardware=gpu4", "rehearse=cpu", *REAL],
    "group": ["hardware=cpu", *REAL, NO_KL, "data.max_response_length=48", "actor_rollout_ref.rollout.n=4"],
    "logits": [
        *("hardware=cpu", *REAL, NO_KL, "data.train_batch_size=1"),
        *("segzero.shared_prompt=false", "actor_rollout_ref.model.use_fused_kernels=false"),
    ],
}


@dataclass(frozen=True)
class Peak:
    """Largest memory of a run."""

    total: float  # bytes
    processes: Counter[str]  # bytes of the processes at that moment, by name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(RUNS), help="some of " + ", ".join(RUNS))
    chosen = parser.parse_args().only.split(",")
    if unknown := set(chosen) - set(RUNS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(RUNS)}")
    print("| run | estimated, GiB | measured, GiB | estimate / measured |\n|---|---|---|---|", flush=True)
    missed, details = [], []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make_data(folder)
        for name in chosen:
            overrides = overrides_of(name, folder)
            parts = estimate(overrides)
            peak = measure([sys.executable, "-m", "segzero", "train", *overrides], folder / f"{name}.log")
            predicted = sum(parts.values())
            ratio = predicted / peak.total
            print(f"| {name} | {gib(predicted)} | {gib(peak.total)} | {ratio:.2f} |", flush=True)
            details += [f"{name}, estimated: {words(parts)}", f"{name}, at the peak: {words(peak.processes)}"]
            missed += [name] * (abs(ratio - 1) > TOLERANCE)
    print("\n" + "\n".join(details))
    if missed:
        sys.exit(f"more than {TOLERANCE:.0%} off: {', '.join(missed)}")


def make_data(folder: Path) -> None:
    from segzero.data.parquet import to_parquet
    from segzero.tiny.questions import make_samples

    samples = [sample for sample in make_samples(40, 12) if len(sample.objects) == 1]
    to_parquet(samples[:4], folder / "train.parquet")
    to_parquet(samples[4:6], folder / "val.parquet")


def overrides_of(name: str, folder: Path) -> list[str]:
    files = [f"data.{split}_files={folder / split}.parquet" for split in ("train", "val")]
    overrides = [*COMMON, *RUNS[name], *files, f"trainer.default_local_dir={folder / name}"]
    if "model=qwen2_5_vl_3b" in overrides:
        policy = folder / "policy"
        if not policy.exists():
            make_policy(policy)
        overrides.append(f"actor_rollout_ref.model.path={policy}")
    return overrides


def make_policy(folder: Path) -> None:
    """Save a Qwen2.5-VL with random weights that is wide enough for their memory to matter."""
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    from tests.helpers.random_checkpoints import build_checkpoint

    build_checkpoint("qwen2_5_vl", folder, real_vocabulary=True)
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    text = config.get_text_config()
    text.hidden_size, text.num_hidden_layers, text.layer_types = WIDTH, LAYERS, ["full_attention"] * LAYERS
    text.num_attention_heads = WIDTH // 32
    config.vision_config.out_hidden_size = WIDTH
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(config, trust_remote_code=False)
    model.generation_config.eos_token_id = text.eos_token_id
    model.save_pretrained(folder)


def estimate(overrides: list[str]) -> dict[str, float]:
    """Estimate the bytes of each part, as dry_run does."""
    from segzero.training.batch import batch_sizes
    from segzero.training.config import compose
    from segzero.training.launch import resolve_config
    from segzero.training.memory import estimate_memory
    from segzero.training.model_shape import shape_of

    config = resolve_config(compose("train", overrides))
    return estimate_memory(config, batch_sizes(config), shape_of(config.actor_rollout_ref.model.path)).parts


def measure(command: list[str], log: Path) -> Peak:
    """Run a command to its end and sample its memory."""
    peak = Peak(0, Counter())
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    with log.open("w") as out:
        run = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=environment)
        seen = {run.pid: psutil.Process(run.pid)}
        try:
            while run.poll() is None:
                held = sample(seen)
                if held.total() > peak.total:
                    peak = Peak(held.total(), held)
                time.sleep(INTERVAL)
        finally:
            run.terminate()
            run.wait()
    if run.returncode:
        sys.exit(f"the run ended with {run.returncode}. Its output ends with:\n{log.read_text()[-3000:]}")
    return peak


def sample(seen: dict[int, psutil.Process]) -> Counter[str]:
    """Memory of all processes by name; children are kept in `seen`, as some outlive the process that started them."""
    held: Counter[str] = Counter()
    for process in list(seen.values()):
        with suppress(psutil.Error):
            seen |= {child.pid: child for child in process.children(recursive=True)}
    for pid, process in list(seen.items()):
        with suppress(psutil.Error, OSError):
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            [pss] = [int(line.split()[1]) for line in lines if line.startswith("Pss:")]
            held[_name(process)] += pss * 1024
            continue
        del seen[pid]  # it has ended
    return held


def _name(process: psutil.Process) -> str:
    """Ray's or vLLM's name of a worker, or the name of the program."""
    first = (process.cmdline() or [process.name()])[0]
    return first if first.startswith(("ray::", "VLLM::")) else process.name()


def words(parts: dict[str, float]) -> str:
    ordered = sorted(parts.items(), key=lambda part: -part[1])
    return ", ".join(f"{name} {gib(size)}" for name, size in ordered if size > 2**25)


def gib(size: float) -> str:
    return f"{size / 2**30:.1f}"


if __name__ == "__main__":
    main()
