"""What a run will do, worked out before it starts: batch arithmetic, memory, and what would fail later.

The estimates are orders of magnitude with their assumptions beside them, not promises.
"""

import json
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from rewards import get_rubric, load_reward
from segzero.data.sample import from_parquet
from segzero.errors import UserError
from segzero.policy.checkpoint import read_checkpoint
from segzero.prompts import render_text


@dataclass(frozen=True)
class Batch:
    """One step in numbers."""

    prompts: int
    answers: int  # a prompt
    mini: int  # answers an update
    micro: int | None  # answers a forward pass and GPU; None: as many as fit into max_tokens
    max_tokens: int | None
    gpus: int

    @property
    def total(self) -> int:
        return self.prompts * self.answers

    @property
    def updates(self) -> int:
        return self.total // self.mini

    def __str__(self) -> str:
        passes = f"micro-batches of {self.micro}" if self.micro else f"up to {self.max_tokens} tokens a pass"
        return (
            f"{self.prompts} prompts x {self.answers} answers = {self.total} a step, "
            f"{self.updates} update{'s' * (self.updates != 1)} of {self.mini}, {self.mini // self.gpus} a GPU, {passes}"
        )


def batch_of(config: DictConfig) -> Batch:
    """The arithmetic of a step."""
    actor, answers = "actor_rollout_ref.actor", _whole(config, "actor_rollout_ref.rollout.n")
    dynamic = config.actor_rollout_ref.actor.use_dynamic_bsz
    return Batch(
        prompts=_whole(config, "data.train_batch_size"),
        answers=answers,
        mini=_whole(config, f"{actor}.ppo_mini_batch_size") * answers,
        micro=None if dynamic else _whole(config, f"{actor}.ppo_micro_batch_size_per_gpu"),
        max_tokens=_whole(config, f"{actor}.ppo_max_token_len_per_gpu") if dynamic else None,
        gpus=_whole(config, "trainer.n_gpus_per_node") * _whole(config, "trainer.nnodes"),
    )


