"""Checks that need a GPU, a function each; they share runs, so that all of them take minutes.

On a CPU the same functions check what is possible there, with `rehearse=cpu` in every run.
"""

import json
import math
import os
import sys
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from benchmarks.gpu_check.block import CommandResult, Failed, Figure, Line, Setting, Skipped, read_rows
from benchmarks.gpu_check.versions import card_gb

ALARM = 0.01  # bound of training/rollout_probs_diff_mean, as in docs/training.md
STEPS = 3
CLOSE = 1e-3  # tolerance between two methods that compute the same in float32
MASK_IOU = 0.99  # least IoU in float32 on both devices, and mean IoU with the usual bfloat16 encoder
# Number of greedy texts that may differ between backends: on a GPU vLLM's attention multiplies float32 as TF32.
DIFFERENT = {"cpu": 0, "cuda": 1}
# A learning rate so large that weights which are a step old would be noticed.
RATE = ["actor_rollout_ref.actor.optim.lr=1e-3", "actor_rollout_ref.actor.optim.lr_warmup_steps=0"]
GPU1 = ["hardware=gpu1", "model=tiny", "reward=mask"]
FULL = [
    "actor_rollout_ref.model.lora_rank=0",
    "actor_rollout_ref.actor.freeze_vision_tower=false",
    "actor_rollout_ref.actor.fsdp_config.model_dtype=fp32",
    # vLLM starts with random weights: its probabilities can match only after a synchronization.
    "actor_rollout_ref.rollout.load_format=dummy",
]
FUSED = "actor_rollout_ref.model.use_fused_kernels"
SHARED = "segzero.shared_prompt"
EAGER = "actor_rollout_ref.rollout.enforce_eager=true"  # saves a minute where compilation is checked elsewhere


def platform(setting: Setting) -> str:
    """Check which platform verl chooses, with nvidia-smi on the path and without."""
    nowhere = setting.folder / "no_programs"
    nowhere.mkdir(parents=True, exist_ok=True)
    results = []
    hidden = {"PATH": str(nowhere)}
    for name, environment in (("platform", None), ("platform without nvidia-smi", hidden)):
        ended = setting.module(name, "which_platform", *keys(setting, name, *GPU1), environment=environment)
        results.append(next(line for line in ended.check().output().splitlines() if line.startswith("platform: ")))
        if results[-1].split()[-1] != setting.device:
            raise Failed(f"{name}: {results[-1]}, where {setting.device} was wanted", ended.log)
    return f"{results[0].removeprefix('platform: ')}, with nvidia-smi on the path and without"


def full(setting: Setting) -> str:
    """Check full fine-tuning: start, weights passed to vLLM, sleep and wake, update, validation, save."""
    ended = train(setting, "full", STEPS, *FULL).check()
    rows = healthy(setting, "full", ended, STEPS)
    if not (setting.folder / "full" / f"global_step_{STEPS}" / "manifest.json").exists():
        raise Failed(f"no whole checkpoint of step {STEPS} was left", ended.log)
    setting.figures += [Figure("tiny, full: start to the end of the first step", f"{ended.rows[0]:.0f} s")]
    return f"{STEPS} steps, saved; vLLM and trainer differ by {drift(rows):.1e} (alarm {ALARM})"


def resume(setting: Setting) -> str:
    """Check that the full run resumes from its checkpoint for one more step."""
    full_run(setting)
    ended = train(setting, "full", STEPS + 1, *FULL, EAGER, again=True).check()
    if f"resuming from {setting.folder / 'full' / f'global_step_{STEPS}'}" not in ended.output():
        raise Failed("it started from the beginning instead of resuming", ended.log)
    rows = healthy(setting, "full", ended, STEPS + 1)
    return f"step {STEPS + 1} after a new start; vLLM and trainer differ by {drift(rows[-1:]):.1e}"


def lora(setting: Setting) -> str:
    """Check LoRA: the adapters alone are synchronized, to a vLLM that has read the base model itself."""
    ended = train(setting, "lora", STEPS, EAGER).check()
    rows = healthy(setting, "lora", ended, STEPS)
    return f"{STEPS} steps, saved; vLLM and trainer differ by {drift(rows):.1e} (alarm {ALARM})"


