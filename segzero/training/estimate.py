"""What a run will need: memory, disk and time, worked out from the model's shape and the configuration.

Orders of magnitude, with the assumptions said beside them. The longest answers are assumed, so most steps are
shorter. `segzero.accelerator` says what one accelerator has and sustains.
"""

import shutil
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from omegaconf import DictConfig

from segzero.errors import UserError
from segzero.training.plan import Batch, needs_reference

GIB = 2**30
LOGIT_BYTES = 10  # a token and a word of the vocabulary: the logits, in float32 for the loss, and their gradient
SEGMENTER_BYTES = 1.2 * GIB  # SAM2 large in float32, and its activations
PROCESS_BYTES = {"cpu": 1 * GIB, "cuda": 3 * GIB}  # a Ray process with torch and vLLM in it
ENGINE_BYTES = 1e9  # vLLM's activations and graphs
PER_TOKEN_SECONDS = 0.02  # what vLLM adds to every token step, whatever the model


@dataclass(frozen=True)
class Shape:
    """A policy's sizes, counted on its class without weights."""

    parameters: int
    vision: int  # of the parameters, those that see
    linear: tuple[tuple[int, int], ...]  # inputs and outputs of the language model's layers, for adapters
    hidden: int
    layers: int
    vocabulary: int
    cache_bytes: int  # a token in vLLM's cache, bfloat16
    largest: int  # elements of the largest tensor

    def adapters(self, rank: int) -> int:
        """Parameters of LoRA adapters on the language model."""
        return sum(rank * (inputs + outputs) for inputs, outputs in self.linear)


@lru_cache(maxsize=8)
def shape_of(path: str) -> Shape:
    """Read config.json and build the model without memory for its weights."""
    from accelerate import init_empty_weights
    from torch.nn import Linear
    from transformers import AutoConfig, AutoModelForImageTextToText

    config = AutoConfig.from_pretrained(path)
    with init_empty_weights():
        model = AutoModelForImageTextToText.from_config(config)
    model.tie_weights()
    text = config.get_text_config()
    heads = text.num_key_value_heads
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    language = [(name, module) for name, module in model.named_modules() if "visual" not in name.split(".")]
    return Shape(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        vision=sum(p.numel() for name, p in model.named_parameters() if "visual" in name.split(".")),
        linear=tuple(
            (module.in_features, module.out_features)
            for name, module in language
            if isinstance(module, Linear) and not name.endswith("lm_head")
        ),
        hidden=text.hidden_size,
        layers=text.num_hidden_layers,
        vocabulary=text.vocab_size,
        cache_bytes=text.num_hidden_layers * heads * width * 2 * 2,
        largest=max(parameter.numel() for parameter in model.parameters()),
    )


@dataclass(frozen=True)
class Memory:
    """Bytes; those of an accelerator are of the fullest."""

    resting: float  # an accelerator: weights, gradients and optimizer between two phases
    updating: float  # an accelerator: the same at work, with activations
    engine: float  # an accelerator: what vLLM takes while it writes
    engine_weights: float  # of that, the weights
    segmenter: float  # an accelerator: SAM2 beside the trainer
    host: float  # a node
    trajectories: float  # of that, one step's
    checkpoint: float  # disk


