"""`segzero sft`: a policy learns think-chains and answers by heart, in the prompt and format of `segzero train`.

The loss is on the answers alone. The best step by validation gIoU, of masks that the segmenter draws from the policy's
greedy answers, becomes a checkpoint that `segzero train` and every other command loads.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from omegaconf import DictConfig, OmegaConf

from segzero import shipped
from segzero.data.parquet import from_parquet
from segzero.errors import UserError
from segzero.io import lock, replaced_folder, write_atomically
from segzero.pipeline import SegZeroPipeline
from segzero.policy import Sampling
from segzero.policy.checkpoint import read_checkpoint, write_card
from segzero.policy.transformers import load_weights
from segzero.sample import Sample
from segzero.segmenter import load_segmenter
from segzero.supervised.answers import answer_text
from segzero.supervised.loop import can_be_tried, fit, held, join_processes, mixed_precision, trial
from segzero.supervised.lora import adapter_weights, add_adapters, merged_weights, save_adapters
from segzero.supervised.policy_learner import PolicyLearner
from segzero.supervised.settings import compose, data_files, model_path
from segzero.supervised.sharding import shard
from segzero.supervised.validation import scores
from segzero.training.dataset import FilterReport, filter_usable
from segzero.training.model_shape import build_empty_model
from segzero.training.tokenization import Encoder, load_processor

MAX_ANSWER = 1024  # tokens of a validation answer
SHOWN = 2  # answers that a dry run shows


@dataclass(frozen=True)
class Data:
    """Samples of a run, and what was left out."""

    train: list[Sample]
    val: list[Sample]
    report: FilterReport


def sft(overrides: Sequence[str] = ()) -> Path | None:
    """Train and return the run's folder; with dry_run=true print what the run would do, and return None."""
    config = compose("sft", overrides)
    checkpoint = read_checkpoint(model_path(config.model), config.frame, config.prompt)
    encoder = Encoder(checkpoint, load_processor(checkpoint.path))
    data = read_data(config, encoder)
    processes = join_processes()
    out = Path(config.out)
    if config.batch < processes.num_processes:
        raise UserError(f"batch={config.batch} is less than a sample for each of {processes.num_processes} processes")
    if config.fsdp and processes.num_processes == 1:
        raise UserError("fsdp=true divides the weights over processes, and this is one; start several with torchrun")
    if processes.is_main_process:
        print("\n".join(describe(config, encoder, data)), flush=True)
    if config.dry_run:
        lines = explain_dry_run(config, encoder, data, processes)
        if processes.is_main_process:
            print("\n".join(lines))
        return None
    busy = f"another training is at work in {out}; wait for it, or set `out` to another folder"
    with lock(out, busy) if processes.is_main_process else nullcontext():
        learner = load_learner(config, encoder, processes.device)
        segmenter = None
        if processes.is_main_process:
            write_atomically(out / "config.yaml", OmegaConf.to_yaml(config).encode())
            draws = data.val and not config.fsdp
            segmenter = load_segmenter(config.segmenter or shipped.segmenter_path()) if draws else None

        def validate() -> dict[str, float]:
            if segmenter is None:
                return {"val/loss": mean_loss(learner, data.val)}
            with learner.generating() as policy:
                return scores(SegZeroPipeline(policy, segmenter, sampling=Sampling(max_tokens=MAX_ANSWER)), data.val)

        fit(
            learner,
            data.train,
            config,
            validate if data.val else None,
            lambda name: save(learner, out / name, config.adapters_only, processes.is_main_process),
        )
    return out


@torch.no_grad()
def mean_loss(learner: PolicyLearner, samples: Sequence[Sample]) -> float:
    """Mean loss of a token of true answers, which all processes compute alike."""
    learner.eval()
    passes = learner.passes(samples)
    summed = sum(float(learner(rows)) for rows in passes)
    learner.train()
    return summed / sum(map(learner.weight, passes))


