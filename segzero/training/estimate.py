"""What a run will need, in words: memory and disk (`memory`), and time, from the model and the configuration.

Orders of magnitude, with the assumptions said beside them. `segzero.accelerator` says what one accelerator has and
sustains, `segzero.expected_answer_tokens` how long a usual answer is.
"""

from dataclasses import dataclass
from math import ceil
from pathlib import Path

from omegaconf import DictConfig

from segzero.machine import free_disk
from segzero.training.checks import Batch
from segzero.training.memory import (
    ENGINE_BYTES,
    GIB,
    Memory,
    Shape,
    bytes_of,
    memory_of,
    references,
    trained_by,
    weights_bytes,
)

TOKEN_SECONDS = 0.004  # what vLLM with CUDA graphs adds to every token step, whatever the model
HOST_BYTES = 10e9  # a second between host and accelerator, and for weights through the bucket into vLLM
DISK_BYTES = 1e9  # a second, a node
WAKE_SECONDS = 1.0  # vLLM falling asleep and waking up
REST_SECONDS = 1.0  # controller, queue and metrics


@dataclass(frozen=True)
class Seconds:
    """One step, phase by phase."""

    write: float
    score: float  # log-probs of the policy and of the reference
    update: float
    move: float  # weights to the engine, what is offloaded there and back, the engine asleep and awake, and the rest
    save: float  # a checkpoint, spread over the steps between two of them

    @property
    def total(self) -> float:
        return self.write + self.score + self.update + self.move + self.save


def seconds_of(config: DictConfig, batch: Batch, shape: Shape, prompt_tokens: float) -> Seconds:
    """Time of a step whose answers have the expected length; arithmetic at the accelerator's sustained speed."""
    answer = expected_answer(config)
    memory = memory_of(config, batch, shape)
    saved = memory.checkpoint / config.trainer.nnodes / DISK_BYTES
    return Seconds(
        write=_writing(config, batch, shape, memory, prompt_tokens, answer),
        score=_scoring(config, batch, shape, prompt_tokens, answer),
        update=_updating(config, batch, shape, prompt_tokens, answer),
        move=_moving(config, batch, shape, memory),
        save=saved / config.trainer.save_freq if config.trainer.save_freq > 0 else 0.0,
    )


def expected_answer(config: DictConfig) -> float:
    """Tokens of an answer; its limit, unless a usual length is given."""
    limit = config.data.max_response_length
    return min(config.segzero.expected_answer_tokens or limit, limit)


def _writing(
    config: DictConfig, batch: Batch, shape: Shape, memory: Memory, prompt_tokens: float, answer: float
) -> float:
    """Prompts at once, then one token of all answers after the other, as many answers abreast as the cache holds."""
    rollout, card = config.actor_rollout_ref.rollout, config.segzero.accelerator
    width = rollout.tensor_model_parallel_size
    left = memory.engine - memory.engine_weights - ENGINE_BYTES  # for the cache
    fitting = left * width / (shape.cache_bytes * (prompt_tokens + answer)) if memory.engine else float("inf")
    abreast = max(1.0, min(rollout.max_num_seqs, fitting))
    a_replica = batch.total * width / batch.gpus
    step = memory.engine_weights / (card.gb_per_s * 1e9)
    step = max(step, 2 * shape.parameters * min(a_replica, abreast) / (card.tflops * 1e12 * width))
    prefill = batch.prompts * _forward(shape, prompt_tokens, 0) / (card.tflops * 1e12 * batch.gpus)
    return prefill + ceil(a_replica / abreast) * answer * (step + TOKEN_SECONDS)


def _scoring(config: DictConfig, batch: Batch, shape: Shape, prompt_tokens: float, answer: float) -> float:
    """Each pass computes while weights are gathered; a reference lies on the host, so its share comes up first."""
    work = batch.total * _forward(shape, prompt_tokens, answer) / (config.segzero.accelerator.tflops * 1e12)
    gathered = _passes(batch, prompt_tokens + answer) * _gathered(config, batch, shape)
    old = not config.algorithm.rollout_correction.bypass_mode
    # With adapters the reference is a second run of the policy, and nothing has to come up.
    kl = bool(config.actor_rollout_ref.actor.use_kl_loss or config.algorithm.use_kl_in_reward)
    reference = shape.parameters * bytes_of(config.actor_rollout_ref.ref.fsdp_config.model_dtype) / batch.gpus
    up = _passes(batch, prompt_tokens + answer) * reference / HOST_BYTES * references(config)
    on_host = up if config.trainer.device == "cuda" else 0.0
    return (old + kl) * max(work / batch.gpus, gathered) + on_host


def _updating(config: DictConfig, batch: Batch, shape: Shape, prompt_tokens: float, answer: float) -> float:
    """Forward, forward again with gradient checkpointing, backward; weights gathered twice and gradients summed."""
    model, speed = config.actor_rollout_ref.model, config.segzero.accelerator.tflops * 1e12 * batch.gpus
    forward = batch.total * _forward(shape, prompt_tokens, answer)
    trained = trained_by(config, shape) / shape.parameters
    work = forward * (1 + bool(model.enable_gradient_checkpointing) + 1 + trained) / speed
    summed = 4 * trained_by(config, shape) * _others(batch) / _link(config)
    return max(work, _passes(batch, prompt_tokens + answer) * (2 * _gathered(config, batch, shape) + summed))