def memory_of(config: DictConfig, batch: Batch, shape: Shape) -> Memory:
    """What weights, optimizer, activations, the engine and the segmenter take."""
    actor, model, rollout = (config.actor_rollout_ref[part] for part in ("actor", "model", "rollout"))
    width = _bytes(actor.fsdp_config.model_dtype)
    trained = _trained(config, shape)
    weights = shape.parameters * width
    state = trained * (width + 2 * width)  # gradients, and Adam's two moments
    reference = 0.0
    if needs_reference(config) and not model.lora_rank:  # with adapters it is the model without them
        reference = shape.parameters * _bytes(config.actor_rollout_ref.ref.fsdp_config.model_dtype)
    fsdp = actor.fsdp_config
    offloaded = weights * bool(fsdp.param_offload) + trained * 2 * width * bool(fsdp.optimizer_offload)
    resting = (weights + state + reference - offloaded) / batch.gpus
    tokens = config.data.max_prompt_length + config.data.max_response_length
    passed = tokens * batch.micro if batch.micro else batch.max_tokens or tokens
    layers = shape.layers if model.enable_gradient_checkpointing else 16 * shape.layers
    activations = passed * (2 * shape.hidden * layers + LOGIT_BYTES * shape.vocabulary)
    gathered = 2 * 2 * shape.vocabulary * shape.hidden  # embedding and head, whole on every accelerator
    accelerators = max(1, rollout.tensor_model_parallel_size)
    room = config.segzero.accelerator.memory_gb
    trajectory = tokens * (4 + 4) * 8 + 4096  # int64 ids, masks and 4 rows of positions; the image is a path
    drawn = config.segzero.segmenter
    on_card = drawn.path and config.trainer.device == "cuda" and drawn.device != "cpu"
    segmenter = (SEGMENTER_BYTES + drawn.cache_gb * GIB) if drawn.path else 0.0
    a_node = batch.gpus / config.trainer.nnodes
    processes = PROCESS_BYTES[config.trainer.device] * (2 * a_node + 2)  # trainers, engines, controller, segmenter
    host = processes + offloaded / config.trainer.nnodes + GIB * a_node  # images' pixels
    return Memory(
        resting=resting,
        updating=(weights + state + reference) / batch.gpus + activations + gathered,
        engine=rollout.gpu_memory_utilization * room * 1e9 if room else 0.0,
        engine_weights=shape.parameters * (4 if rollout.dtype == "float32" else 2) / accelerators,
        segmenter=segmenter if on_card else 0.0,
        host=host + trajectory * batch.total + (0.0 if on_card else segmenter),
        trajectories=trajectory * batch.total,
        checkpoint=weights + trained * 2 * width,
    )


def check_memory(config: DictConfig, memory: Memory) -> None:
    """Refuse what cannot fit on the accelerator that the configuration names."""
    room = config.segzero.accelerator.memory_gb
    if not room or config.trainer.device != "cuda":
        return
    known = f"a GPU of {room} GB (segzero.accelerator.memory_gb)"
    if memory.engine_weights + ENGINE_BYTES > memory.engine:
        raise UserError(
            f"vLLM's share of {known}, {memory.engine / 1e9:.1f} GB, does not hold the model's "
            f"{memory.engine_weights / 1e9:.1f} GB and what it works with; raise "
            f"actor_rollout_ref.rollout.gpu_memory_utilization or tensor_model_parallel_size, or take a smaller model"
        )
    state = memory.resting + memory.segmenter
    if state + memory.engine > room * 1e9:
        raise UserError(
            f"{state / 1e9:.1f} GB of training state and vLLM's {memory.engine / 1e9:.1f} GB are more than {known}; "
            f"set actor_rollout_ref.actor.fsdp_config.param_offload and optimizer_offload, use more GPUs, or LoRA"
        )


@dataclass(frozen=True)
class Seconds:
    """One step, phase by phase."""

    write: float
    score: float  # log-probs of the policy and of the reference
    update: float
    move: float  # weights to the engine, and what is offloaded there and back

    @property
    def total(self) -> float:
        return self.write + self.score + self.update + self.move


