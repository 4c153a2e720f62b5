"""Memory and disk that a run will need, estimated from the model's shape and the configuration.

Every number is the most that is held at once, with the longest prompts and answers. benchmarks/estimates.py compares
their sum on a CPU with measured runs; constants marked `read` are taken from the libraries' sources instead.
"""

import json
from contextlib import suppress
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path

from omegaconf import DictConfig

from rewards import find_reward
from segzero.data.parquet import parquet_files
from segzero.errors import UserError
from segzero.policy.checkpoint import read_checkpoint
from segzero.training.batch import BatchSizes
from segzero.training.config import data_files, needs_reference
from segzero.training.model_shape import ModelShape, Tensors

GIB = 2**30
BLOCK_LOGITS, BLOCK_COPIES = 1 << 25, 4  # with shared prompts: answer_head.LOGITS, and float32 copies of such a block
# Bytes per token and word of the vocabulary if logits exist for a whole pass, by bytes per element: the logits, a
# softmax for the entropy, the gradients. Measured in float32; in bfloat16 (read) only log-softmax is in float32.
LOGIT_BYTES = {2: 10, 4: 24}
FUSED_TOKENS = 512  # with fused kernels, logits of so many tokens exist at once
# Float32 copies of them: logits, softmax, one-hot, gradient and a product; the entropy's gradient takes two more.
FUSED_COPIES, FUSED_ENTROPY_COPIES = 5, 2
LAYER_COPIES = 16  # copies of a layer's hidden states, kept while it is computed
LIGHT_BYTES = 0.42 * GIB  # a Ray process that imports torch and holds no model; their libraries count once in all
HEAVY_BYTES = 0.75 * GIB  # the controller, or a process that imports vLLM or trains, without its data
CUDA_BYTES = 3 * GIB  # the same with CUDA's libraries and context (read)
RAY_BYTES = 0.45 * GIB  # Ray's own processes and the content of its object store
CPU_CACHE_BYTES = 1 * GIB  # vLLM's keys and values: VLLM_CPU_KVCACHE_SPACE, as launch.py sets it
WORD_BYTES = 2000  # per word of the vocabulary in a tokenizer
PIXEL_BYTES = 3 * 2 * 4  # per pixel as the vision tower takes it: three colors, two frames, float32
PIXELS_KEPT = GIB  # engine.CACHE_BYTES
SEGMENTER_BYTES = 2.9 * GIB  # SAM2 large in float32, its activations and CUDA context (read)
SEGMENTER_FILE = 0.9e9  # its weights
CONTEXT_BYTES = 0.6e9  # the trainer's CUDA context (read)
ENGINE_BYTES = 1e9  # vLLM's activations and graphs (read)
ASLEEP_BYTES = 2.5e9  # kept on the card by vLLM while it sleeps: context, graphs (read)


@dataclass(frozen=True)
class Memory:
    """Bytes that a run needs; numbers per accelerator are those of the fullest one."""

    resting: float  # per accelerator: weights and optimizer between two phases
    updating: float  # per accelerator: the same during an update, with gradients, activations and vLLM, asleep or not
    engine: float  # per accelerator: vLLM while it generates
    engine_weights: float  # of that, the weights
    segmenter: float  # per accelerator: SAM2 beside the trainer
    trajectories: float  # host: those of one step
    checkpoint: float  # disk
    parts: dict[str, float] = field(default_factory=dict)  # host, per node

    @property
    def host(self) -> float:
        """Main memory of a node."""
        return sum(self.parts.values())


def estimate_memory(config: DictConfig, batch: BatchSizes, shape: ModelShape) -> Memory:
    """Estimate the memory of weights, optimizer, activations, engine and segmenter."""
    actor, rollout = config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout
    weights, adam = weights_bytes(config, shape), 8 * trained_parameters(config, shape)
    fsdp, on_gpu = actor.fsdp_config, config.trainer.device == "cuda"
    at_rest = weights * (not fsdp.param_offload) + adam * (not fsdp.optimizer_offload)
    state = weights + adam + 4 * trained_parameters(config, shape)  # gradients of what is trained in float32
    room = config.segzero.accelerator.memory_gb
    engine_width = 4 if rollout.dtype == "float32" else 2
    on_card = on_gpu and config.segzero.segmenter.device != "cpu"
    segmenter = segmenter_bytes(config)
    engine = rollout.gpu_memory_utilization * room * 1e9 if room else 0.0
    return Memory(
        resting=at_rest / batch.gpus,
        updating=state / batch.gpus
        + working_bytes(config, batch, shape)
        + (ASLEEP_BYTES if rollout.free_cache_engine else engine),
        engine=engine,
        engine_weights=shape.parameters * engine_width / max(1, rollout.tensor_model_parallel_size),
        segmenter=segmenter if on_card else 0.0,
        trajectories=trajectory_bytes(config) * batch.total,
        checkpoint=weights + adam,
        parts=host_parts(config, batch, shape) | {"segmenter": 0.0 if on_card else segmenter},
    )