def mask(setting: Setting) -> str:
    """Check SAM2 in the reward and in validation, beside trainer and vLLM on the same card."""
    ended = full_run(setting)
    rows = read_rows(setting.folder / "full")[:STEPS]
    terms = [name for name in rows[0] if name.startswith("reward/mask") and name.endswith("/mean")]
    if not terms or "val/giou" not in rows[-1]:
        raise Failed(f"the log has no mask term or no val/giou: {sorted(rows[-1])}"[:300], ended.log)
    if ended.card:
        setting.figures += [Figure("tiny, full, with SAM2: the card at its fullest", f"{ended.card:.1f} GiB")]
    shown = ", ".join(f"{name.split('/')[1]} {rows[-1][name]:.2f}" for name in terms)
    return f"{shown}, gIoU of validation {rows[-1]['val/giou']:.2f}"


def inference(setting: Setting) -> str:
    """Check that the LoRA run's merged checkpoint gives the same greedy texts with both backends."""
    train(setting, "lora", STEPS, EAGER).check()
    merged, saved = setting.folder / "merged", setting.folder / "lora" / f"global_step_{STEPS}"
    how = ["-o", str(merged), "--dtype", "float32"]
    setting.run("merge", [sys.executable, "-m", "segzero", "merge", saved, *how]).check()
    texts = []
    for backend in ("transformers", "vllm"):
        out = setting.folder / f"{backend}.json"
        ended = setting.module(f"answers {backend}", "answers", merged, backend, setting.device, out).check()
        texts.append(json.loads(out.read_text())["texts"])
    same = sum(a == b for a, b in zip(*texts, strict=True))
    if len(texts[0]) - same > DIFFERENT[setting.device]:
        raise Failed(f"{same} of {len(texts[0])} texts are equal", ended.log)
    return f"merged with its adapters; transformers and vLLM: {same} of {len(texts[0])} texts are equal"


def dynamic(setting: Setting) -> str:
    """Check that dynamic micro-batches give the loss and gradient norm of static ones."""
    updates = same_batch(setting, "sdpa", "float32")["updates"]
    static, free = updates["static"], updates["dynamic"]
    for key in ("loss", "grad_norm"):
        if not math.isclose(static[key], free[key], rel_tol=CLOSE, abs_tol=CLOSE / 10):
            raise Failed(f"{key} is {free[key]:.6f} with dynamic and {static[key]:.6f} with static micro-batches")
    return f"equal losses ({static['loss']:.5f}) and gradient norms ({static['grad_norm']:.4f})"


def fused(setting: Setting) -> str:
    """Check use_fused_kernels against logits that are computed in full."""
    plain, results = (same_batch(setting, "sdpa", "float32", *given) for given in ([], [f"{FUSED}=true"]))
    if plain["fused"] or not results["fused"]:
        raise Failed("both runs computed in the same way")
    apart = compare(plain, results)
    norms = [each["updates"]["static"]["grad_norm"] for each in (plain, results)]
    summary = f"probabilities differ by {apart:.1e}, gradient norms are {norms[0]:.4f} and {norms[1]:.4f}"
    if apart > CLOSE or not math.isclose(*norms, rel_tol=CLOSE):
        raise Failed(summary)
    return f"equal: {summary}"


def shared(setting: Setting) -> str:
    """Check rows with shared prompts (flex attention on a GPU) against rows with a prompt of their own."""
    own, packed = (same_batch(setting, "sdpa", "float32", *given) for given in ([], [f"{SHARED}=true"]))
    apart = compare(own, packed)
    norms = [each["updates"][passes]["grad_norm"] for each in (own, packed) for passes in ("static", "dynamic")]
    summary = f"probabilities differ by {apart:.1e}, gradient norms are {min(norms):.4f} to {max(norms):.4f}"
    if apart > CLOSE or not math.isclose(min(norms), max(norms), rel_tol=CLOSE):
        raise Failed(summary)
    return f"equal: {summary}"


