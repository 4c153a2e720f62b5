"""`segzero tune --head segmenter`: SAM2's mask decoder learns from kept masks, between SAM's stages of annotation.

The best step by validation becomes an ordinary SAM2 checkpoint, which every `--segmenter` takes.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import fields
from itertools import chain, islice
from pathlib import Path

import numpy as np
from omegaconf import DictConfig, OmegaConf

from segzero import shipped
from segzero.data.parquet import from_parquet
from segzero.errors import UserError
from segzero.io import lock, replaced_folder, write_atomically
from segzero.masks import box_of, decode, mask_iou, points_of
from segzero.sample import Sample
from segzero.segmenter import MaskPrompt
from segzero.segmenter.transformers import TransformersSegmenter
from segzero.supervised.loop import can_be_tried, fit, held, join_processes, mixed_precision, trial
from segzero.supervised.mask_samples import MaskSamples
from segzero.supervised.segmenter_learner import PromptSettings, SegmenterLearner, without_empty_masks
from segzero.supervised.settings import compose, data_files


def tune_segmenter(overrides: Sequence[str] = ()) -> Path | None:
    """Train and return the run's folder; with dry_run=true print what the run would do, and return None."""
    config = compose("segmenter", overrides)
    processes = join_processes()
    out = Path(config.out)
    if config.batch < processes.num_processes:
        raise UserError(f"batch={config.batch} is less than an image for each of {processes.num_processes} processes")
    data = read_samples(config)
    path = config.segmenter or shipped.segmenter_path()
    segmenter = TransformersSegmenter(path, str(processes.device), "float32")
    learner = SegmenterLearner(
        segmenter, prompt_settings(config), config.rows_per_pass, int(config.cache_gb * 2**30), config.seed
    )
    if processes.is_main_process:
        print("\n".join(describe(config, learner, data)), flush=True)
    if config.dry_run:
        tried = trial(learner, data.train, config) if can_be_tried(learner) else None
        if processes.is_main_process and tried:
            print(f"tried    {tried.report(config.steps)}")
        return None

    def export(name: str) -> None:
        with replaced_folder(out / name) as unfinished:
            segmenter.model.save_pretrained(unfinished)
            segmenter.processor.save_pretrained(unfinished)

    busy = f"another training is at work in {out}; wait for it, or set `out` to another folder"
    with lock(out, busy) if processes.is_main_process else nullcontext():
        if processes.is_main_process:
            write_atomically(out / "config.yaml", OmegaConf.to_yaml(config).encode())
        fit(learner, data.train, config, (lambda: one_prompt_scores(segmenter, data.val)) if data.val else None, export)
    return out


def prompt_settings(config: DictConfig) -> PromptSettings:
    """The learner's settings of a configuration."""
    if not 0 <= config.box_share <= 1:
        raise UserError(f"box_share={config.box_share}: it must be from 0 to 1")
    if not isinstance(config.corrections, int) or config.corrections < 0:
        raise UserError(f"corrections={config.corrections}: it must be a whole number from 0 on")
    weights = {each.name: config[key] for each in fields(PromptSettings) if (key := f"{each.name}_weight") in config}
    return PromptSettings(config.objects, config.box_share, config.corrections, **weights)


def read_samples(config: DictConfig) -> MaskSamples:
    """Read samples with masks; others are left out, with the reason."""
    left_out: dict[str, str] = {}
    kept: dict[str, list[Sample]] = {}
    for split in ("train", "val"):
        every = chain.from_iterable(from_parquet(file) for file in data_files(config.data, split))
        kept[split] = []
        for sample in islice(every, config.val_samples) if split == "val" else every:
            try:
                kept[split].append(_usable(sample))
            except UserError as error:
                left_out[sample.id] = str(error)
    if not kept["train"]:
        name, reason = next(iter(left_out.items()), ("", "it is empty"))
        raise UserError(f"no usable sample in {config.data}: {name} {reason}".replace("  ", " "))
    return MaskSamples(kept["train"], kept["val"], left_out)


def _usable(sample: Sample) -> Sample:
    """A sample's objects with masks; refuse one without any, or whose image can't be read or has another size."""
    with_masks = without_empty_masks(sample)
    if not with_masks.objects:
        raise UserError("no object of it has a mask")
    image = sample.open()
    if image.size != sample.size:
        raise UserError(f"its image is {image.width}x{image.height}, not {sample.width}x{sample.height}")
    return with_masks


def one_prompt_scores(segmenter: TransformersSegmenter, samples: Sequence[Sample]) -> dict[str, float]:
    """Mean IoU of the mask that a click in the middle gives, that a box gives, and of both together.

    The mask is the best of three by its own score, at the image's size, as in use.
    """
    clicks, boxes = [], []
    for sample in samples:
        masks = [decode(each.rle, sample.size) for each in sample.objects if each.rle is not None]
        prompts = [MaskPrompt(points=points_of(mask)) for mask in masks]
        prompts += [MaskPrompt(box=box_of(mask)) for mask in masks]
        [predictions] = segmenter.decode(segmenter.embed([sample.open()]), [prompts])
        ious = [mask_iou(each.masks[0], mask) for each, mask in zip(predictions, masks * 2, strict=True)]
        clicks += ious[: len(masks)]
        boxes += ious[len(masks) :]
    figures = {"val/click": float(np.mean(clicks)), "val/box": float(np.mean(boxes))}
    return figures | {"val/giou": (figures["val/click"] + figures["val/box"]) / 2}


def describe(config: DictConfig, learner: SegmenterLearner, data: MaskSamples) -> list[str]:
    """Say what the run is about to do."""
    trained = sum(parameter.numel() for parameter in learner.parameters() if parameter.requires_grad)
    epochs = config.steps * config.batch / len(data.train)
    objects = sum(len(sample.objects) for sample in data.train)
    lines = [
        f"model    {learner.segmenter.name}",
        f"trains   the mask decoder: {trained:,} weights; image encoder and prompt encoder are frozen",
        f"data     {config.data}: {data}; {objects} masks",
        f"batch    {config.batch} images an update, up to {config.objects} masks of each, {config.steps} updates, "
        f"{epochs:.1f} epochs; {mixed_precision(config.precision)} mixed precision",
        f"run      {config.out}; resume {config.resume}",
    ]
    if config.dry_run:
        lines.append(f"memory   {held(learner)}; kept images {config.cache_gb} GB at most")
    return lines