def host_parts(config: DictConfig, batch: BatchSizes, shape: ModelShape) -> dict[str, float]:
    """Main memory of a node by its use, without the segmenter."""
    trainers, device = batch.gpus / config.trainer.nnodes, config.trainer.device
    pixels = min(PIXELS_KEPT, images_seen(config) * largest_image(config) * PIXEL_BYTES)
    parts = {
        "processes": process_bytes(config, trainers),
        "tokenizers": tokenizers_in(config, trainers) * shape.vocabulary * WORD_BYTES,
        "pixels": pixels * (1 + references(config)) * trainers,
        "trajectories": trajectory_bytes(config) * batch.total,
    }
    return parts | (_on_cpu if device == "cpu" else _beside_gpus)(config, batch, shape)


def process_bytes(config: DictConfig, trainers: float) -> float:
    """Memory of the processes of a node with `trainers` trainers, before they hold a model: most of it is libraries."""
    segmenter = bool(config.segzero.segmenter.path)
    storage = config.transfer_queue.backend.SimpleStorage.num_data_storage_units
    parallel = max(1, config.actor_rollout_ref.rollout.tensor_model_parallel_size)
    light = LIGHT_BYTES * (1 + storage) + RAY_BYTES
    if config.trainer.device == "cpu":
        return light + HEAVY_BYTES * (1 + trainers + 2 * trainers + segmenter)  # each vLLM is a server and an engine
    # Trainers, vLLM's workers and the segmenter have CUDA. A single worker runs inside the engine's process.
    engines = trainers / parallel * (1 + (parallel > 1))
    return light + HEAVY_BYTES * (1 + engines) + CUDA_BYTES * (2 * trainers + segmenter)


def tokenizers_in(config: DictConfig, trainers: float) -> float:
    """Number of tokenizers on a node: of controller, trainers and engines, and two of each server (verl's, vLLM's)."""
    return 1 + trainers + 3 * trainers / max(1, config.actor_rollout_ref.rollout.tensor_model_parallel_size)


def _on_cpu(config: DictConfig, batch: BatchSizes, shape: ModelShape) -> dict[str, float]:
    """Main memory for everything that a GPU would hold."""
    weights, trained = weights_bytes(config, shape), trained_parameters(config, shape)
    reference = config.actor_rollout_ref.ref.fsdp_config.model_dtype
    transfer = config.actor_rollout_ref.rollout.checkpoint_engine.update_weights_bucket_megabytes * 2**20
    working = batch.gpus * working_bytes(config, batch, shape) + 4 * trained  # with gradients
    return {
        "training state": weights + 8 * trained,
        "reference": shape.parameters * bytes_of(reference) * references(config),
        "vLLM": batch.gpus * (shape.parameters * 4 + CPU_CACHE_BYTES),
        # Weights travel to vLLM, by way of the bucket, when gradients and activations are gone.
        "update": max(working, batch.gpus * transfer),
    }


def _beside_gpus(config: DictConfig, batch: BatchSizes, shape: ModelShape) -> dict[str, float]:
    """Main memory used beside GPUs: offloaded parts, in pinned memory."""
    model, fsdp = config.actor_rollout_ref.model, config.actor_rollout_ref.actor.fsdp_config
    rollout, nodes = config.actor_rollout_ref.rollout, config.trainer.nnodes
    every = (*shape.language, *shape.vision)
    adapters = shape.adapter_tensors(model.lora_rank) if model.lora_rank else ()
    updated = adapters or (shape.language if config.actor_rollout_ref.actor.freeze_vision_tower else every)
    width = bytes_of(fsdp.model_dtype)
    weights = pinned(every, batch.gpus, width) + pinned(adapters, batch.gpus, 4)
    offloaded = weights * bool(fsdp.param_offload) + 2 * pinned(updated, batch.gpus, 4) * bool(fsdp.optimizer_offload)
    reference = pinned(every, batch.gpus, bytes_of(config.actor_rollout_ref.ref.fsdp_config.model_dtype))
    parallel = max(1, rollout.tensor_model_parallel_size)
    # With adapters vLLM's weights are not sent anew each step, so while it sleeps they lie here.
    sleeps = model.lora_rank and rollout.free_cache_engine
    asleep = pinned(every, parallel, 2) * batch.gpus / parallel if sleeps else 0.0
    held = (offloaded + reference * references(config) + asleep) / nodes
    # A tied model is loaded whole by every rank, another by the first alone; nothing else is there yet.
    loading = shape.parameters * width * (batch.gpus / nodes if shape.tied else 1)
    return {
        "pinned offload": offloaded / nodes,
        "pinned reference": reference * references(config) / nodes,
        "vLLM asleep": asleep / nodes,
        "loading": max(0.0, loading - held),
    }