def attention(setting: Setting) -> str:
    """Check SDPA with padding against flash-attn without, in bfloat16, or against plain attention if it is missing."""
    from segzero.machine import has_flash

    flash = setting.device == "cuda" and has_flash()
    other, precision, limit = ("flash_attention_2", "bfloat16", ALARM) if flash else ("eager", "float32", CLOSE)
    batches = {name: same_batch(setting, name, precision) for name in ("sdpa", other)}
    if wrong := [name for name, batch in batches.items() if batch["attention"] != name]:
        raise Failed(f"{wrong[0]} was asked for, and {batches[wrong[0]]['attention']} computed")
    apart = compare(*batches.values())
    if apart > limit:
        raise Failed(f"probabilities by sdpa and {other} differ by {apart:.1e}, more than {limit}")
    missing = "" if flash else "; flash-attn is not installed, which is optional"
    return f"sdpa and {other} in {precision}: probabilities differ by {apart:.1e} (limit {limit}){missing}"


def segmenter(setting: Setting) -> str:
    """Check SAM2's masks on the device against those on the CPU."""
    out = setting.folder / "masks.json"
    ended = setting.module("masks", "masks", setting.device, out).check()
    results = json.loads(out.read_text())
    least, half = min(results["float32"]), sum(results["auto"]) / len(results["auto"])
    summary = (
        f"{len(results['auto'])} masks: IoU at least {least:.4f} in float32, {half:.4f} in the mean by ordinary use"
    )
    if least < MASK_IOU or half < MASK_IOU:
        raise Failed(summary, ended.log)
    setting.figures += [Figure("SAM2.1 Hiera-T, 1024 px, encoding", f"{results['images_a_second']:.1f} images/s")]
    return summary


def released(setting: Setting) -> str:
    """Check real checkpoints on the photo that comes with the tests."""
    if not setting.policy:
        raise Skipped("name a checkpoint by POLICY=, and SAM2 by SEGMENTER=")
    from segzero.segmenter import DEFAULT

    segmenter = setting.segmenter or DEFAULT
    arguments: list[str | Path] = [setting.policy, segmenter, setting.device, setting.folder]
    online = {"HF_HUB_OFFLINE": os.environ.get("HF_HUB_OFFLINE", "0")}
    ended = setting.module("released", "released", *arguments, environment=online).check()
    results = json.loads((setting.folder / "coffee_check.json").read_text())
    picture = os.path.relpath(results["picture"])
    summary = f"{setting.policy} with {segmenter} says {results['text']!r}; areas {results['areas']}, {picture}"
    if results["wrong"]:
        raise Failed(f"{results['wrong']}; {summary}"[:600], ended.log)
    return summary


# Runs


def keys(setting: Setting, name: str, *overrides: str) -> list[str]:
    """Overrides for the run's folder and, without a GPU, for a rehearsal."""
    rehearsed = ["rehearse=cpu"] if setting.device == "cpu" else []
    return [*rehearsed, f"trainer.default_local_dir={setting.folder / name}", *overrides]


def train(setting: Setting, name: str, steps: int, *overrides: str, again: bool = False) -> CommandResult:
    """Run `segzero train` on synthetic scenes; `again` starts a run a second time."""
    return segzero_train(
        setting,
        f"{name} again" if again else name,
        *keys(setting, name, *GPU1),
        *data(setting),
        "data.train_batch_size=8",
        "actor_rollout_ref.rollout.n=4",
        *share(setting),
        *RATE,
        f"trainer.total_training_steps={steps}",
        f"trainer.save_freq={STEPS}",
        f"trainer.test_freq={STEPS}",
        *overrides,
    )


def share(setting: Setting) -> list[str]:
    """Override for vLLM's share of the card, at most 12 GB: a larger cache of a small model takes minutes to set up."""
    if setting.device == "cpu":
        return []
    return [f"actor_rollout_ref.rollout.gpu_memory_utilization={min(0.5, 12 / card_gb()):.2f}"]


def segzero_train(setting: Setting, name: str, *overrides: str) -> CommandResult:
    """Run the command as a user types it, and record the time of each step."""
    [place] = [o.partition("=")[2] for o in overrides if o.startswith("trainer.default_local_dir=")]
    command = [sys.executable, "-m", "segzero", "train", "trainer.val_before_train=false", *overrides]
    return setting.run(name, command, watched=Path(place) / "metrics.jsonl")


