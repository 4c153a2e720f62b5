"""Checkpoints as ConverSeg publishes them: a SAM2, a language model with its head, and a folder of adapters.

    NAME_STEP.torch            {"model": a whole SAM2 in Meta's names}
    NAME_plm_STEP.torch        {"plm": the language model with adapters, as PEFT names it, and the head}
    lora_plm_adapter_STEP/     the adapters once more, as PEFT saves them

Names and shapes are compared with those of the models that they are for, before any model is built.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from segzero.errors import UserError, one_line
from segzero.io import read_json
from segzero.policy.adapters import CARD, PREFIX, WEIGHTS
from segzero.segmenter.meta_weights import read_tensors

BACKBONE, BASE_LAYER, ADAPTER_FOLDER = f"backbone.{PREFIX}", ".base_layer.", "lora_plm_adapter"
HEAD_NAMES = {"txt_norm": "norm", "to_sparse": "sparse", "to_dense": "dense"}
HEAD_NAMES |= {"scale": "sparse_scale", "temp": "dense_scale"}
PLAIN = {"use_dora": False, "use_rslora": False, "rank_pattern": {}, "alpha_pattern": {}, "modules_to_save": None}
Factors = tuple[Tensor, Tensor]  # A [rank, in] and B [out, rank] of an adapter


@dataclass(frozen=True)
class RawFiles:
    """Paths of a published checkpoint, and the models that it is for; None finds them by shapes and by the adapters."""

    sam: Path
    plm: Path
    lora: Path
    model_cfg: str | None = None
    base: str | None = None  # folder or hub name of the language model

    @classmethod
    def of_folder(cls, folder: Path) -> "RawFiles":
        """Find the files of one step in a folder; a YAML file there is SAM2's architecture."""
        plm = sorted(folder.glob("*_plm_*.torch"))
        sam = sorted(set(folder.glob("*.torch")) - set(plm))
        lora = sorted(folder.glob(f"{ADAPTER_FOLDER}*"))
        for found, what in ((sam, "NAME_STEP.torch"), (plm, "NAME_plm_STEP.torch"), (lora, f"{ADAPTER_FOLDER}_STEP")):
            if len(found) != 1:
                raise UserError(f"{folder} holds {len(found)} of ConverSeg's {what}; leave the files of one step there")
        configs = sorted(folder.glob("*.yaml"))
        return cls(sam[0], plm[0], lora[0], str(configs[0]) if configs else None)


@dataclass(frozen=True, eq=False)
class RawAdapters:
    """Adapters of a language model: by layer, the two factors of what is added to its weights, and its scale."""

    factors: dict[str, Factors]
    scale: float
    rank: int
    base: str  # of which they say that they are for


@dataclass(frozen=True, eq=False)
class RawLanguage:
    """A language model without its adapters, the adapters, and the head."""

    weights: dict[str, Tensor]
    adapters: RawAdapters
    head: dict[str, Tensor]  # by the names of `PromptHead`

    def merged(self) -> dict[str, Tensor]:
        """Weights of the language model with its adapters added."""
        weights = dict(self.weights)
        for layer, factors in self.adapters.factors.items():
            weights[f"{layer}.weight"] = weights[f"{layer}.weight"].float() + product(factors, self.adapters.scale)
        return weights


def product(factors: Factors, scale: float) -> Tensor:
    """The matrix that an adapter adds to the weights of its layer."""
    down, up = (factor.float() for factor in factors)
    return scale * (up @ down)


def read_adapters(folder: str | Path) -> RawAdapters:
    """Read a folder of adapters that PEFT wrote."""
    place = Path(folder).expanduser()
    if not (place / CARD).is_file():
        raise UserError(f"no adapters in {folder}: there is no {CARD}")
    try:
        config: dict[str, Any] = read_json(place / CARD, "peft_type")
    except ValueError as error:
        raise UserError(f"{place / CARD} can't be read: {one_line(error, 200)}") from None
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if config.get("peft_type") != "LORA" or not isinstance(rank, int) or not isinstance(alpha, int | float) or rank < 1:
        raise UserError(f"{place / CARD} describes no LoRA adapters with r and lora_alpha")
    for name, plain in PLAIN.items():
        if config.get(name) not in (None, plain):
            raise UserError(f"{place / CARD}: {name} is not supported")
    try:
        found = load_file(place / WEIGHTS)
    except Exception as error:  # safetensors has exceptions of its own
        raise UserError(f"{place / WEIGHTS} can't be read: {one_line(error, 200)}") from None
    named = {name.removeprefix(PREFIX): tensor for name, tensor in found.items()}
    return RawAdapters(_factors(named, "", place), alpha / rank, rank, str(config.get("base_model_name_or_path") or ""))


def read_language(file: Path, adapters: RawAdapters | None, scale: float = 2.0) -> RawLanguage:
    """Read the file of a language model and its head; the adapters beside it take the place of those in it.

    Without any beside it, its own are taken, for which it does not say the `scale`.
    """
    found = read_tensors(file, "plm")
    backbone = {name.removeprefix(BACKBONE): tensor for name, tensor in found.items() if name.startswith(BACKBONE)}
    own = _factors({name: tensor for name, tensor in backbone.items() if ".lora_" in name}, ".default", file)
    weights = {name.replace(BASE_LAYER, "."): t for name, t in backbone.items() if ".lora_" not in name}
    head = {_head_name(name): tensor for name, tensor in found.items() if not name.startswith("backbone.")}
    if not weights or "sparse.bias" not in head:
        raise UserError(f"{file} holds no language model with adapters and ConverSeg's head")
    adapters = adapters or RawAdapters(own, scale, len(next(iter(own.values()))[0]), "")
    shapes, others = ({layer: (a.shape, b.shape) for layer, (a, b) in f.items()} for f in (own, adapters.factors))
    if shapes != others:
        layer = next(iter(sorted(name for name in shapes | others if shapes.get(name) != others.get(name))))
        raise UserError(f"the adapters for {adapters.base or 'another base'} do not fit {file}: they differ at {layer}")
    for layer, (down, up) in adapters.factors.items():
        weight = weights.get(f"{layer}.weight", torch.empty(0))
        if weight.shape != (len(up), down.shape[1]):
            raise UserError(f"the adapters for {adapters.base or 'another base'} do not fit {file}: {layer}.weight")
    return RawLanguage(weights, adapters, head)


def _factors(weights: dict[str, Tensor], adapter: str, where: Path) -> dict[str, Factors]:
    """Pairs of factors by layer, of names LAYER.lora_A.weight and LAYER.lora_B.weight."""
    first, second = f".lora_A{adapter}.weight", f".lora_B{adapter}.weight"
    layers = sorted(name.removesuffix(first) for name in weights if name.endswith(first))
    pairs = {layer: (weights[layer + first], weights.get(layer + second, torch.empty(0))) for layer in layers}
    if not pairs or len(weights) != 2 * len(pairs):
        raise UserError(f"{where} holds no plain LoRA adapters")
    for layer, (down, up) in pairs.items():
        if down.ndim != 2 or up.ndim != 2 or len(down) != up.shape[1]:
            raise UserError(f"{where}: the adapter of {layer} has no two matrices that fit together")
    return pairs


def _head_name(name: str) -> str:
    first, _, rest = name.partition(".")
    return ".".join(filter(None, (HEAD_NAMES.get(first, first), rest)))