def seconds_of(config: DictConfig, batch: Batch, shape: Shape, prompt_tokens: float) -> Seconds:
    """Time of a step if every answer runs to its limit; arithmetic at the accelerator's sustained speed."""
    actor, model, rollout = (config.actor_rollout_ref[part] for part in ("actor", "model", "rollout"))
    card = config.segzero.accelerator
    speed, bandwidth = card.tflops * 1e12 * batch.gpus, card.gb_per_s * 1e9
    answer = config.data.max_response_length
    tokens = batch.total * (prompt_tokens + answer)
    memory = memory_of(config, batch, shape)

    width = rollout.tensor_model_parallel_size
    left = memory.engine - memory.engine_weights - ENGINE_BYTES  # for the cache
    fitting = left * width / (shape.cache_bytes * (prompt_tokens + answer)) if memory.engine else float("inf")
    abreast = max(1.0, min(rollout.max_num_seqs, fitting))
    a_replica = batch.total * width / batch.gpus
    waves = -(-a_replica // abreast)
    forward = 2 * shape.parameters
    step = memory.engine_weights / bandwidth + PER_TOKEN_SECONDS
    step = max(step, forward * min(a_replica, abreast) / (card.tflops * 1e12 * width))
    write = batch.prompts * prompt_tokens * forward / speed + waves * answer * step

    passes = (not config.algorithm.rollout_correction.bypass_mode) + needs_reference(config)
    backward = 2 * shape.parameters + 2 * _trained(config, shape)
    again = forward if model.enable_gradient_checkpointing else 0
    fsdp = actor.fsdp_config
    moved = memory.checkpoint * (bool(fsdp.param_offload) + 2 * bool(fsdp.optimizer_offload)) / batch.gpus
    return Seconds(
        write=write,
        score=tokens * forward * passes / speed,
        update=tokens * (forward + again + backward) / speed,
        move=moved / 10e9 + memory.engine_weights / 10e9,  # 10 GB/s between host and accelerator
    )


def describe(config: DictConfig, batch: Batch, shape: Shape, memory: Memory, seconds: Seconds, steps: int) -> list[str]:
    """The estimates in words."""
    card = config.segzero.accelerator
    trained = _trained(config, shape)
    lines = [f"model    {shape.parameters / 1e6:.4g} M parameters, {trained / 1e6:.4g} M of them trained"]
    if config.trainer.device == "cuda":
        lines += [
            f"GPU      of {card.memory_gb} GB: while writing, vLLM {_gib(memory.engine)} beside "
            f"{_gib(memory.resting)} of training state; while updating, {_gib(memory.updating)}"
            + (f"; the segmenter {_gib(memory.segmenter)}" if memory.segmenter else ""),
        ]
        if card.memory_gb and memory.updating + memory.segmenter > card.memory_gb * 1e9:
            lines.append(
                "         an update may not fit: lower actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu or "
                "data.max_response_length, use more GPUs, or LoRA"
            )
    lines += [
        f"host     {_gib(memory.host)} a node, of that {_gib(PROCESS_BYTES[config.trainer.device])} for each process, "
        f"{_gib(memory.trajectories)} for a step's trajectories (images travel as paths)",
        f"disk     {_gib(memory.checkpoint)} a checkpoint, {_kept(config)}; {_gib(_free(config))} are free here",
        f"time     {_clock(seconds.total)} a step at most: writing {seconds.write:.1f} s, log-probs "
        f"{seconds.score:.1f} s, update {seconds.update:.1f} s, moving weights {seconds.move:.1f} s; "
        f"{steps} steps in {_clock(steps * seconds.total)}",
        f"         assuming {card.tflops:g} TFLOP/s and {card.gb_per_s:g} GB/s an accelerator "
        f"(segzero.accelerator), every answer at its limit of {config.data.max_response_length} tokens; "
        f"without {'the earlier rounds of data.own_history, ' if config.data.own_history else ''}validation, saving "
        f"and the start",
    ]
    return lines


def _trained(config: DictConfig, shape: Shape) -> int:
    model = config.actor_rollout_ref.model
    if model.lora_rank > 0:
        return shape.adapters(model.lora_rank)
    return shape.parameters - shape.vision * bool(config.actor_rollout_ref.actor.freeze_vision_tower)


def _free(config: DictConfig) -> int:
    run = Path(config.trainer.default_local_dir)
    return shutil.disk_usage(next(folder for folder in (run, *run.parents) if folder.exists())).free


def _kept(config: DictConfig) -> str:
    if config.trainer.save_freq <= 0:
        return "none is saved (trainer.save_freq)"
    kept = config.segzero.keep_last
    return f"{kept} and the best kept, one more while saving" if kept else "all kept (segzero.keep_last=0)"


def _bytes(dtype: str | None) -> int:
    return 2 if dtype in ("bfloat16", "bf16", "float16", "fp16") else 4


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
