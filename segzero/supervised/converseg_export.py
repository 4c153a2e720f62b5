"""Checkpoints in ConverSeg's own layout, written from a model in training, which its published code loads strictly.

There the vision tower's networks have adapters, too. Ours is frozen, so theirs are written as they are at the start:
they add nothing.
"""

import math
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, TaskType
from safetensors.torch import save_file
from torch import Tensor

from segzero.io import replaced_folder
from segzero.mask_model.converseg import ConverSegModel
from segzero.mask_model.converseg_files import ADAPTER_FOLDER, BACKBONE, BASE_LAYER, HEAD_NAMES
from segzero.policy.adapters import WEIGHTS
from segzero.segmenter.meta_weights import read_tensors, to_meta

ADAPTED = ("down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj")  # base names, as published
DEFAULT = ".default"  # the adapters' name in PEFT


def save_raw(model: ConverSegModel, sam2: Path, folder: Path, name: str, step: int | str) -> None:
    """Write the three parts of a step; `sam2` is the file that has the weights of SAM2's memory."""
    language = language_weights(model)
    _save({"model": to_meta(model.sam, read_tensors(sam2, "model"))}, folder / f"{name}_{step}.torch")
    _save({"plm": language}, folder / f"{name}_plm_{step}.torch")
    adapters = {
        key.removeprefix("backbone.").replace(DEFAULT, ""): tensor.contiguous()
        for key, tensor in language.items()
        if ".lora_" in key
    }
    settings = model.net.peft_config["default"]
    config = LoraConfig(
        r=settings.r,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        target_modules=list(ADAPTED),
        task_type=TaskType.FEATURE_EXTRACTION,
        base_model_name_or_path=model.reader.checkpoint.path,
        inference_mode=True,
    )
    with replaced_folder(folder / f"{ADAPTER_FOLDER}_{step}") as unfinished:
        save_file(adapters, unfinished / WEIGHTS)
        config.save_pretrained(unfinished)


def language_weights(model: ConverSegModel) -> dict[str, Tensor]:
    """The language model and the head by the names of the published module."""
    weights: dict[str, Tensor] = {}
    rank = model.net.peft_config["default"].r
    for name, tensor in model.net.state_dict().items():
        layer, _, kind = name.rpartition(".")
        if "visual." in name and layer.rpartition(".")[2] in ADAPTED:
            weights[f"{BACKBONE}{layer}{BASE_LAYER}{kind}"] = tensor
            if kind == "weight":
                weights |= _without_effect(f"{BACKBONE}{layer}", tensor, rank)
        else:
            weights[BACKBONE + name] = tensor
    theirs = {ours: name for name, ours in HEAD_NAMES.items()}
    for name, tensor in model.head.state_dict().items():
        first, dot, rest = name.partition(".")
        weights[theirs[first] + dot + rest] = tensor
    return {name: tensor.detach().cpu() for name, tensor in weights.items()}


def _without_effect(layer: str, weight: Tensor, rank: int) -> dict[str, Tensor]:
    """Factors of an adapter before its first step: the second is zero, and the first can learn."""
    bound = 1 / math.sqrt(weight.shape[1])
    down = torch.empty(rank, weight.shape[1]).uniform_(-bound, bound, generator=torch.Generator().manual_seed(rank))
    return {
        f"{layer}.lora_A{DEFAULT}.weight": down,
        f"{layer}.lora_B{DEFAULT}.weight": torch.zeros(weight.shape[0], rank),
    }


def _save(content: dict[str, Any], file: Path) -> None:
    """Write a file that `torch.load` reads, whole or not at all."""
    unfinished = file.with_name(f".{file.name}.new")
    torch.save(content, unfinished)
    unfinished.replace(file)
