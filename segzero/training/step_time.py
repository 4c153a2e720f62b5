"""Time of a training step, estimated from the model and the configuration; an order of magnitude.

`segzero.accelerator` holds the memory and the sustained speed of one accelerator, `segzero.expected_answer_tokens`
the length of a usual answer.
"""

from dataclasses import dataclass
from math import ceil

from omegaconf import DictConfig

from segzero.training.batch import BatchSizes
from segzero.training.memory import (
    ENGINE_BYTES,
    Memory,
    bytes_of,
    estimate_memory,
    references,
    teacher_tokens,
    trained_parameters,
    weights_bytes,
)
from segzero.training.model_shape import ModelShape

TOKEN_SECONDS = 0.004  # added by vLLM with CUDA graphs to every token, whatever the model
HOST_BYTES = 10e9  # per second, between host and accelerator, and for weights through the bucket into vLLM
DISK_BYTES = 1e9  # per second and node
WAKE_SECONDS = 1.0  # vLLM falling asleep and waking up
REST_SECONDS = 1.0  # controller, queue and metrics


@dataclass(frozen=True)
class StepTime:
    """Seconds of one step, by phase."""

    generate: float
    score: float  # log-probs of the policy and of the reference
    update: float
    move: float  # weights to the engine, offloading, putting the engine to sleep and waking it up, and the rest
    save: float  # a checkpoint, spread over the steps between two of them
    prefill: float = 0.0  # of generate: arithmetic, which runs beside the update's only by taking turns
    one_step_off: bool = False

    @property
    def in_turns(self) -> float:
        """Seconds of the whole step if one phase follows the other."""
        return self.generate + self.score + self.update + self.move + self.save

    @property
    def total(self) -> float:
        """Seconds of the whole step; one step off at best: writing reads memory while the update computes."""
        if not self.one_step_off:
            return self.in_turns
        return max(self.generate, self.prefill + self.score + self.update + self.save) + self.move


def estimate_step_time(config: DictConfig, batch: BatchSizes, shape: ModelShape, prompt_tokens: float) -> StepTime:
    """Estimate the time of a step whose answers have the expected length, at the accelerator's sustained speed."""
    answer = expected_answer(config)
    memory = estimate_memory(config, batch, shape)
    saved = memory.checkpoint / config.trainer.nnodes / DISK_BYTES
    speed = config.segzero.accelerator.tflops * 1e12 * batch.gpus
    prefill = batch.prompts * _forward(shape, prompt_tokens, 0) / speed
    return StepTime(
        generate=prefill + _writing(config, batch, shape, memory, prompt_tokens, answer),
        score=_scoring(config, batch, shape, prompt_tokens, answer),
        update=_updating(config, batch, shape, prompt_tokens, answer),
        move=_moving(config, batch, shape, memory),
        save=saved / config.trainer.save_freq if config.trainer.save_freq > 0 else 0.0,
        prefill=prefill,
        one_step_off=config.segzero.one_step_off,
    )


def expected_answer(config: DictConfig) -> float:
    """Tokens of a usual answer: the limit, unless a usual length is configured."""
    limit = config.data.max_response_length
    return min(config.segzero.expected_answer_tokens or limit, limit)


def _writing(
    config: DictConfig, batch: BatchSizes, shape: ModelShape, memory: Memory, prompt_tokens: float, answer: float
) -> float:
    """One token after another, for as many answers at once as the cache holds."""
    rollout, card = config.actor_rollout_ref.rollout, config.segzero.accelerator
    width = rollout.tensor_model_parallel_size
    left = memory.engine - memory.engine_weights - ENGINE_BYTES  # for the cache
    fitting = left * width / (shape.cache_bytes * (prompt_tokens + answer)) if memory.engine else float("inf")
    at_once = max(1.0, min(rollout.max_num_seqs, fitting))
    per_replica = batch.total * width / batch.gpus
    step = memory.engine_weights / (card.gb_per_s * 1e9)
    step = max(step, 2 * shape.parameters * min(per_replica, at_once) / (card.tflops * 1e12 * width))
    return ceil(per_replica / at_once) * answer * (step + TOKEN_SECONDS)


