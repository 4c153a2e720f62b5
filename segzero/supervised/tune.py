"""`segzero tune`: a head learns masks from samples, on top of frozen encoders.

The best step by validation gIoU becomes a mask model that `segzero infer --mask-model` loads.
"""

import os
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import fields
from itertools import chain, islice
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from segzero import shipped
from segzero.data.parquet import from_parquet
from segzero.errors import UserError, unknown_name
from segzero.frames import Size
from segzero.images import image_key
from segzero.io import lock, replaced_folder, write_atomically
from segzero.mask_model.load import KINDS
from segzero.mask_model.network import ADAPTERS, CARD, MaskNetwork, read_card
from segzero.mask_model.prompt_model import PromptModel
from segzero.mask_pipeline import MaskPipeline
from segzero.prompts import normalise
from segzero.sample import Sample
from segzero.supervised.loop import can_be_tried, fit, held, join_processes, mixed_precision, trial
from segzero.supervised.lora import add_adapters, merged_weights, save_adapters
from segzero.supervised.mask_learner import MaskLearner, Weights, earlier_masks
from segzero.supervised.mask_samples import MaskSamples
from segzero.supervised.phases import Phase
from segzero.supervised.settings import compose, data_files, model_path
from segzero.supervised.validation import scores

HEADS = {name: f"{name}_head" for name in KINDS}  # head -> its file in configs/supervised
TERMS = [field.name for field in fields(Weights)]


def tune(head: str, overrides: Sequence[str] = ()) -> Path | None:
    """Train and return the run's folder; with dry_run=true print what the run would do, and return None."""
    if head not in HEADS:
        raise unknown_name("head", head, [*HEADS, "segmenter"])
    config = compose(HEADS[head], overrides)
    processes = join_processes()
    out = Path(config.out)
    if config.batch < processes.num_processes:
        raise UserError(f"batch={config.batch} is less than a sample for each of {processes.num_processes} processes")
    model = load_model(config, processes.device, head)
    data = read_samples(config, model)
    later, more = read_later(config, model, data)
    if processes.is_main_process:
        print("\n".join([*describe(config, model, data), *more]), flush=True)
    weights = Weights(**{name: config.get(f"{name}_weight", 0) for name in TERMS})
    learner = MaskLearner(model, config.rows_per_pass, int(config.cache_gb * 2**30), weights).train()
    if config.dry_run:
        tried = trial(learner, data.train, config) if can_be_tried(model) else None
        if processes.is_main_process and tried:
            print(f"tried    {tried.report(config.steps + sum(phase.steps for phase in later))}")
        return None

    def validate() -> dict[str, float]:
        learner.eval()
        figures = scores(MaskPipeline(model), data.val)
        learner.train()
        return figures

    def export(name: str) -> None:
        with replaced_folder(out / name) as unfinished:
            if config.adapters_only:
                save_adapters(model.net, unfinished / ADAPTERS)
            model.save(unfinished, None if config.adapters_only else merged_weights(model.net))

    busy = f"another training is at work in {out}; wait for it, or set `out` to another folder"
    with lock(out, busy) if processes.is_main_process else nullcontext():
        if processes.is_main_process:
            write_atomically(out / "config.yaml", OmegaConf.to_yaml(config).encode())
        fit(learner, data.train, config, validate if data.val else None, export, later=later)
    return out


def load_model(config: DictConfig, device: torch.device, head: str = "prompt") -> MaskNetwork:
    """Load the encoders, with an untrained head or that of a saved mask model, and choose what is trained."""
    half = mixed_precision(config.precision) == "bf16" and config.lora_rank
    torch.manual_seed(config.seed)
    path, kind = model_path(config.model), KINDS[head]
    place: dict[str, Any] = {"device": str(device), "dtype": "bfloat16" if half else "float32"}
    if Path(path, CARD).is_file():
        given = os.environ.get("SEGMENTER_PATH")  # for trainings from the start; a saved model has its own
        if (saved := read_card(Path(path))["head"]) != head:
            raise UserError(f"{path} is a model with the head {saved!r}; use --head {saved}")
        if config.get("segmenter", given) != given:
            raise UserError(f"{path} brings its segmenter along; leave out segmenter={config.segmenter}")
        model = kind.load(Path(path), **place)
    else:
        if "segmenter" in config:
            place["segmenter"] = config.segmenter or shipped.segmenter_path()
        model = kind.start(path, **place)
    if config.get("memory") and not model.memory:
        assert isinstance(model, PromptModel), "no other head's configuration has this key"
        model.add_memory()
    model.expressions = config.get("expressions", 1)
    if config.lora_rank:
        add_adapters(model.net, config.lora_rank, config.lora_alpha, config.lora_dropout, model.own_tokens)
    else:
        model.net.model.language_model.requires_grad_(True)
        if model.own_tokens:
            model.net.get_output_embeddings().requires_grad_(True)
    model.train_with()
    return model


