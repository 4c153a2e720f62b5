"""Engines of the trainer in this process, and the batches that the trainer would send them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from segzero.answer import Answer, Instance
from segzero.sample import Sample

LORA = [
    "actor_rollout_ref.model.lora_rank=4",
    "actor_rollout_ref.model.exclude_modules='.*visual.*'",
    "actor_rollout_ref.actor.freeze_vision_tower=true",
]
COLUMNS = ("prompts", "responses", "input_ids", "position_ids", "response_mask", "loss_mask", "multi_modal_inputs")


def keep_forwards(monkeypatch: Any) -> None:
    """Restore, at the end of a test, what verl replaces in transformers' classes."""
    from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl as qwen2_5_vl
    from transformers.models.qwen2_vl import modeling_qwen2_vl as qwen2_vl
    from transformers.models.qwen3_vl import modeling_qwen3_vl as qwen3_vl
    from transformers.models.qwen3_vl_moe import modeling_qwen3_vl_moe as qwen3_vl_moe

    families = [(qwen2_vl, "Qwen2VL"), (qwen2_5_vl, "Qwen2_5_VL"), (qwen3_vl, "Qwen3VL"), (qwen3_vl_moe, "Qwen3VLMoe")]
    for module, name in families:
        for part in ("ForConditionalGeneration", "Model"):
            owner = getattr(module, name + part)
            monkeypatch.setattr(owner, "forward", owner.forward)
        vision = getattr(module, name + "VisionModel", None)
        if hasattr(vision, "fast_pos_embed_interpolate"):
            monkeypatch.setattr(vision, "fast_pos_embed_interpolate", vision.fast_pos_embed_interpolate)


def resolved(policy: str | Path, run: Path, *overrides: str) -> Any:
    """The configuration of a training on the CPU."""
    from segzero.training.config import compose
    from segzero.training.launch import resolve_config

    common = (f"actor_rollout_ref.model.path={policy}", f"trainer.default_local_dir={run}")
    return resolve_config(compose("train", [*common, *overrides]))


def join_processes(folder: Path, rank: int = 0, world: int = 1, backend: str = "gloo") -> None:
    """Make this process one of a group of processes that meet at a file."""
    if not torch.distributed.is_initialized():
        store = f"file://{folder / 'store'}"
        torch.distributed.init_process_group(backend, init_method=store, rank=rank, world_size=world)


