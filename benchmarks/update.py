"""An update of the policy, from a batch of answers to gradients: prompts shared, rows of their own, and verl's engine.

Each measurement has a process of its own, in which one engine computes verl's GRPO loss (clipped ratio, KL, entropy)
and its gradients for the same random answers, several times; the first time is left out.

    python -m benchmarks.update [--only tiny,vocabulary,released] [--repeats 5] [--device cpu]

tiny        the shipped policy, 16 prompts x 8 answers of about 26 tokens
vocabulary  Qwen's vocabulary on a narrow Qwen2.5-VL of random weights, images of 840x840, 2 prompts x 4 answers of 48
released    3B and 7B: arithmetic of segzero.training, not a measurement

shared    segzero.shared_prompt=true
separate  segzero.shared_prompt=false: a row per answer, the vision tower once an image, logits 512 tokens at a time
verl      verl's FSDP engine as shipped: a row and an image per answer, logits of all tokens
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[1]
PARTS = ("tiny", "vocabulary", "released")
ENGINES = ("shared", "separate", "verl")
SIZES = {"tiny": (16, 8, 26), "vocabulary": (2, 4, 48)}  # prompts, answers to each, tokens of an answer
REAL = ["data.frame=stretch(840)", "data.prompt=vision_reasoner"]
# verl's logits of a pass of 8192 tokens would take 30 GB: two rows a pass.
VERL = ["actor_rollout_ref.model.use_fused_kernels=false", "actor_rollout_ref.actor.ppo_max_token_len_per_gpu=2600"]
EXPECTED = 150  # tokens of an answer, for the arithmetic
PROMPT = 1045  # tokens of a prompt, of which 900 are visual


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(PARTS), help="some of " + ", ".join(PARTS))
    parser.add_argument("--engines", default=",".join(ENGINES), help="some of " + ", ".join(ENGINES))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--measure", nargs=2, metavar=("PART", "ENGINE"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(*args.measure, args.folder, args.repeats, args.device)))
        return
    chosen, engines = args.only.split(","), args.engines.split(",")
    if unknown := (set(chosen) - set(PARTS)) | (set(engines) - set(ENGINES)):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    with tempfile.TemporaryDirectory() as folder:
        for part in [part for part in chosen if part in SIZES]:
            compare(part, engines, Path(folder), args.repeats, args.device)
        if "released" in chosen:
            arithmetic(Path(folder))


def compare(part: str, engines: list[str], folder: Path, repeats: int, device: str) -> None:
    """Measure each engine in its own process and print the table."""
    prompts, answers, length = SIZES[part]
    print(f"\n{part}: {prompts} prompts x {answers} answers of about {length} tokens, {device}")
    print("| engine | tokens computed | seconds | CPU seconds | peak memory added, GiB | time / shared |")
    print("|---|---|---|---|---|---|", flush=True)
    shared = None
    for engine in engines:
        command = [sys.executable, "-m", "benchmarks.update", "--measure", part, engine]
        command += ["--folder", folder, "--repeats", str(repeats), "--device", device]
        found = subprocess.run([*map(str, command)], cwd=ROOT, capture_output=True, text=True)
        if found.returncode:
            print(f"| {engine} | failed: {found.stderr.strip().splitlines()[-1]} |", flush=True)
            continue
        row = json.loads(found.stdout.splitlines()[-1])
        middle = statistics.median(row["seconds"])
        shared = middle if engine == "shared" else shared
        ratio = f"{middle / shared:.2f}" if shared else ""
        cells = [
            engine,
            f"{row['tokens']:,}",
            spread(row["seconds"]),
            spread(row["cpu"]),
            f"{row['memory']:.2f}",
            ratio,
        ]
        print("| " + " | ".join(cells) + " |", flush=True)


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


# One process


def measure(part: str, engine_name: str, folder: Path, repeats: int, device: str) -> dict[str, Any]:
    """Time and memory of one engine's forward and backward passes over a batch."""
    os.environ |= {"VERL_PLATFORM": {"cuda": "nvidia"}.get(device, device), "VERL_LOGGING_LEVEL": "ERROR"}
    os.environ["VERL_USE_EXTERNAL_MODULES"] = "segzero.training.verl_glue.plugin"
    import torch
    from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead

    from tests.helpers import engines

    torch.set_num_threads(os.cpu_count() or 1)
    own = Path(tempfile.mkdtemp(dir=folder))
    engines.join_processes(own, backend="nccl" if device == "cuda" else "gloo")
    is_verl = engine_name == "verl"
    job = make_job(part, folder, own, engine_name == "shared", [*(VERL if is_verl else []), *on(device)])
    engine, batch, loss = job.start(FSDPEngineWithLMHead if is_verl else None)
    if is_verl:
        batch["multi_modal_inputs"] = pixels_of(job, batch)
    seen = count_tokens(engine)
    seconds, cpu, before = [], [], psutil.Process().memory_info().rss
    with Peak(device) as peak:
        for _ in range(repeats + 1):
            copy = batch.clone()
            with engine.train_mode():
                seen.clear()
                begin, busy = time.perf_counter(), time.process_time()
                engine.optimizer_zero_grad()
                engine.forward_backward_batch(copy, loss)
                if device == "cuda":
                    torch.cuda.synchronize()
                seconds.append(time.perf_counter() - begin)
                cpu.append(time.process_time() - busy)
    return {
        "seconds": seconds[1:],
        "cpu": cpu[1:],
        "memory": (peak.bytes - (before if device == "cpu" else 0)) / 2**30,
        "tokens": sum(seen),
    }


