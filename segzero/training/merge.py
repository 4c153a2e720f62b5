"""`segzero merge`: turn the shards of a training checkpoint into an ordinary Hugging Face folder.

Tensors are read, converted and written one by one, so the peak of memory is a few times the largest tensor, not the
model. Every key, shape and dtype is checked against the model's own class before a byte is written; the folder
appears under its name only when it is whole.

>>> merge("runs/run/global_step_200", "my_policy", dtype="bfloat16")                       # doctest: +SKIP
PosixPath('my_policy')
"""

import json
import math
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from segzero.errors import UserError
from segzero.io import new_folder
from segzero.training.model_card import base_model, make_cards, read_run
from segzero.training.model_shape import build_empty_model
from segzero.training.shards import Shards, actor_folder

FILE_BYTES = 5 << 30  # of tensors per safetensors file
_DTYPES = {
    "bfloat16": (torch.bfloat16, "BF16"),
    "float16": (torch.float16, "F16"),
    "float32": (torch.float32, "F32"),
}
_WEIGHTS = ("safetensors", "bin", "pt")  # not copied from huggingface/: they would be older than ours
_PEFT = "base_model.model."  # PEFT's prefix of names


@dataclass(frozen=True)
class Entry:
    """One tensor to write: its name and shape on disk, and a function that makes it with a dtype."""

    name: str
    shape: tuple[int, ...]
    make: Callable[[torch.dtype], torch.Tensor]

    @property
    def numel(self) -> int:
        return math.prod(self.shape)


def merge(source: str | Path, out: str | Path, dtype: str = "bfloat16", card: Mapping[str, Any] | None = None) -> Path:
    """Merge `source`, a `global_step_N` folder or the `actor` folder in it, into the new folder `out`.

    LoRA adapters are merged into the weights. `card` adds lines to the model card.
    """
    folder, out = actor_folder(source), Path(out)
    check_target(out, dtype)
    if not (folder / "huggingface" / "config.json").is_file():
        place = folder / "huggingface"
        raise UserError(f"no {place}/config.json beside the shards; copy the base model's config and processor there")
    cards = make_cards(folder, dtype, card or {})
    shards = Shards(folder)
    _, model = build_empty_model(folder / "huggingface")
    entries = _entries(shards, model, _adapter_scale(folder, shards))
    with new_folder(out) as unfinished:
        _copy_small_files(folder / "huggingface", unfinished)
        write_safetensors(entries, unfinished, dtype)
        for name, text in cards.items():
            (unfinished / name).write_text(text)
    return out


