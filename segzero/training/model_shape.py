"""Sizes of a policy, counted on its model class without memory for its weights."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from segzero.errors import UserError, one_line
from segzero.policy.checkpoint import read_config

Tensors = tuple[tuple[int, int], ...]  # of each tensor: rows, and elements per row


def build_empty_model(path: str | Path) -> tuple[Any, Any]:
    """The config and the model of a checkpoint; the model's tensors have shapes and names, but take no memory."""
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    read_config(path)  # refuses numbers with which building would take more than seconds
    try:
        config = AutoConfig.from_pretrained(path, trust_remote_code=False)
        with torch.device("meta"):
            model = AutoModelForImageTextToText.from_config(config, trust_remote_code=False)
    except ImportError:
        raise
    except Exception as error:  # a config can be wrong in many ways, and each has its own exception
        raise UserError(f"config.json in {path} makes no model: {one_line(error)}") from error
    return config, model


@dataclass(frozen=True)
class ModelShape:
    """Sizes of a Qwen-VL policy."""

    language: Tensors
    vision: Tensors  # the vision tower
    linear: tuple[tuple[int, int], ...]  # inputs and outputs of the language model's layers, for adapters
    hidden: int
    layers: int
    vision_hidden: int
    vision_layers: int
    vocabulary: int
    cache_bytes: int  # per token in vLLM's cache, bfloat16
    tied: bool  # the head is the embedding table

    @property
    def vision_parameters(self) -> int:
        """Parameters of the vision tower."""
        return _count(self.vision)

    @property
    def parameters(self) -> int:
        """Parameters of the whole model."""
        return _count(self.language) + self.vision_parameters

    @property
    def largest(self) -> int:
        """Elements of the largest tensor."""
        return max(rows * row for rows, row in (*self.language, *self.vision))

    def adapter_tensors(self, rank: int) -> Tensors:
        """Shapes of both factors of LoRA adapters on every layer of the language model."""
        return tuple(pair for inputs, outputs in self.linear for pair in ((rank, inputs), (outputs, rank)))

    def adapters(self, rank: int) -> int:
        """Parameters of LoRA adapters on the language model."""
        return _count(self.adapter_tensors(rank))


@lru_cache(maxsize=8)
def shape_of(path: str) -> ModelShape:
    """Read a checkpoint's sizes from its config.json."""
    from torch.nn import Linear

    config, model = build_empty_model(path)
    model.tie_weights()
    text, vision = config.get_text_config(), config.vision_config
    heads = text.num_key_value_heads
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    tensors: dict[bool, list[tuple[int, int]]] = {True: [], False: []}  # by whether they are the vision tower's
    for name, parameter in model.named_parameters():
        rows = parameter.shape[0]
        tensors["visual" in name.split(".")].append((rows, parameter.numel() // rows))
    return ModelShape(
        language=tuple(tensors[False]),
        vision=tuple(tensors[True]),
        linear=tuple(
            (module.in_features, module.out_features)
            for name, module in model.named_modules()
            if isinstance(module, Linear) and "visual" not in name.split(".") and not name.endswith("lm_head")
        ),
        hidden=text.hidden_size,
        layers=text.num_hidden_layers,
        vision_hidden=getattr(vision, "embed_dim", None) or vision.hidden_size,
        vision_layers=vision.depth,
        vocabulary=text.vocab_size,
        cache_bytes=text.num_hidden_layers * heads * width * 2 * 2,
        tied=bool(config.tie_word_embeddings),
    )


def _count(tensors: Tensors) -> int:
    return sum(rows * row for rows, row in tensors)