def make_engine(config: Any, kind: type | None = None) -> Any:
    """The actor's engine with its model, as `PolicyWorker` makes it; `kind` is another class for it."""
    from verl.utils.config import omega_conf_to_dataclass

    from segzero.training.engine import ImageEngine, SharedPromptEngine, choose_engine, do_not_pin
    from segzero.training.verl_glue.patches import log_probs_in_blocks

    shared_prompt = bool(config.actor_rollout_ref.shared_prompt)
    choose_engine(shared_prompt)
    if kind is None:
        log_probs_in_blocks()
    if config.trainer.device == "cpu":
        do_not_pin()
    ImageEngine.freeze_vision_tower = config.actor_rollout_ref.actor.freeze_vision_tower
    ImageEngine.image_options = dict(config.actor_rollout_ref.image)
    distillation = config.segzero.self_distillation
    SharedPromptEngine.teacher_top_k = distillation.top_k if distillation.weight else 0
    model = omega_conf_to_dataclass(config.actor_rollout_ref.model)
    actor = omega_conf_to_dataclass(config.actor_rollout_ref.actor)
    actor.engine.use_remove_padding = model.use_remove_padding
    actor.engine.use_fused_kernels = model.use_fused_kernels
    kind = kind or (SharedPromptEngine if shared_prompt else ImageEngine)
    engine = kind(
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
    from segzero.training.tokenization import picture_of
    from segzero.training.verl_glue.patches import ragged_last

    rows, columns = [], COLUMNS
    for number, (sample, group) in enumerate(zip(samples, answers, strict=True)):
        prompt, teacher = encoder.encode(sample), None
        if config.segzero.self_distillation.weight:
            teacher = make_teacher_prompt(encoder, sample, number, config)
            columns = (*teacher.columns(encoder, 1), *COLUMNS)
        for ids in group:
            row = trajectory(prompt, list(ids), [0.0] * len(ids), 0.0, encoder, picture_of(sample))
            row |= teacher.columns(encoder, len(ids)) if teacher else {}
            rows.append({name: row[name] for name in columns})
    batch, generator = as_batch(rows), torch.Generator().manual_seed(0)
    for name in columns[:-1]:  # verl's packing leaves columns alone whose rows are equally long
        if not batch[name].is_nested:
            batch[name] = ragged_last(list(batch[name].unbind()))
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


def make_teacher_prompt(encoder: Any, sample: Sample, number: int, config: Any) -> Any:
    """The teacher's prompt of a group, after as many attempts as its number and one more."""
    from segzero.dialogue.prompting import sample_prompt
    from segzero.training.self_distillation import teacher_prompt

    boxes = [(9.0 * number, 5.0 + place, 20.0 + 9 * number, 40.0) for place in range(number + 1)]
    attempts = [Answer("", (Instance(box, (box[:2],)),)) for box in boxes]
    prompt = sample_prompt(sample, encoder.checkpoint.frame)
    return teacher_prompt(encoder, sample, prompt, attempts, [1.0] * len(boxes), config.segzero.self_distillation)


def loss_function(config: Any) -> Any:
    """verl's GRPO loss of this configuration, with self-distillation if it is on and prompts are shared."""
    from functools import partial

    from verl.utils.config import omega_conf_to_dataclass
    from verl.workers.utils.losses import ppo_loss

    from segzero.training.self_distillation import distilled

    loss = partial(ppo_loss, config=omega_conf_to_dataclass(config.actor_rollout_ref.actor))
    weight = config.segzero.self_distillation.weight
    return distilled(loss, weight) if weight and config.segzero.shared_prompt else loss


@dataclass(frozen=True)
class Job:
    """A policy and a batch of random answers to samples, under a configuration."""

    policy: str | Path
    folder: Path
    samples: Sequence[Sample]
    lengths: Sequence[Sequence[int]]  # of the answers to each sample
    overrides: Sequence[str]
    shared_prompt: bool

    def start(self, kind: type | None = None) -> tuple[Any, Any, Any]:
        """Make the engine, the batch, and the loss with all of its terms; `kind` is another class of engine."""
        from segzero.policy.checkpoint import read_checkpoint
        from segzero.training.tokenization import Encoder, load_processor

        terms = ["actor_rollout_ref.actor.use_kl_loss=true", "actor_rollout_ref.actor.entropy_coeff=0.01"]
        switch = f"segzero.shared_prompt={str(self.shared_prompt).lower()}"
        config = resolved(self.policy, self.folder, *terms, *self.overrides, switch)
        image = config.actor_rollout_ref.image
        checkpoint = read_checkpoint(self.policy, image.frame, image.prompt)
        encoder = Encoder(checkpoint, load_processor(str(self.policy)))
        generator = torch.Generator().manual_seed(1)
        answers = [[torch.randint(0, 150, (n,), generator=generator).tolist() for n in group] for group in self.lengths]
        batch = make_batch(encoder, self.samples[: len(answers)], answers, config)
        torch.manual_seed(0)  # of the adapters
        return make_engine(config, kind), batch, loss_function(config)


@dataclass(frozen=True)
class Computed:
    """What an engine computes from a batch."""

    loss: float
    gradients: dict[str, torch.Tensor]
    values: dict[str, torch.Tensor]  # log-probs and entropies at the answers' tokens, [rows, longest answer]


def compute(job: Job, rank: int = 0, ranks: int = 1) -> Computed:
    """Loss and gradients of a batch, and values of the answers' tokens, by one of `ranks` processes."""
    from verl.utils import tensordict_utils as tu
    from verl.workers.utils.padding import no_padding_2_padding

    engine, batch, loss = job.start()
    if ranks > 1:
        share = len(batch) // ranks
        batch = tu.index_select_tensor_dict(batch, list(range(rank * share, (rank + 1) * share)))
    with engine.train_mode():
        engine.optimizer_zero_grad()
        output = engine.forward_backward_batch(batch.clone(), loss)
        gradients = {n: p.grad.full_tensor().clone() for n, p in engine.module.named_parameters() if p.grad is not None}
    with engine.eval_mode():
        values = engine.infer_batch(batch.clone())["model_output"]
    by_answer = {name: no_padding_2_padding(value, batch) for name, value in values.items()}
    return Computed(sum(output["loss"]), gradients, by_answer)


def train(job: Job, steps: int, kind: type | None = None) -> dict[str, torch.Tensor]:
    """Make some updates; returns how far each weight has moved."""
    engine, batch, loss = job.start(kind)
    before = {name: p.full_tensor().detach().clone() for name, p in engine.module.named_parameters()}
    for _ in range(steps):
        with engine.train_mode():
            engine.train_batch(batch.clone(), loss)
    return {name: p.full_tensor().detach() - before[name] for name, p in engine.module.named_parameters()}


def compute_on_ranks(jobs: Sequence[Job], ranks: int, folder: Path) -> list[Computed]:
    """Compute jobs in a process per rank; every rank has the gradients, and a share of loss and values."""
    torch.multiprocessing.spawn(_on_rank, (ranks, jobs, folder), nprocs=ranks)
    by_rank = [torch.load(folder / f"{rank}.pt") for rank in range(ranks)]
    return [_joined([Computed(**part) for part in parts]) for parts in zip(*by_rank, strict=True)]


def _joined(parts: Sequence[Computed]) -> Computed:
    values = {}
    for name in parts[0].values:
        rows = [row for part in parts for row in part.values[name]]
        values[name] = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    return Computed(sum(part.loss for part in parts) / len(parts), parts[0].gradients, values)


def _on_rank(rank: int, ranks: int, jobs: Sequence[Job], folder: Path) -> None:
    torch.set_num_threads(1)
    join_processes(folder, rank, ranks)
    torch.save([vars(compute(job, rank, ranks)) for job in jobs], folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()