def _whole(config: DictConfig, key: str) -> int:
    """A number of things, at least one."""
    value = OmegaConf.select(config, key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UserError(f"{key}={value}: it must be a whole number from 1 on")
    return value


def needs_reference(config: DictConfig) -> bool:
    return bool(config.actor_rollout_ref.actor.use_kl_loss or config.algorithm.use_kl_in_reward)


def check(config: DictConfig) -> str:
    """Refuse what would fail later; returns the plan in words."""
    batch = batch_of(config)
    _check_batch(batch)
    _check_lengths(config)
    _check_hardware(config, batch)
    _check_reward(config)
    files = {"train": _files(config.data.train_files), "validation": _files(config.data.val_files)}
    for paths in files.values():
        for path in paths:
            from_parquet(path)
    parameters = _parameters(config)
    lines = [
        f"model    {config.actor_rollout_ref.model.path}"
        + (f", {parameters / 1e6:.4g} M parameters" if parameters else ""),
        f"data     {', '.join(map(str, files['train']))}; frame {config.data.frame}, prompt {config.data.prompt}",
        f"reward   {config.reward.name}; segmenter {config.segzero.segmenter.path or 'none'}",
        f"batch    {batch}",
        *_memory(config, batch, parameters),
        f"run      {config.trainer.default_local_dir}, resume {config.segzero.resume}",
    ]
    return "\n".join(lines)


def show_samples(config: DictConfig, count: int = 2) -> str:
    """A few samples as the policy will read them."""
    lines = []
    for sample in islice(from_parquet(_files(config.data.train_files)[0]), count):
        checkpoint = read_checkpoint(config.data.checkpoint, config.data.frame, config.data.prompt)
        width, height = checkpoint.frame.model_size(sample.open().size)
        truth = [checkpoint.frame.to_frame(o.box, sample.size) for o in sample.objects]
        lines += [
            f"sample   {sample.id}: {sample.width}x{sample.height}, seen at {width}x{height}, "
            f"{checkpoint.image_tokens((width, height))} visual tokens",
            f"         {render_text(sample.question, checkpoint.prompt)}",
            f"         truth in the policy's numbers: {truth or 'nothing there'}",
        ]
    return "\n".join(lines)


def _check_batch(batch: Batch) -> None:
    if batch.answers < 2:
        raise UserError(
            "actor_rollout_ref.rollout.n=1: GRPO compares answers to one prompt; use 2 or more, 8 as published"
        )
    if batch.mini > batch.total or batch.total % batch.mini:
        raise UserError(
            f"data.train_batch_size={batch.prompts} is no multiple of "
            f"actor_rollout_ref.actor.ppo_mini_batch_size={batch.mini // batch.answers}; make it one"
        )
    if batch.mini % batch.gpus:
        raise UserError(
            f"an update of {batch.mini} answers does not divide among {batch.gpus} GPUs; change data.train_batch_size, "
            f"actor_rollout_ref.rollout.n or the number of GPUs"
        )
    if batch.micro and (batch.mini // batch.gpus) % batch.micro:
        raise UserError(
            f"{batch.mini // batch.gpus} answers a GPU do not divide into micro-batches of {batch.micro}; "
            f"change actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu"
        )


def _check_lengths(config: DictConfig) -> None:
    rollout, data = config.actor_rollout_ref.rollout, config.data
    needed = data.max_prompt_length + data.max_response_length
    if rollout.max_model_len and rollout.max_model_len < needed:
        raise UserError(
            f"actor_rollout_ref.rollout.max_model_len={rollout.max_model_len} holds no prompt of "
            f"{data.max_prompt_length} and answer of {data.max_response_length} tokens; make it {needed}"
        )
    longest = read_checkpoint(config.data.checkpoint, data.frame, data.prompt).max_length
    if needed > longest:
        raise UserError(f"prompt and answer of {needed} tokens are more than the {longest} the model was made for")


def _check_hardware(config: DictConfig, batch: Batch) -> None:
    width = config.actor_rollout_ref.rollout.tensor_model_parallel_size
    if batch.gpus % width:
        raise UserError(
            f"{batch.gpus} GPUs do not divide into replicas of tensor_model_parallel_size={width}; "
            f"change actor_rollout_ref.rollout.tensor_model_parallel_size"
        )
    if config.dry_run or config.trainer.device != "cuda" or config.trainer.nnodes > 1:
        return  # a plan may be made on another machine
    import torch

    there = torch.cuda.device_count()
    if there < config.trainer.n_gpus_per_node:
        raise UserError(
            f"trainer.n_gpus_per_node={config.trainer.n_gpus_per_node}, but this machine has {there}; "
            f"choose hardware=cpu, gpu1, gpu4 ... or set it"
        )


def _check_reward(config: DictConfig) -> None:
    name = config.reward.name
    load_reward(name) if "." in name else get_rubric(name)
    if name == "mask" and not config.segzero.segmenter.path:
        raise UserError("reward=mask needs a segmenter; set segzero.segmenter.path")


def _files(value: Any) -> list[Path]:
    names = [value] if isinstance(value, str) else list(value)
    files = [Path(name).expanduser() for name in names]
    for file in files:
        if not file.exists():
            raise UserError(f"no such data: {file}; prepare it, or set DATA or data.train_files and data.val_files")
    return files


def _parameters(config: DictConfig) -> float | None:
    """From the checkpoint's index or file, without reading its weights."""
    folder = Path(config.actor_rollout_ref.model.path).expanduser()
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        return json.loads(index.read_text())["metadata"]["total_size"] / 2
    sizes = [_safetensors_parameters(file) for file in folder.glob("*.safetensors")] if folder.is_dir() else []
    return sum(sizes) or _BY_NAME.get(folder.name)


_BY_NAME = {
    "Qwen2-VL-2B-Instruct": 2.21e9,
    "Qwen2.5-VL-3B-Instruct": 3.75e9,
    "Qwen2.5-VL-7B-Instruct": 8.29e9,
    "Qwen3-VL-4B-Instruct": 4.44e9,
}


def _safetensors_parameters(file: Path) -> int:
    """The header of a safetensors file: its length, then JSON."""
    import math

    with file.open("rb") as content:
        header = json.loads(content.read(int.from_bytes(content.read(8), "little")))
    return sum(math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")


def _memory(config: DictConfig, batch: Batch, parameters: float | None) -> list[str]:
    if parameters is None:
        return ["memory   not estimated: the checkpoint is not on this machine"]
    actor, lora = config.actor_rollout_ref.actor, config.actor_rollout_ref.model.lora_rank > 0
    weights = parameters * (2 if actor.fsdp_config.model_dtype == "bfloat16" else 4) / batch.gpus
    state = 0.0 if lora else parameters * 12 / batch.gpus  # gradients and two moments, float32
    reference = parameters * 2 / batch.gpus if needs_reference(config) and not lora else 0.0
    offloaded = actor.fsdp_config.param_offload and actor.fsdp_config.optimizer_offload
    on_gpu, on_host = (reference, weights + state) if offloaded else (weights + state + reference, 0.0)
    tokens = config.data.max_prompt_length + config.data.max_response_length
    trajectory = tokens * (4 + 4) * 8 + 4096  # int64 ids, masks and 4 rows of positions
    return [
        f"memory   {on_gpu / 2**30:.1f} GiB a GPU between phases for weights, gradients and optimizer"
        + (f", {on_host * batch.gpus / 2**30:.1f} GiB on the hosts (offloaded)" if on_host else "")
        + f"; vLLM takes {config.actor_rollout_ref.rollout.gpu_memory_utilization:.0%} of each while it writes",
        f"         {trajectory * batch.total / 2**20:.0f} MiB of host memory for a step's trajectories "
        f"({trajectory / 2**10:.0f} KiB each; images travel as paths); activations are not counted",
    ]
