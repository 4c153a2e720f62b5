"""`segzero merge` of what supervised training left as adapters: a policy, or a mask model, becomes whole.

>>> merge_adapters("runs/sft/best", "my_policy")                                           # doctest: +SKIP
PosixPath('my_policy')
"""

from pathlib import Path

import torch

from segzero.errors import UserError
from segzero.io import new_folder
from segzero.mask_model.load import load_mask_model
from segzero.mask_model.network import ADAPTERS, CARD
from segzero.policy.adapters import base_of, is_adapter, load_base, merge_into
from segzero.policy.checkpoint import read_checkpoint, write_card
from segzero.training.merge import check_target


def merge_adapters(source: str | Path, out: str | Path, dtype: str = "bfloat16", base: str | None = None) -> Path:
    """Merge adapters in PEFT's form, or a mask model that holds such, into the new folder `out`.

    `base` stands for the base model that the adapters' card names.
    """
    source, out = Path(source), Path(out)
    check_target(out, dtype)
    if not holds_adapters(source):
        raise UserError(f"no adapters in {source}: no adapter_config.json there")
    with new_folder(out) as unfinished:
        if (source / CARD).is_file():
            _merge_mask_model(source, unfinished, dtype, base)
        else:
            _merge_policy(source, unfinished, dtype, base)
    return out


def holds_adapters(folder: Path) -> bool:
    """Whether a folder is what `merge_adapters` takes."""
    return is_adapter(folder) or (folder / CARD).is_file()


def _merge_policy(source: Path, out: Path, dtype: str, base: str | None) -> None:
    from transformers import AutoProcessor

    base = base or base_of(source)
    described = source if (source / "config.json").is_file() else base  # by ours; PEFT alone writes only the adapters
    checkpoint = read_checkpoint(described)
    merge_into(load_base(source, base), source).to(getattr(torch, dtype)).save_pretrained(out)
    AutoProcessor.from_pretrained(described, trust_remote_code=False).save_pretrained(out)
    write_card(out, checkpoint.prompt, checkpoint.frame)


def _merge_mask_model(source: Path, out: Path, dtype: str, base: str | None) -> None:
    if not is_adapter(source / ADAPTERS):
        raise UserError(f"{source} is whole already: it holds no {ADAPTERS}/")
    if base:
        raise UserError(f"a mask model's base is named in {source / ADAPTERS}/adapter_config.json; change it there")
    model = load_mask_model(source, "cpu", "float32")  # which merges
    model.save(out, model.net.to(getattr(torch, dtype)).state_dict())