def _moving(config: DictConfig, batch: Batch, shape: Shape, memory: Memory) -> float:
    """Weights travel to vLLM in the trainer's precision; of LoRA the adapters alone, but vLLM's lie on the host."""
    actor, lora = config.actor_rollout_ref.actor, config.actor_rollout_ref.model.lora_rank > 0
    weights = weights_bytes(config, shape)
    sent = 4 * trained_by(config, shape) if lora else weights
    seconds = sent / HOST_BYTES + sent * _others(batch) / _link(config) + REST_SECONDS
    if config.trainer.device == "cuda":
        fsdp = actor.fsdp_config
        phases = 2 + (not config.algorithm.rollout_correction.bypass_mode)  # log-probs, update, transfer
        offloaded = phases * weights * bool(fsdp.param_offload)
        offloaded += (memory.checkpoint - weights) * bool(fsdp.optimizer_offload)
        seconds += 2 * offloaded / batch.gpus / HOST_BYTES + WAKE_SECONDS
        seconds += 2 * memory.engine_weights / HOST_BYTES * lora
    return seconds


def _forward(shape: Shape, prompt_tokens: float, answer: float) -> float:
    """Operations of a forward pass; four patches are one visual token, and most of a prompt is its image."""
    language = (shape.parameters - shape.vision) * (prompt_tokens + answer)
    return 2 * (language + shape.vision * 4 * prompt_tokens)


def _passes(batch: Batch, tokens: float) -> int:
    """Micro-batches of an accelerator in one step."""
    rows = batch.total / batch.gpus
    return ceil(rows / batch.micro) if batch.micro else ceil(rows * tokens / (batch.max_tokens or tokens))


def _gathered(config: DictConfig, batch: Batch, shape: Shape) -> float:
    """Seconds to gather all weights once, in bfloat16."""
    return 2 * shape.parameters * _others(batch) / _link(config)


def _others(batch: Batch) -> float:
    """Share of the weights that lies with other accelerators."""
    return (batch.gpus - 1) / batch.gpus


def _link(config: DictConfig) -> float:
    return config.segzero.accelerator.link_gb_per_s * 1e9


def describe(config: DictConfig, batch: Batch, shape: Shape, memory: Memory, seconds: Seconds, steps: int) -> list[str]:
    """The estimates in words."""
    card = config.segzero.accelerator
    trained = trained_by(config, shape)
    lines = [f"model    {shape.parameters / 1e6:.4g} M parameters, {trained / 1e6:.4g} M of them trained"]
    if config.trainer.device == "cuda":
        lines += [
            f"GPU      of {card.memory_gb} GB: while writing, vLLM {_gib(memory.engine)} beside "
            f"{_gib(memory.resting)} of training state; while updating, {_gib(memory.updating)}"
            + (f"; the segmenter {_gib(memory.segmenter)}" if memory.segmenter else ""),
        ]
        if card.memory_gb and memory.updating + memory.segmenter > card.memory_gb * 1e9:
            lines.append(
                "         an update may not fit: lower actor_rollout_ref.actor.ppo_max_token_len_per_gpu or "
                "data.max_response_length, use more GPUs, or LoRA"
            )
    parts = sorted(((size, name) for name, size in memory.parts.items() if size > GIB / 4), reverse=True)
    answer, free = expected_answer(config), free_disk(Path(config.trainer.default_local_dir))
    length = f"of {answer:g} tokens" + (" (its limit)" if answer == config.data.max_response_length else "")
    lines += [
        f"host     {_gib(memory.host)} a node: {', '.join(f'{name} {_gib(size)}' for size, name in parts)}",
        f"disk     {_gib(memory.checkpoint)} a checkpoint, {_kept(config)}; {_gib(free)} are free here",
        f"time     {_clock(seconds.total)} a step: writing {seconds.write:.1f} s, log-probs {seconds.score:.1f} s, "
        f"update {seconds.update:.1f} s, moving weights {seconds.move:.1f} s, saving {seconds.save:.1f} s; "
        f"{steps} steps in {_clock(steps * seconds.total)}",
        f"         assuming every answer {length}, {card.tflops:g} TFLOP/s, {card.gb_per_s:g} GB/s and "
        f"{card.link_gb_per_s:g} GB/s to the next accelerator (segzero.accelerator),",
        f"         {TOKEN_SECONDS * 1e3:g} ms a token beside the arithmetic, {HOST_BYTES / 1e9:g} GB/s to the host, "
        f"{DISK_BYTES / 1e9:g} GB/s to the disk; without "
        f"{'the earlier rounds of data.own_history, ' if config.data.own_history else ''}validation and the start",
    ]
    return lines


def _kept(config: DictConfig) -> str:
    if config.trainer.save_freq <= 0:
        return "none is saved (trainer.save_freq)"
    kept = config.segzero.keep_last
    return f"{kept} and the best kept, one more while saving" if kept else "all kept (segzero.keep_last=0)"


def _gib(count: float) -> str:
    """
    >>> _gib(3 << 20), _gib(3 << 29)
    ('3 MiB', '1.5 GiB')
    """
    return f"{count / GIB:.1f} GiB" if count > GIB / 2 else f"{count / 2**20:.0f} MiB"


def _clock(seconds: float) -> str:
    """
    >>> _clock(90), _clock(7260)
    ('90 s', '2 h 1 min')
    """
    minutes = round(seconds / 60)
    if seconds < 600:
        return f"{seconds:.0f} s"
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"