def _scoring(config: DictConfig, batch: BatchSizes, shape: ModelShape, prompt_tokens: float, answer: float) -> float:
    """Log-probs: a pass computes while weights are gathered; a reference lies on the host, and is copied first."""
    passes, prompts = _passes(config, batch, prompt_tokens, answer), _prompts(config, batch)
    work = _forward(shape, prompts * prompt_tokens, batch.total * answer) / (config.segzero.accelerator.tflops * 1e12)
    gathered = passes * _gathered(config, batch, shape)
    old = not config.algorithm.rollout_correction.bypass_mode
    # With adapters the reference is a second run of the policy, and nothing has to be copied.
    kl = bool(config.actor_rollout_ref.actor.use_kl_loss or config.algorithm.use_kl_in_reward)
    reference = shape.parameters * bytes_of(config.actor_rollout_ref.ref.fsdp_config.model_dtype) / batch.gpus
    copied = passes * reference / HOST_BYTES * references(config)
    on_host = copied if config.trainer.device == "cuda" else 0.0
    return (old + kl) * max(work / batch.gpus, gathered) + on_host


def _updating(config: DictConfig, batch: BatchSizes, shape: ModelShape, prompt_tokens: float, answer: float) -> float:
    """Update: forward, perhaps recomputed, and backward; weights are gathered twice and gradients summed.

    With self-distillation the teacher reads all answers first.
    """
    model, speed = config.actor_rollout_ref.model, config.segzero.accelerator.tflops * 1e12 * batch.gpus
    forward = _forward(shape, _prompts(config, batch) * prompt_tokens, batch.total * answer)
    trained = trained_parameters(config, shape) / shape.parameters
    work = forward * (1 + bool(model.enable_gradient_checkpointing) + 1 + trained) / speed
    longer = teacher_tokens(config)
    if longer:  # a pass forward, with the attempts' tokens, which are no image's
        work += (forward + 2 * (shape.parameters - shape.vision_parameters) * batch.prompts * longer) / speed
    summed = 4 * trained_parameters(config, shape) * _others(batch) / _link(config)
    gathered = (2 + bool(longer)) * _gathered(config, batch, shape)
    return max(work, _passes(config, batch, prompt_tokens, answer) * (gathered + summed))


def _moving(config: DictConfig, batch: BatchSizes, shape: ModelShape, memory: Memory) -> float:
    """Transfers: weights go to vLLM in the trainer's precision; with LoRA only adapters, but vLLM's lie on the host."""
    actor, lora = config.actor_rollout_ref.actor, config.actor_rollout_ref.model.lora_rank > 0
    weights = weights_bytes(config, shape)
    sent = 4 * trained_parameters(config, shape) if lora else weights
    seconds = sent / HOST_BYTES + sent * _others(batch) / _link(config) + REST_SECONDS
    if config.trainer.device == "cuda":
        fsdp = actor.fsdp_config
        phases = 2 + (not config.algorithm.rollout_correction.bypass_mode)  # log-probs, update, transfer
        offloaded = phases * weights * bool(fsdp.param_offload)
        offloaded += (memory.checkpoint - weights) * bool(fsdp.optimizer_offload)
        seconds += 2 * offloaded / batch.gpus / HOST_BYTES
        if config.actor_rollout_ref.rollout.free_cache_engine:
            seconds += WAKE_SECONDS + 2 * memory.engine_weights / HOST_BYTES * lora
    return seconds


def _forward(shape: ModelShape, prompt_tokens: float, answer: float) -> float:
    """Operations of a forward pass; four patches make one visual token, and most of a prompt is its image."""
    language = (shape.parameters - shape.vision_parameters) * (prompt_tokens + answer)
    return 2 * (language + shape.vision_parameters * 4 * prompt_tokens)


def _prompts(config: DictConfig, batch: BatchSizes) -> int:
    """Prompts that are computed in one pass over a step's answers."""
    return batch.prompts if config.segzero.shared_prompt else batch.total


def _passes(config: DictConfig, batch: BatchSizes, prompt_tokens: float, answer: float) -> int:
    """Micro-batches per accelerator in one step."""
    if batch.micro:
        return ceil(batch.total / batch.gpus / batch.micro)
    tokens = _prompts(config, batch) * prompt_tokens + batch.total * answer
    return ceil(tokens / batch.gpus / (batch.max_tokens or prompt_tokens + answer))


def _gathered(config: DictConfig, batch: BatchSizes, shape: ModelShape) -> float:
    """Seconds to gather all weights once, in bfloat16."""
    return 2 * shape.parameters * _others(batch) / _link(config)


def _others(batch: BatchSizes) -> float:
    """Share of the weights that other accelerators hold."""
    return (batch.gpus - 1) / batch.gpus


def _link(config: DictConfig) -> float:
    """Bytes per second between accelerators."""
    return config.segzero.accelerator.link_gb_per_s * 1e9