def working_bytes(config: DictConfig, batch: BatchSizes, shape: ModelShape) -> float:
    """Memory of one process during an update, without its share of weights, gradients and optimizer."""
    actor, model = config.actor_rollout_ref.actor, config.actor_rollout_ref.model
    width = 2 if config.trainer.device == "cuda" else 4  # it computes in bfloat16, and on a CPU in float32
    rows, tokens, prompts = tokens_of_pass(config, batch)
    whole = not model.enable_gradient_checkpointing
    activations = tokens * shape.hidden * layer_copies(shape.layers, whole) * width
    if not actor.freeze_vision_tower:
        patches = 4 * prompts * config.data.max_prompt_length  # 4 per visual token; at most one image per prompt
        activations += patches * shape.vision_hidden * layer_copies(shape.vision_layers, whole) * width
    head_trained = not model.lora_rank
    table = shape.vocabulary * shape.hidden
    if config.segzero.shared_prompt:
        logits = min(BLOCK_LOGITS, rows * config.data.max_response_length * shape.vocabulary) * 4.0 * BLOCK_COPIES
        logits += table * width * head_trained  # the head's gradient
        if config.trainer.device == "cpu":
            longer = teacher_tokens(config)  # the teacher's pass, whose mask is larger though it keeps nothing
            activations += 4 * prompts * (tokens / prompts + longer) ** 2  # a dense mask for each prompt
    elif model.use_fused_kernels:
        copies = FUSED_COPIES + FUSED_ENTROPY_COPIES * bool(actor.entropy_coeff)
        logits = min(FUSED_TOKENS, tokens) * shape.vocabulary * 4 * copies
        logits += 2 * table * width * head_trained  # the head's gradient, and a block's share of it
    else:
        logits = tokens * shape.vocabulary * LOGIT_BYTES[width]
    # FSDP: embedding and head gathered whole; the largest gradient whole, and in float32 to be summed over ranks.
    gathered = table * width * (1 if shape.tied else 2)
    reduced = shape.largest * (width + 4) if head_trained else 0
    return activations + max(logits, reduced) + gathered


def tokens_of_pass(config: DictConfig, batch: BatchSizes) -> tuple[float, float, float]:
    """Answers, tokens and prompts of one pass at their longest: a prompt for each answer, or shared by a group's."""
    prompt, answer = config.data.max_prompt_length, config.data.max_response_length
    group = batch.answers if config.segzero.shared_prompt else 1
    answers = batch.micro or batch.mini // batch.gpus
    tokens = answers * (prompt / min(group, answers) + answer)
    if batch.max_tokens:
        tokens = min(tokens, max(batch.max_tokens, prompt + answer))
    of_group = prompt + min(group, answers) * answer
    if tokens < of_group:  # a group is cut, and each part has the prompt
        return max(1.0, (tokens - prompt) / answer), tokens, 1.0
    return tokens / of_group * min(group, answers), tokens, tokens / of_group


def layer_copies(layers: int, whole: bool) -> int:
    """Copies of the hidden states kept for the backward pass: all, or one per layer and all of the current layer."""
    return LAYER_COPIES * layers if whole else layers + LAYER_COPIES


def trained_parameters(config: DictConfig, shape: ModelShape) -> int:
    """Parameters that are trained."""
    model = config.actor_rollout_ref.model
    if model.lora_rank > 0:
        return shape.adapters(model.lora_rank)
    return shape.parameters - shape.vision_parameters * bool(config.actor_rollout_ref.actor.freeze_vision_tower)


def weights_bytes(config: DictConfig, shape: ModelShape) -> float:
    """The policy in its own precision, adapters in float32."""
    rank = config.actor_rollout_ref.model.lora_rank
    width = bytes_of(config.actor_rollout_ref.actor.fsdp_config.model_dtype)
    return shape.parameters * width + 4 * (shape.adapters(rank) if rank > 0 else 0)


def references(config: DictConfig) -> int:
    """Number of reference models; with adapters there is none, as the reference is the policy without them."""
    return int(needs_reference(config) and not config.actor_rollout_ref.model.lora_rank)