def export_adapter(source: str | Path, out: str | Path, dtype: str = "bfloat16") -> Path:
    """Write only the LoRA adapter of a checkpoint, as PEFT loads it beside the base model."""
    folder, out = actor_folder(source), Path(out)
    check_target(out, dtype)
    shards = Shards(folder)
    names = [name for name in shards.shapes if "lora_" in name]
    if not names:
        raise UserError(f"{folder} holds no adapter: the run trained the whole model; merge it instead")
    saved = {name: name.replace(".default.weight", ".weight") for name in names}
    entries = [Entry(saved[name], shards.shapes[name], _maker(shards, name, None)) for name in names]
    run = read_run(folder)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model(run) if run else None,
        # Whole names, because the vision tower has layers of the same names.
        "target_modules": sorted({name.rpartition(".lora_")[0].removeprefix(_PEFT) for name in names}),
        "inference_mode": True,
        **_adapter_numbers(folder),
    }
    with new_folder(out) as unfinished:
        (unfinished / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")
        write_safetensors(entries, unfinished, dtype, "adapter_model")
    return out


def check_target(out: Path, dtype: str) -> None:
    """Refuse a dtype that is unknown, and a place where something is already."""
    if dtype not in _DTYPES:
        raise UserError(f"unknown dtype {dtype!r}; use one of {', '.join(_DTYPES)}")
    if out.exists() and any(out.iterdir() if out.is_dir() else [out]):
        raise UserError(f"{out} is there already; choose another folder or remove it")


def _entries(shards: Shards, model: Any, scale: float | None) -> list[Entry]:
    """Tensors to write, checked against the model; named as `save_pretrained` would name them."""
    wanted = model.state_dict()
    on_disk = _names_on_disk(model, wanted)
    older = {disk: name for name, disk in on_disk.items()}  # transformers before 4.52 used those names in memory
    plain = {}
    for saved in shards.shapes:
        if "lora_" not in saved:
            name = _plain_name(saved)
            plain[name if name in wanted else older.get(name, name)] = saved
    if scale is not None and not plain:
        raise UserError("the shards hold an adapter only; export it, and load it beside its base model")
    tied = set(getattr(model, "all_tied_weights_keys", None) or {})
    for name in sorted(wanted.keys() - plain.keys() - tied):
        raise UserError(f"the shards lack {name!r}, which the model has; they are not of this model, or damaged")
    for name in sorted(plain.keys() - wanted.keys()):
        raise UserError(f"the shards hold {name!r}, which the model does not have; they are not of this model")
    for name, saved in plain.items():
        shape, dtype = tuple(wanted[name].shape), shards.dtypes[saved]
        if shards.shapes[saved] != shape:
            raise UserError(f"{name!r} has the shape {shards.shapes[saved]} in the shards, {shape} in the model")
        if not dtype.is_floating_point:
            raise UserError(f"{name!r} is {str(dtype).removeprefix('torch.')} in the shards; weights are floats")
    kept = [name for name in plain if name not in tied]
    return [Entry(on_disk[name], tuple(wanted[name].shape), _maker(shards, plain[name], scale)) for name in kept]


def _maker(shards: Shards, saved: str, scale: float | None) -> Callable[[torch.dtype], torch.Tensor]:
    """A function that makes a tensor; with an adapter, its product is added in float32."""
    if not saved.endswith(".base_layer.weight") or scale is None:
        return lambda dtype: shards.whole(saved, dtype)
    stem = saved.removesuffix(".base_layer.weight")

    def merged(dtype: torch.dtype) -> torch.Tensor:
        a, b = (shards.whole(f"{stem}.lora_{side}.default.weight", torch.float32) for side in "AB")
        return shards.whole(saved, torch.float32).addmm_(b, a, alpha=scale).to(dtype)

    return merged


def _plain_name(name: str) -> str:
    """The model's own name of a tensor, without PEFT's additions."""
    return name.removeprefix(_PEFT).replace(".base_layer.", ".")


def _adapter_scale(folder: Path, shards: Shards) -> float | None:
    if not any("lora_" in name for name in shards.shapes):
        return None
    numbers = _adapter_numbers(folder)
    return numbers["lora_alpha"] / numbers["r"]


def _adapter_numbers(folder: Path) -> dict[str, int]:
    """Rank and alpha of an adapter, which verl saves beside it."""
    try:
        meta = json.loads((folder / "lora_train_meta.json").read_text())
        numbers = {name: int(meta[name]) for name in ("r", "lora_alpha")}
        if numbers["r"] < 1:
            raise ValueError("an adapter's rank is at least 1")
        return numbers
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise UserError(f"{folder}/lora_train_meta.json, with the adapters' r and lora_alpha, can't be read") from error


def _names_on_disk(model: Any, names: Iterable[str]) -> dict[str, str]:
    """Names on disk by name in memory; transformers renames weights when it saves, here empty ones."""
    from transformers.core_model_loading import revert_weight_conversion

    marks = {name: torch.empty(index, device="meta") for index, name in enumerate(names)}
    saved = {tensor.shape[0]: name for name, tensor in revert_weight_conversion(model, dict(marks)).items()}
    return {name: saved[index] for index, name in enumerate(marks)}


def write_safetensors(entries: list[Entry], folder: Path, dtype: str, stem: str = "model") -> None:
    """Write one file, or several with an index, one tensor at a time."""
    target, tag = _DTYPES[dtype]
    width = target.itemsize
    files = list(_into_files(sorted(entries, key=lambda entry: entry.name), width))
    names = (
        [f"{stem}.safetensors"]
        if len(files) == 1
        else [f"{stem}-{i + 1:05}-of-{len(files):05}.safetensors" for i in range(len(files))]
    )
    for name, listed in zip(names, files, strict=True):
        _write_file(folder / name, listed, target, tag)
    if len(files) > 1:
        places = {entry.name: name for name, listed in zip(names, files, strict=True) for entry in listed}
        total = sum(entry.numel for entry in entries) * width
        index = {"metadata": {"total_size": total}, "weight_map": places}
        (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def _into_files(entries: list[Entry], width: int) -> Iterator[list[Entry]]:
    listed: list[Entry] = []
    held = 0
    for entry in entries:
        if listed and held + entry.numel * width > FILE_BYTES:
            yield listed
            listed, held = [], 0
        listed.append(entry)
        held += entry.numel * width
    yield listed


def _write_file(path: Path, entries: list[Entry], dtype: torch.dtype, tag: str) -> None:
    """Write a safetensors file: the header's length, the header as JSON, then the tensors' bytes."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for entry in entries:
        end = offset + entry.numel * dtype.itemsize
        header[entry.name] = {"dtype": tag, "shape": list(entry.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        for entry in entries:
            tensor = entry.make(dtype)
            assert tuple(tensor.shape) == entry.shape and tensor.is_contiguous(), entry.name
            out.write(memoryview(tensor.reshape(-1).view(torch.uint8).numpy()))


def _copy_small_files(source: Path, target: Path) -> None:
    for file in source.iterdir():
        if (
            file.is_file()
            and _stays_inside(file)
            and not file.name.endswith(_WEIGHTS)
            and not file.name.endswith(".index.json")
        ):
            shutil.copy2(file, target / file.name)


def _stays_inside(file: Path) -> bool:
    """Whether a file is not a link, or is a link inside the hub's cache; other links may lead out of the checkpoint."""
    if not file.is_symlink():
        return True
    model = next((folder for folder in file.absolute().parents if folder.name.startswith("models--")), None)
    return model is not None and file.resolve().is_relative_to(model.resolve() / "blobs")
