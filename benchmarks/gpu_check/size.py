"""Figures at the size of a real run: a randomly initialized Qwen2.5-VL-3B, measured against the estimate of dry_run."""

import json
import math
import shutil
from pathlib import Path

from benchmarks.gpu_check.block import CommandResult, Failed, Figure, Setting, Skipped, read_rows
from benchmarks.gpu_check.large import BYTES
from benchmarks.gpu_check.lines import FULL, STEPS, data, keys, segzero_train
from benchmarks.gpu_check.versions import card_gb

GIB = 2**30
SMALLEST = 22  # GB of a card: LoRA on 3B in bfloat16, vLLM's half beside it
WHOLE = 120  # GB: weights, gradients and Adam in float32 are 60, vLLM's share and the logits come on top


def size(setting: Setting) -> str:
    """Run three steps with real prompt lengths and vocabulary: tokens per second, memory, time to the first step."""
    memory = card_gb() if setting.device == "cuda" else 0.0
    if setting.device == "cuda" and memory < SMALLEST:
        raise Skipped(f"a card of {memory:.0f} GB does not hold it; {SMALLEST} GB would, with LoRA")
    if shutil.disk_usage(setting.folder).free < 2 * BYTES:
        raise Skipped(f"its checkpoint needs {2 * BYTES / 1e9:.0f} GB of disk in {setting.folder}")
    policy = setting.folder / "large_policy"
    setting.module("large build", "large", "build", policy, setting.device).check()
    try:
        overrides = settings_of(setting, policy, memory)
        out = setting.folder / "estimate.json"
        setting.module("large estimate", "large", "estimate", out, *overrides).check()
        ended = segzero_train(setting, "large", *overrides).check()
    finally:
        shutil.rmtree(policy, ignore_errors=True)
    return figures(setting, ended, json.loads(out.read_text()), memory)


def settings_of(setting: Setting, policy: Path, memory: float) -> list[str]:
    """Overrides of the run: all weights if the card holds them, LoRA otherwise."""
    whole = [*FULL, "actor_rollout_ref.actor.fsdp_config.param_offload=false"] if memory >= WHOLE else []
    prompts = 8 if memory >= 60 else 4
    card = [
        f"data.train_batch_size={prompts}",
        f"segzero.accelerator.memory_gb={memory:.0f}",
        *([f"segzero.accelerator.{key}={value}" for key, value in FAST.items()] if memory >= 60 else []),
        f"actor_rollout_ref.actor.ppo_max_token_len_per_gpu={12000 if memory >= 60 else 6000}",
    ]
    return [
        *keys(setting, "large", "hardware=gpu1", "model=qwen2_5_vl_3b", "reward=vision_reasoner"),
        *data(setting),
        f"actor_rollout_ref.model.path={policy}",
        "data.frame=stretch(840)",
        "data.prompt=vision_reasoner",
        f"data.max_response_length={256 if setting.device == 'cuda' else 32}",
        "actor_rollout_ref.rollout.max_model_len=2048",
        "segzero.segmenter.path=null",
        f"trainer.total_training_steps={STEPS}",
        "trainer.save_freq=-1",
        "trainer.test_freq=-1",
        *(card if setting.device == "cuda" else []),
        *whole,
    ]


FAST = {"tflops": 400, "gb_per_s": 3000, "link_gb_per_s": 200}  # as hardware=gpu8_80g has them


def figures(setting: Setting, ended: CommandResult, estimated: dict[str, float], memory: float) -> str:
    """Rows of the table, from all steps but the first."""
    rows = read_rows(setting.folder / "large")
    if len(rows) != STEPS or not all(math.isfinite(row["actor/grad_norm"]) for row in rows):
        raise Failed(f"{len(rows)} of {STEPS} steps are in the log, or not all with a finite gradient", ended.log)
    way = "all weights" if memory >= WHOLE else "LoRA"
    name = f"{estimated['parameters'] / 1e6:.0f} M parameters, {way}"
    later = rows[1:]
    seconds = sum(row["perf/time_per_step"] for row in later) / len(later)
    rate = sum(row["perf/throughput"] for row in later) / len(later)
    setting.figures += [
        Figure(f"{name}: tokens/s", f"{rate:.0f}"),
        Figure(f"{name}: a step", f"{seconds:.1f} s", f"{estimated['seconds']:.1f} s"),
        Figure(f"{name}: start to the end of the first step", f"{ended.rows[0]:.0f} s"),
    ]
    if setting.device == "cuda":
        trainer = max(row["actor/perf/max_memory_reserved_gb"] for row in rows)
        writing, updating = (estimated[key] / GIB for key in ("writing", "updating"))
        card = f"{ended.card:.1f} GiB" if ended.card else "nvidia-smi does not tell"
        setting.figures += [
            Figure(f"{name}: trainer at its fullest", f"{trainer:.1f} GiB", f"{updating:.1f} GiB"),
            Figure(f"{name}: card at its fullest", card, f"{max(writing, updating):.1f} GiB"),
        ]
    return f"{STEPS} steps, {way}; {rate:.0f} tokens/s, prompts of {estimated['prompt']:.0f} tokens"
