"""Engines of the trainer in this process, and the batches that the trainer would send them."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from segzero.sample import Sample

COLUMNS = ("prompts", "responses", "input_ids", "position_ids", "response_mask", "loss_mask", "multi_modal_inputs")


def resolved(policy: str | Path, run: Path, *overrides: str) -> Any:
    """The configuration of a training on the CPU."""
    from segzero.training.config import compose
    from segzero.training.launch import resolve_config

    common = (f"actor_rollout_ref.model.path={policy}", f"trainer.default_local_dir={run}")
    return resolve_config(compose("train", [*common, *overrides]))


def join_processes(folder: Path, rank: int = 0, world: int = 1) -> None:
    """Make this process one of a group of processes that meet at a file."""
    if not torch.distributed.is_initialized():
        store = f"file://{folder / 'store'}"
        torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=world)


def make_engine(config: Any, shared_prompt: bool) -> Any:
    """The actor's engine, with its model, as `PolicyWorker` makes it."""
    from verl.utils.config import omega_conf_to_dataclass
    from verl.workers.engine import EngineRegistry

    from segzero.training.engine import ImageEngine, choose_engine, do_not_pin
    from segzero.training.verl_glue.patches import log_probs_in_blocks

    log_probs_in_blocks()
    do_not_pin()
    os.environ["VERL_ENGINE_VENDOR"] = choose_engine(shared_prompt)
    ImageEngine.freeze_vision_tower = config.actor_rollout_ref.actor.freeze_vision_tower
    ImageEngine.image_options = dict(config.actor_rollout_ref.image)
    model = omega_conf_to_dataclass(config.actor_rollout_ref.model)
    actor = omega_conf_to_dataclass(config.actor_rollout_ref.actor)
    actor.engine.use_remove_padding = model.use_remove_padding
    actor.engine.use_fused_kernels = model.use_fused_kernels
    engine = EngineRegistry.new(
        model_type="language_model",
        backend=actor.engine.strategy,
        model_config=model,
        engine_config=actor.engine,
        optimizer_config=actor.optim,
        checkpoint_config=actor.checkpoint,
    )
    engine.initialize()
    return engine


def make_batch(encoder: Any, samples: Sequence[Sample], answers: Sequence[Sequence[Sequence[int]]], config: Any) -> Any:
    """Trajectories as the trainer sends them: `answers` holds the token ids of each answer to each sample."""
    from verl.utils import tensordict_utils as tu

    from segzero.training.rollouts import as_batch, trajectory

    rows = []
    for sample, group in zip(samples, answers, strict=True):
        prompt = encoder.encode(sample)
        for ids in group:
            row = trajectory(prompt, list(ids), [0.0] * len(ids), 0.0, encoder, str(sample.image))
            rows.append({name: row[name] for name in COLUMNS})
    batch, generator = as_batch(rows), torch.Generator().manual_seed(0)
    lengths = batch["responses"].offsets()
    for name, scale in (("advantages", 1.0), ("old_log_probs", 0.1), ("ref_log_prob", 0.1)):
        values = scale * torch.randn(int(lengths[-1]), generator=generator)
        batch[name] = torch.nested.nested_tensor_from_jagged(values, lengths)
    actor = config.actor_rollout_ref.actor
    tu.assign_non_tensor(
        batch,
        temperature=config.actor_rollout_ref.rollout.temperature,
        calculate_entropy=True,
        global_batch_size=len(rows),
        use_remove_padding=config.actor_rollout_ref.model.use_remove_padding,
        use_fused_kernels=config.actor_rollout_ref.model.use_fused_kernels,
        use_dynamic_bsz=actor.use_dynamic_bsz,
        max_token_len_per_gpu=actor.ppo_max_token_len_per_gpu,
        micro_batch_size_per_gpu=actor.ppo_micro_batch_size_per_gpu,
    )
    return batch


def loss_function(config: Any) -> Any:
    """verl's GRPO loss of this configuration."""
    from functools import partial

    from verl.utils.config import omega_conf_to_dataclass
    from verl.workers.utils.losses import ppo_loss

    return partial(ppo_loss, config=omega_conf_to_dataclass(config.actor_rollout_ref.actor))
