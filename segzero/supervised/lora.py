"""Adapters on a language model's layers (LoRA, through PEFT): put them on, save them, merge them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from segzero.policy.adapters import PREFIX, WEIGHTS, keep_in_float32
from segzero.supervised.sharding import whole

VISION = ".*(visual|vision_tower|multi_modal_projector).*"  # of Qwen's models; of InternVL


def add_adapters(net: Any, rank: int, alpha: int, dropout: float, tokens: Sequence[int] = ()) -> None:
    """Freeze a vision-language model and put adapters on its language model's linear layers.

    The layers are replaced in place, so that `net` itself computes with them, too. Adapters are in float32. The
    embeddings of `tokens` are trained, and their rows of the output head.
    """
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules="all-linear", exclude_modules=VISION
    )
    if tokens:
        tables = {"embed_tokens": net.get_input_embeddings(), "lm_head": net.get_output_embeddings()}
        tied = tables["embed_tokens"].weight is tables["lm_head"].weight  # PEFT then trains one for both
        config.trainable_token_indices = {name: list(tokens) for name in list(tables)[: 1 if tied else 2]}
    get_peft_model(net, config)
    keep_in_float32(net)


@torch.no_grad()
def adapter_weights(net: Any) -> dict[str, Tensor]:
    """The weights of a model's adapters, by PEFT's names."""
    from peft import get_peft_model_state_dict

    tensors = get_peft_model_state_dict(net, save_embedding_layers=False)
    return {PREFIX + name: whole(tensor).contiguous() for name, tensor in tensors.items()}


def save_adapters(net: Any, folder: Path, weights: dict[str, Tensor] | None = None) -> None:
    """Write a model's adapters as PEFT loads them beside their base, and the configuration of that."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights or adapter_weights(net), folder / WEIGHTS)
    net.peft_config["default"].save_pretrained(folder)
    net.config.save_pretrained(folder)


@torch.no_grad()
def merged_weights(net: Any) -> dict[str, Tensor]:
    """The model's weights by the names they have without adapters, with what each adapter learnt in its layer."""
    from peft.tuners.lora import LoraLayer
    from peft.tuners.trainable_tokens import TrainableTokensLayer

    kinds = (LoraLayer, TrainableTokensLayer)
    adapted = {name: module for name, module in net.named_modules() if isinstance(module, kinds)}
    weights = {}
    for name, tensor in net.state_dict().items():
        if "lora_" in name or ".trainable_tokens_" in name:
            continue
        layer, _, rest = name.partition(".base_layer.")
        if rest == "weight" and layer in adapted:
            if isinstance(adapted[layer], LoraLayer):
                product = whole(adapted[layer].get_delta_weight("default"))
                tensor = (whole(tensor).float() + product.float()).to(tensor.dtype)
            else:
                tensor = adapted[layer].get_merged_weights(["default"])
        layer = layer.removesuffix(".token_adapter")
        weights[f"{layer}.{rest}" if rest else layer] = whole(tensor)
    return weights