def on(device: str) -> list[str]:
    return ["hardware=gpu8_80g", "trainer.n_gpus_per_node=1"] if device == "cuda" else []


def make_job(part: str, folder: Path, own: Path, shared_prompt: bool, overrides: list[str]) -> Any:
    """The policy, samples with images in files, and lengths of answers that vary around the mean."""
    import torch

    from benchmarks.estimates import make_policy
    from segzero import shipped
    from segzero.tiny.questions import HELD_OUT_SEED, make_samples
    from tests.helpers.engines import Job

    prompts, answers, mean = SIZES[part]
    policy = shipped.policy_path()
    if part == "vocabulary":
        policy, overrides = folder / "policy", [*REAL, *overrides]
        if not policy.exists():
            make_policy(policy)
    samples = []
    for sample in make_samples(prompts, HELD_OUT_SEED + 31):
        path = own / f"{sample.id}.png"
        path.write_bytes(sample.image)
        samples.append(replace(sample, image=str(path)))
    torch.manual_seed(3)
    lengths = torch.randint(mean // 2, 3 * mean // 2, (prompts, answers)).tolist()
    return Job(policy, own, samples, lengths, overrides, shared_prompt)


def pixels_of(job: Any, batch: Any) -> Any:
    """Pixels in each row, as verl's own trainer sends them."""
    from tensordict import NonTensorStack
    from verl.utils.tokenizer import hf_processor

    from segzero.policy.checkpoint import read_checkpoint
    from segzero.training.tokenization import open_fitted

    frame = next((o.partition("=")[2] for o in job.overrides if o.startswith("data.frame=")), None)
    checkpoint, processor = read_checkpoint(job.policy, frame), hf_processor(str(job.policy), trust_remote_code=False)
    rows = []
    for reference in batch["multi_modal_inputs"]:
        image = open_fitted(getattr(reference, "data", reference)["image"], checkpoint)
        made = processor.image_processor(images=[image], return_tensors="pt")
        rows.append({name: made[name] for name in ("pixel_values", "image_grid_thw")})
    return NonTensorStack(*rows)


def count_tokens(engine: Any) -> list[int]:
    """Record the number of tokens, padding included, of each pass through the language model."""
    seen: list[int] = []
    text = engine.module.get_decoder()
    text.register_forward_pre_hook(
        lambda module, args, options: seen.append(options["inputs_embeds"].shape[:2].numel()), with_kwargs=True
    )
    return seen


class Peak:
    """The largest memory of this process, or of its GPU, while it is open."""

    def __init__(self, device: str) -> None:
        self.device, self.bytes = device, 0
        self._done = threading.Event()
        self._watch = threading.Thread(target=self._sample, daemon=True)

    def _sample(self) -> None:
        process = psutil.Process()
        while not self._done.wait(0.02):
            self.bytes = max(self.bytes, process.memory_info().rss)

    def __enter__(self) -> "Peak":
        if self.device == "cpu":
            self._watch.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        if self.device == "cuda":
            import torch

            self.bytes = torch.cuda.max_memory_allocated()


# 3B and 7B


def arithmetic(folder: Path) -> None:
    """Print what the estimates of dry_run say about the released models on eight GPUs of 80 GB."""
    from segzero.training.batch import batch_sizes
    from segzero.training.config import compose
    from segzero.training.launch import resolve_config
    from segzero.training.memory import working_bytes
    from segzero.training.model_shape import shape_of
    from segzero.training.step_time import estimate_step_time
    from tests.helpers.released_shapes import write_released

    print(
        f"\nreleased: ARITHMETIC, not measured: 16 x 8, prompts of {PROMPT} and answers of {EXPECTED} tokens, 8 x 80 GB"
    )
    print("| model | engine | tokens a step | update, s | working memory of a GPU, GB |\n|---|---|---|---|---|")
    for name in ("qwen2_5_vl_3b", "qwen2_5_vl_7b"):
        path = write_released(name, folder / name)
        for shared in (True, False):
            config = resolve_config(
                compose(
                    "train",
                    [
                        f"model={name}",
                        "hardware=gpu8_80g",
                        f"actor_rollout_ref.model.path={path}",
                        f"segzero.shared_prompt={str(shared).lower()}",
                        f"segzero.expected_answer_tokens={EXPECTED}",
                        "data.max_response_length=500",
                    ],
                )
            )
            batch, shape = batch_sizes(config), shape_of(str(path))
            tokens = (batch.prompts if shared else batch.total) * PROMPT + batch.total * EXPECTED
            update = estimate_step_time(config, batch, shape, PROMPT).update
            working = working_bytes(config, batch, shape) / 1e9
            engine = "shared" if shared else "separate"
            print(f"| {name} | {engine} | {tokens:,} | {update:.1f} | {working:.1f} |")


if __name__ == "__main__":
    main()