def read_later(config: DictConfig, model: MaskNetwork, first: MaskSamples) -> tuple[list[Phase], list[str]]:
    """The phases that follow the first, and lines about them; validation takes samples of all data."""
    phases, lines, earlier = [], [], list(first.train)
    for number, phase in enumerate(config.get("phases") or (), 2):
        data = read_samples(config, model, phase.data)
        rate, replay = phase.get("lr", config.lr), phase.get("replay", 0.0)
        phases.append(Phase(data.train, phase.steps, rate, replay, tuple(earlier)))
        epochs = phase.steps * config.batch * (1 - replay) / len(data.train)
        lines += [
            f"phase {number}  {phase.data}: {data}",
            f"         {phase.steps} updates, {epochs:.1f} epochs, lr {rate:g}; {replay:.0%} of a batch from the "
            f"{len(earlier)} samples before",
        ]
        earlier += data.train
        first.val.extend(data.val)
    return phases, lines


def read_samples(config: DictConfig, model: MaskNetwork, place: str | None = None) -> MaskSamples:
    """Read and try all samples; those that can't be learnt from are left out, with the reason."""
    place = place or config.data
    left_out: dict[str, str] = {}
    kept: dict[str, list[Sample]] = {}
    sizes: dict[str, Size] = {}
    for split in ("train", "val"):
        every = chain.from_iterable(from_parquet(file) for file in data_files(place, split))
        kept[split] = []
        for sample in islice(every, config.val_samples) if split == "val" else every:
            try:
                _try(sample, model, sizes)
                kept[split].append(sample)
            except UserError as error:
                left_out[sample.id] = str(error)
    if not kept["train"]:
        name, reason = next(iter(left_out.items()), ("", "it is empty"))
        raise UserError(f"no usable sample in {place}: {name} {reason}".replace("  ", " "))
    if model.memory and not any(sample.turns for sample in kept["train"]):
        raise UserError(f"memory=true, but no sample of {place} has earlier rounds")
    return MaskSamples(kept["train"], kept["val"], left_out)


def _try(sample: Sample, model: MaskNetwork, sizes: dict[str, Size]) -> None:
    """Refuse a sample without a mask, with an image of another size or shape, or without a question.

    `sizes` are those of the images that were decoded before: several questions may be about one.
    """
    if sample.mask() is None:
        raise UserError("an object has no mask")
    normalise(sample.question)
    if model.memory:
        earlier_masks(sample)
    key = image_key(sample.image)
    if key not in sizes:
        image = sample.open()
        model.fits(image)
        sizes[key] = image.size
    width, height = sizes[key]
    if (width, height) != sample.size:
        raise UserError(f"its image is {width}x{height}, not {sample.width}x{sample.height}")


def describe(config: DictConfig, model: MaskNetwork, data: MaskSamples) -> list[str]:
    """Say what the run is about to do; a dry run also names two samples."""
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    epochs = config.steps * config.batch / len(data.train)
    language = f"adapters of rank {config.lora_rank}" if config.lora_rank else "all weights of the language model"
    lines = [
        f"model    {model.encoders}",
        f"trains   {model.trained}, {language}: {trained:,} weights",
        f"data     {config.data}: {data}",
        f"batch    {config.batch} questions an update, {config.steps} updates, {epochs:.1f} epochs; "
        f"{mixed_precision(config.precision)} mixed precision",
        f"run      {config.out}; resume {config.resume}",
    ]
    if config.dry_run:
        lines.append(f"memory   {held(model)}; kept images {config.cache_gb} GB at most")
        for sample in data.train[:2]:
            lines.append(f"sample   {sample.id}: {sample.question}: {len(sample.objects)} objects")
    return lines