def data(setting: Setting) -> list[str]:
    """Overrides for the training and validation scenes, which are written once."""
    from segzero.data.parquet import to_parquet
    from segzero.tiny.questions import HELD_OUT_SEED, make_samples

    train, val = setting.folder / "train.parquet", setting.folder / "val.parquet"
    if not val.exists():
        to_parquet(make_samples(64, 17), train)
        to_parquet(make_samples(8, HELD_OUT_SEED + 17), val)
    return [f"data.train_files={train}", f"data.val_files={val}"]


def full_run(setting: Setting) -> CommandResult:
    """The full run, which is started unless another line has run it."""
    return train(setting, "full", STEPS, *FULL).check()


def healthy(setting: Setting, name: str, ended: CommandResult, steps: int) -> list[dict[str, float]]:
    """Read a run's steps and check that all were made and that their numbers are plausible."""
    rows = read_rows(setting.folder / name)
    if len(rows) != steps:
        raise Failed(f"{len(rows)} of {steps} steps are in the log", ended.log)
    for step, row in enumerate(rows, 1):
        for key in ("actor/loss", "actor/grad_norm", "reward/mean"):
            if not math.isfinite(row.get(key, math.nan)):
                raise Failed(f"step {step}: {key} is {row.get(key)}", ended.log)
    if not drift(rows) < ALARM:
        raise Failed(f"vLLM's and the trainer's probabilities differ by {drift(rows):.5f}, above {ALARM}", ended.log)
    if not any(row["actor/grad_norm"] > 0 for row in rows):
        raise Failed("no step had a gradient", ended.log)
    return rows


def drift(rows: list[dict[str, float]]) -> float:
    return max(row.get("training/rollout_probs_diff_mean", math.nan) for row in rows)


def run_batch(setting: Setting, attention: str, precision: str, *overrides: str) -> CommandResult:
    """Run the trainer's worker on a batch of given answers: see same_batch.py."""
    fixed = [*GPU1, *FULL, "actor_rollout_ref.actor.fsdp_config.use_torch_compile=false"]
    fixed += [f"+actor_rollout_ref.model.override_config.attn_implementation={attention}"]
    fixed += [f"{FUSED}=false", f"{SHARED}=false"]
    return setting.module(
        batch_name(attention, precision, overrides),
        "same_batch",
        batch_file(setting, attention, precision, overrides),
        precision,
        *keys(setting, "batch", *fixed),
        *overrides,
    )


def same_batch(setting: Setting, attention: str, precision: str, *overrides: str) -> dict:
    """Measurements of the trainer's worker on a batch of given answers."""
    run_batch(setting, attention, precision, *overrides).check()
    return json.loads(batch_file(setting, attention, precision, overrides).read_text())


def batch_name(attention: str, precision: str, overrides: Sequence[str]) -> str:
    return " ".join(["batch", attention, precision, *(o.rpartition(".")[2].partition("=")[0] for o in overrides)])


def batch_file(setting: Setting, attention: str, precision: str, overrides: Sequence[str]) -> Path:
    return setting.folder / f"{batch_name(attention, precision, overrides)}.json"


def compare(one: dict, other: dict) -> float:
    """Mean difference between the probabilities of the same tokens, as in the training log."""
    pairs = zip(*(chain.from_iterable(each["log_probs"]) for each in (one, other)), strict=True)
    apart = [abs(math.exp(a) - math.exp(b)) for a, b in pairs]
    return sum(apart) / len(apart)


def all_lines() -> list[Line]:
    """List the lines in their order: first those that others depend on, the long one last."""
    from benchmarks.gpu_check.size import size

    return [
        Line("platform", "platform", 90, platform),
        Line("dynamic", "dynamic micro-batches", 150, dynamic),
        Line("fused", "fused kernels", 150, fused),
        Line("shared", "shared prompts", 150, shared),
        Line("attention", "attention", 150, attention),
        Line("segmenter", "SAM2", 120, segmenter),
        Line("full", "full fine-tuning", 240, full),
        Line("mask", "masks in the reward", 240, mask),
        Line("resume", "resume", 400, resume),
        Line("lora", "LoRA", 240, lora),
        Line("inference", "merge and inference", 400, inference),
        Line("released", "released checkpoints", 300, released),
        Line("size", "Qwen2.5-VL-3B of random weights", 400, size),
    ]
