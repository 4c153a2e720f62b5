"""LoRA adapters in PEFT's form: find their base, check that they fit it, and merge them into it.

>>> net = load_base(folder)                                                                # doctest: +SKIP
>>> net = merge_into(net, folder)  # the base with the adapters' products added            # doctest: +SKIP
"""

import json
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from segzero.errors import UserError, one_line
from segzero.extras import needs
from segzero.policy.transformers import load_weights

CARD, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."  # of PEFT's names


def is_adapter(folder: str | Path) -> bool:
    """Whether a folder holds adapters instead of a whole model."""
    return Path(folder, CARD).is_file()


def base_of(folder: str | Path) -> str:
    """The model on which adapters were trained, as their card names it."""
    try:
        base = json.loads(Path(folder, CARD).read_text())["base_model_name_or_path"]
        if isinstance(base, str) and base:
            return base
        raise ValueError("it names no base model")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{folder}/{CARD} can't be used: {one_line(error, 200)}; name the model by --base") from None


def load_base(folder: str | Path, base: str | None = None, dtype: torch.dtype = torch.float32) -> Any:
    """Load the model on which adapters were trained, with as many tokens as their tokenizer has."""
    net = load_weights(base or base_of(folder), dtype)
    if Path(folder, "tokenizer_config.json").is_file():
        try:
            tokens = len(AutoTokenizer.from_pretrained(folder, trust_remote_code=False))
        except Exception as error:  # files can be broken in many ways, and each has its own exception
            raise UserError(f"the tokenizer in {folder} does not load: {one_line(error)}") from error
        if tokens > net.get_input_embeddings().num_embeddings:
            net.resize_token_embeddings(tokens)
    return net


def merge_into(net: Any, folder: str | Path) -> Any:
    """Add the products of adapters to the weights of their base, and return it without them."""
    with needs("train"):
        from peft import PeftModel

    check_fit(net, folder)
    try:
        return PeftModel.from_pretrained(net, str(folder)).merge_and_unload(safe_merge=True)
    except Exception as error:  # PEFT's and safetensors' errors have no common base
        raise UserError(f"the adapters in {folder} can't be merged: {one_line(error, 300)}") from error


def check_fit(net: Any, folder: str | Path) -> None:
    """Refuse adapters whose layers the model lacks, or has in another shape."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(Path(folder, WEIGHTS), "pt") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise UserError(f"{folder}/{WEIGHTS} can't be read: {one_line(error, 200)}") from None
    layers = dict(net.named_modules())
    halves = [(name, side) for name in shapes for side in (".lora_A.", ".lora_B.") if side in name]
    if not halves:
        raise UserError(f"{folder}/{WEIGHTS} holds no LoRA adapters")
    for name, side in halves:
        layer = name.split(side)[0].removeprefix(PREFIX)
        if layer not in layers:
            raise UserError(f"the adapters in {folder} are for another base: it has no layer {layer}")
        weight = layers[layer].weight
        place = 1 if side == ".lora_A." else 0
        if shapes[name][place] != weight.shape[place]:
            sizes = f"{shapes[name][place]} there, {weight.shape[place]} in the model"
            raise UserError(f"the adapters in {folder} are for another base: {layer} has a width of {sizes}")


def keep_in_float32(module: torch.nn.Module) -> None:
    """Cast what is trained to float32: in half precision a step of 1e-5 is lost in rounding."""
    for parameter in module.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