def trajectory_bytes(config: DictConfig) -> int:
    """Bytes of one trajectory: int64 ids, masks and 4 rows of positions; the image is a path.

    With self-distillation it also has the teacher's prompt, and positions for that.
    """
    prompt, answer = config.data.max_prompt_length, config.data.max_response_length
    longer = teacher_tokens(config)
    taught = (prompt + longer) * 8 + (prompt + longer + answer) * 4 * 8 if longer else 0
    return (prompt + answer) * (4 + 4) * 8 + taught + 4096


def teacher_tokens(config: DictConfig) -> int:
    """Tokens by which the teacher's prompt is longer than the student's, at most; 0 without self-distillation."""
    settings = config.segzero.self_distillation
    return settings.attempt_tokens if settings.weight else 0


def images_seen(config: DictConfig) -> float:
    """Number of training images of the whole run, at most."""
    steps = config.trainer.total_training_steps or float("inf")
    return min(steps * config.data.train_batch_size, _samples(config, "train"))


def largest_image(config: DictConfig) -> float:
    """Pixels of the largest image that the policy sees and a prompt can hold."""
    checkpoint = read_checkpoint(config.data.checkpoint, config.data.frame, config.data.prompt)
    return min(checkpoint.frame.most_pixels, config.data.max_prompt_length * checkpoint.factor**2)


def segmenter_bytes(config: DictConfig) -> float:
    """Memory of SAM2 in proportion to its file (if it is a folder here), and of the images that it keeps."""
    settings = config.segzero.segmenter
    if not settings.path:
        return 0.0
    files = list(Path(settings.path).glob("*.safetensors"))
    size = sum(file.stat().st_size for file in files) if files else SEGMENTER_FILE
    validated = config.trainer.val_before_train or config.trainer.test_freq > 0
    images = images_seen(config) if find_reward(config.reward.name).needs_masks else 0
    images += _samples(config, "val") if validated else 0
    return SEGMENTER_BYTES * min(1.0, size / SEGMENTER_FILE) + min(
        settings.cache_gb * GIB, images * embedded_bytes(Path(settings.path))
    )


def embedded_bytes(segmenter: Path) -> int:
    """Bytes of one encoded image: three levels, the finer with fewer channels; SAM2 at 1024 pixels if it is not here.

    >>> embedded_bytes(Path("facebook/sam2.1-hiera-large"))
    16777216
    """
    sides, channels = [256, 128, 64], 256
    with suppress(OSError, ValueError, KeyError, TypeError):
        known = json.loads((segmenter / "config.json").read_bytes())
        sides = [int(side) for side, _ in known["vision_config"]["backbone_feature_sizes"]]
        channels = int(known["mask_decoder_config"]["hidden_size"])
    return sum(4 * side**2 * channels // share for side, share in zip(sides, (8, 4, 1), strict=False))


def _samples(config: DictConfig, split: str) -> float:
    """Number of samples of a split; infinite if the files are not here."""
    from pyarrow import ArrowException
    from pyarrow.parquet import read_metadata

    try:
        files = [file for path in data_files(config, split) for file in parquet_files(path)]
        return sum(read_metadata(file).num_rows for file in files)
    except (UserError, OSError, ArrowException):
        return float("inf")


def pinned(tensors: Tensors, ranks: int, width: int) -> float:
    """Bytes of tensors in pinned memory, sharded by rows; torch rounds each allocation up to a power of two.

    >>> pinned(((3, 100), (4, 128)), 1, 4)  # 1200 and 2048 bytes
    4096
    >>> pinned(((3, 100),), 2, 4)  # 2 rows on the fullest of two ranks
    2048
    """
    return ranks * sum(1 << (ceil(rows / ranks) * row * width - 1).bit_length() for rows, row in tensors)


def check_memory(config: DictConfig, memory: Memory) -> None:
    """Refuse a run that cannot fit on the accelerator that the configuration names."""
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
    state = memory.resting + CONTEXT_BYTES + memory.segmenter
    if state + memory.engine > room * 1e9:
        raise UserError(
            f"{state / 1e9:.1f} GB of training state and vLLM's {memory.engine / 1e9:.1f} GB are more than {known}; "
            f"set actor_rollout_ref.actor.fsdp_config.param_offload and optimizer_offload, use more GPUs, or LoRA"
        )


def bytes_of(dtype: str | None) -> int:
    """Bytes of an element; verl trains in float32 where no dtype is named."""
    return 2 if dtype in ("bfloat16", "bf16", "float16", "fp16") else 4