def read_data(config: DictConfig, encoder: Encoder) -> Data:
    """Read and try all samples; those that can't be trained on are left out and counted."""
    report = FilterReport()
    kept: dict[str, list[Sample]] = {}
    for split in ("train", "val"):
        files = data_files(config.data, split)
        every = chain.from_iterable(from_parquet(file) for file in files)
        wanted = islice(every, config.val_samples) if split == "val" else every
        counted = report if split == "train" else FilterReport()
        usable = [one.sample for one in filter_usable(wanted, encoder, config.max_prompt_length, counted)]
        if split == "train" and encoder.format == "seg_zero":
            for sample in usable:
                if len(sample.objects) != 1:
                    report.unreadable[sample.id] = f"the prompt asks for one object, and it has {len(sample.objects)}"
            usable = [sample for sample in usable if len(sample.objects) == 1]
        kept[split] = usable
    # Others have nothing to compare with, or ask about a mask that the pipeline does not show.
    kept["val"] = [one for one in kept["val"] if one.mask() is not None and one.current_mask is None]
    if not kept["train"]:
        raise UserError(f"no usable sample in {config.data}: {report}")
    return Data(kept["train"], kept["val"], report)


def describe(config: DictConfig, encoder: Encoder, data: Data) -> list[str]:
    """Say what the run is about to do."""
    checkpoint, epochs = encoder.checkpoint, config.steps * config.batch / len(data.train)
    trains = f"adapters of rank {config.lora_rank}" if config.lora_rank else "all weights"
    vision = "vision tower frozen" if config.lora_rank or config.freeze_vision_tower else "vision tower trained, too"
    return [
        f"policy   {checkpoint.path}; frame {checkpoint.frame}, prompt {checkpoint.prompt}; {trains}, {vision}",
        f"data     {config.data}: {data.report}; {len(data.val)} for validation",
        f"batch    {config.batch} samples an update, {config.steps} updates, {epochs:.1f} epochs; "
        f"up to {config.tokens_per_pass} tokens a pass, {mixed_precision(config.precision)} mixed precision",
        f"run      {config.out}; resume {config.resume}",
    ]


def load_learner(config: DictConfig, encoder: Encoder, device: torch.device) -> PolicyLearner:
    """Load the policy's weights and choose which of them are trained."""
    net = load_weights(encoder.checkpoint.path, _dtype(config))
    torch.manual_seed(config.seed)  # of the adapters' first weights, which all processes must share
    choose_trained(net, config)
    if config.gradient_checkpointing:
        net.gradient_checkpointing_enable({"use_reentrant": False})
    learner = PolicyLearner(net.to(device).train(), encoder, config.tokens_per_pass)
    if config.fsdp:
        shard(net)
    return learner


def choose_trained(net: Any, config: DictConfig) -> None:
    """Put adapters on the language model, or freeze the vision tower if that is wanted."""
    if config.lora_rank:
        add_adapters(net, config.lora_rank, config.lora_alpha, config.lora_dropout)
    elif config.freeze_vision_tower:
        net.model.visual.requires_grad_(False)


def _dtype(config: DictConfig) -> torch.dtype:
    """Dtype of the weights: a step of 1e-5 is lost in bfloat16's rounding, so only a frozen base is in bfloat16."""
    half = mixed_precision(config.precision) == "bf16"
    return torch.bfloat16 if half and config.lora_rank else torch.float32


def explain_dry_run(config: DictConfig, encoder: Encoder, data: Data, processes: PartialState) -> list[str]:
    """Say what a run needs: memory from the shapes of the weights, time from an update where one can be tried."""
    _, empty = build_empty_model(encoder.checkpoint.path)
    choose_trained(empty.to(_dtype(config)), config)
    lines = [f"memory   {held(empty, processes.num_processes if config.fsdp else 1)}"]
    for sample in data.train[:SHOWN]:
        text = answer_text(sample, encoder.checkpoint.frame, encoder.format)
        lines += [f"sample   {sample.id}: {sample.question}", f"  {text}"]
    if can_be_tried(empty):
        tried = trial(load_learner(config, encoder, processes.device), data.train, config)
        lines.append(f"tried    {tried.report(config.steps)}")
    return lines


def save(learner: PolicyLearner, folder: Path, adapters_only: bool = False, writes: bool = True) -> None:
    """Write the policy as a checkpoint that from_pretrained loads, adapters merged or alone; replace an older one.

    Processes that only hold a part of the weights don't write.
    """
    net, checkpoint = learner.net, learner.encoder.checkpoint
    weights = adapter_weights(net) if adapters_only else merged_weights(net)
    if not writes:
        return
    with replaced_folder(folder) as unfinished:
        if adapters_only:
            save_adapters(net, unfinished, weights)
        else:
            net.save_pretrained(unfinished, state_dict=weights)
        learner.encoder.processor.save_pretrained(unfinished)
        write_card(unfinished, checkpoint.prompt, checkpoint.frame)
