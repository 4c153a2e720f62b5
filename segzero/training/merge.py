"""`segzero merge`: the shards of a training checkpoint become an ordinary Hugging Face folder.

Shards are mapped into memory and read tensor by tensor, so the peak is a few times the largest tensor and not
the model. Every key, shape and dtype is checked against the model's own class before a byte is written; the
folder appears under its name only when it is whole.

>>> merge("runs/run/global_step_200", "my_policy", dtype="bfloat16")                       # doctest: +SKIP
PosixPath('my_policy')
"""

import json
import math
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from segzero.errors import UserError

FILE_BYTES = 5 << 30  # of tensors in one safetensors file
_SHARD = re.compile(r"model_world_size_(\d+)_rank_(\d+)\.pt")
_DTYPES = {
    "bfloat16": (torch.bfloat16, "BF16"),
    "float16": (torch.float16, "F16"),
    "float32": (torch.float32, "F32"),
}
_WEIGHTS = ("safetensors", "bin", "pt")  # not copied from huggingface/: they would be older than ours


@dataclass(frozen=True)
class Entry:
    """One tensor to write: its name and shape on disk, and how to make it."""

    name: str
    shape: tuple[int, ...]
    make: Callable[[], torch.Tensor]

    @property
    def numel(self) -> int:
        return math.prod(self.shape)


def merge(source: str | Path, out: str | Path, dtype: str = "bfloat16", card: Mapping[str, Any] | None = None) -> Path:
    """Merge `source`, a `global_step_N` folder or the `actor` folder in it, into the new folder `out`.

    LoRA adapters are merged into the weights. `card` adds lines to the model card.
    """
    if dtype not in _DTYPES:
        raise UserError(f"unknown dtype {dtype!r}; use one of {', '.join(_DTYPES)}")
    folder, out = actor_folder(source), Path(out)
    if out.exists() and any(out.iterdir() if out.is_dir() else [out]):
        raise UserError(f"{out} is there already; choose another folder or remove it")
    shards = Shards(folder)
    model = _empty_model(folder / "huggingface")
    entries = _entries(shards, model, _adapter_scale(folder, shards))
    unfinished = out.with_name(f".{out.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        unfinished.mkdir(parents=True)
        _copy_small_files(folder / "huggingface", unfinished)
        write_safetensors(entries, unfinished, dtype)
        _write_cards(folder, unfinished, dtype, card or {})
        if out.is_dir():
            out.rmdir()
        unfinished.rename(out)
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return out


def actor_folder(source: str | Path) -> Path:
    """The folder that holds the shards."""
    source = Path(source)
    for folder in (source / "actor", source):
        if any(_SHARD.fullmatch(path.name) for path in folder.glob("*.pt")):
            return folder
    raise UserError(f"no shards in {source}: give a folder global_step_N, or the actor folder in it")


class Shards:
    """The shards of all ranks, mapped into memory; `shapes` are the whole tensors'."""

    def __init__(self, folder: Path) -> None:
        found = {m for path in folder.glob("*.pt") if (m := _SHARD.fullmatch(path.name))}
        sizes = {int(match[1]) for match in found}
        if len(sizes) != 1:
            raise UserError(f"{folder} holds shards of different world sizes: {sorted(sizes)}; keep one set")
        [size] = sizes
        missing = sorted(set(range(size)) - {int(match[2]) for match in found})
        if missing:
            raise UserError(f"{folder} lacks the shards of ranks {missing} of {size}; copy them here")
        self.ranks = [_load(folder / f"model_world_size_{size}_rank_{rank}.pt") for rank in range(size)]
        for rank, shard in enumerate(self.ranks):
            if shard.keys() != self.ranks[0].keys():
                odd = sorted(shard.keys() ^ self.ranks[0].keys())[0]
                raise UserError(f"the shards of ranks 0 and {rank} disagree: {odd!r} is in one only")
        self.shapes = {name: tuple(tensor.shape) for name, tensor in self.ranks[0].items()}

    def whole(self, name: str) -> torch.Tensor:
        """One tensor, put together from its shards."""
        from torch.distributed.tensor import DTensor

        tensors = [shard[name] for shard in self.ranks]
        first = tensors[0]
        if not isinstance(first, DTensor):
            return first  # a copy on every rank
        placements = [p for p in first.placements if not p.is_replicate()]
        if not placements:
            return first._local_tensor
        if len(placements) > 1 or not placements[0].is_shard():
            raise UserError(f"{name!r} is sharded as {first.placements}, which can't be merged here")
        mesh = first.device_mesh
        dim = first.placements.index(placements[0])
        copies = [int(rank) for rank in _one_of_each(mesh.mesh, dim)]
        joined = torch.cat([tensors[rank]._local_tensor for rank in copies], dim=placements[0].dim)
        if tuple(joined.shape) != self.shapes[name]:
            raise UserError(
                f"{name!r} has the shape {tuple(joined.shape)}, not {self.shapes[name]}; a shard is damaged"
            )
        return joined


def _one_of_each(mesh: torch.Tensor, dim: int) -> torch.Tensor:
    """The ranks along the sharded dimension of the mesh, from the first replica."""
    return mesh.movedim(dim, -1).reshape(-1, mesh.shape[dim])[0]


def _load(path: Path) -> dict[str, torch.Tensor]:
    """A shard, without running any code that may stand in it."""
    import torch.distributed.tensor  # makes DTensor a type that weights_only accepts

    try:
        with torch.serialization.safe_globals(_older_names()):
            state = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except Exception as error:
        raise UserError(f"{path} can't be read as a shard: {' '.join(str(error).split())[:200]}") from error
    tensors = isinstance(state, dict) and all(isinstance(value, torch.Tensor) for value in state.values())
    if not tensors:
        raise UserError(f"{path} is no model shard: it should hold named tensors")
    return state


def _older_names() -> list:
    """The same harmless classes under the names they had in the torch that saved released checkpoints."""
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import DTensor, Replicate, Shard
    from torch.distributed.tensor._dtensor_spec import DTensorSpec, TensorMeta

    return [
        (DTensor, "torch.distributed._tensor.api.DTensor"),
        (DTensorSpec, "torch.distributed._tensor._dtensor_spec.DTensorSpec"),
        (TensorMeta, "torch.distributed._tensor._dtensor_spec.TensorMeta"),
        (DTensorSpec, "torch.distributed._tensor.placement_types.DTensorSpec"),
        (TensorMeta, "torch.distributed._tensor.placement_types.TensorMeta"),
        (Shard, "torch.distributed._tensor.placement_types.Shard"),
        (Replicate, "torch.distributed._tensor.placement_types.Replicate"),
        (DeviceMesh, "torch.distributed._tensor.device_mesh.DeviceMesh"),
    ]


def _empty_model(config: Path) -> Any:
    """The model's class without weights, for its keys and shapes."""
    from accelerate import init_empty_weights
    from transformers import AutoConfig, AutoModelForImageTextToText

    if not (config / "config.json").is_file():
        raise UserError(f"no {config}/config.json beside the shards; copy the base model's config and processor there")
    with init_empty_weights():
        return AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(config))


def _entries(shards: Shards, model: Any, scale: float | None) -> list[Entry]:
    """What to write, checked against the model; names as `save_pretrained` would write them."""
    plain = {_plain_name(name): name for name in shards.shapes if "lora_" not in name}
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    tied = set(getattr(model, "all_tied_weights_keys", None) or {})
    for name in sorted(wanted.keys() - plain.keys() - tied):
        raise UserError(f"the shards lack {name!r}, which the model has; they are not of this model, or damaged")
    for name in sorted(plain.keys() - wanted.keys()):
        raise UserError(f"the shards hold {name!r}, which the model does not have; they are not of this model")
    for name, saved in plain.items():
        if shards.shapes[saved] != wanted[name]:
            raise UserError(f"{name!r} has the shape {shards.shapes[saved]} in the shards, {wanted[name]} in the model")
    kept = [name for name in plain if name not in tied]
    names = _names_on_disk(model, kept)
    return [Entry(names[name], wanted[name], _maker(shards, plain[name], scale)) for name in kept]


def _maker(shards: Shards, saved: str, scale: float | None) -> Callable[[], torch.Tensor]:
    """How to make a tensor; with an adapter, its product is added in float32."""
    if not saved.endswith(".base_layer.weight") or scale is None:
        return lambda: shards.whole(saved)
    stem = saved.removesuffix(".base_layer.weight")

    def merged() -> torch.Tensor:
        a, b = (shards.whole(f"{stem}.lora_{side}.default.weight").float() for side in "AB")
        return shards.whole(saved).float().addmm(b, a, alpha=scale)

    return merged


def _plain_name(name: str) -> str:
    """The model's own name, without what PEFT puts around it."""
    return name.removeprefix("base_model.model.").replace(".base_layer.", ".")


def _adapter_scale(folder: Path, shards: Shards) -> float | None:
    if not any("lora_" in name for name in shards.shapes):
        return None
    try:
        meta = json.loads((folder / "lora_train_meta.json").read_text())
        return meta["lora_alpha"] / meta["r"]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{folder}/lora_train_meta.json, with the adapters' r and lora_alpha, can't be read") from error


def _names_on_disk(model: Any, names: Iterable[str]) -> dict[str, str]:
    """The transformers library renames weights when it loads and saves; ask it, with empty tensors."""
    from transformers.core_model_loading import revert_weight_conversion

    marks = {name: torch.empty(index, device="meta") for index, name in enumerate(names)}
    saved = {tensor.shape[0]: name for name, tensor in revert_weight_conversion(model, dict(marks)).items()}
    return {name: saved[index] for index, name in enumerate(marks)}


def write_safetensors(entries: list[Entry], folder: Path, dtype: str) -> None:
    """One file, or several with an index, a tensor at a time."""
    target, tag = _DTYPES[dtype]
    width = target.itemsize
    files = list(_into_files(sorted(entries, key=lambda entry: entry.name), width))
    names = (
        ["model.safetensors"]
        if len(files) == 1
        else [f"model-{i + 1:05}-of-{len(files):05}.safetensors" for i in range(len(files))]
    )
    for name, listed in zip(names, files, strict=True):
        _write_file(folder / name, listed, target, tag)
    if len(files) > 1:
        places = {entry.name: name for name, listed in zip(names, files, strict=True) for entry in listed}
        total = sum(entry.numel for entry in entries) * width
        index = {"metadata": {"total_size": total}, "weight_map": places}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


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
    """The safetensors format: the header's length, the header as JSON, then the tensors' bytes."""
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
            tensor = entry.make().to(dtype).contiguous()
            if tuple(tensor.shape) != entry.shape:
                raise UserError(f"{entry.name!r} came out as {tuple(tensor.shape)}, not {entry.shape}")
            out.write(memoryview(tensor.reshape(-1).view(torch.uint8).numpy()))
        out.flush()
        os.fsync(out.fileno())


def _copy_small_files(source: Path, target: Path) -> None:
    for file in source.iterdir():
        if file.is_file() and not file.name.endswith(_WEIGHTS) and not file.name.endswith(".index.json"):
            shutil.copy2(file, target / file.name)


def _write_cards(folder: Path, target: Path, dtype: str, card: Mapping[str, Any]) -> None:
    """What the checkpoint says about itself: for `read_checkpoint`, for transformers, and for people."""
    from segzero.frames import parse_frame
    from segzero.policy.checkpoint import read_checkpoint, write_card

    config = json.loads((target / "config.json").read_text())
    for name in ("dtype", "torch_dtype"):
        if name in config:
            config[name] = dtype
    (target / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    run = _run_config(folder)
    checkpoint = read_checkpoint(target)
    if run:
        data = run["data"]
        write_card(target, data["prompt"], parse_frame(data["frame"], checkpoint.frame))
    lines = {"Base model": run["actor_rollout_ref"]["model"]["path"], "Reward": run["reward"]["name"]} if run else {}
    lines |= {"Checkpoint": folder.parent.name, "Type": dtype, **card}
    text = "\n".join(f"- {name}: {value}" for name, value in lines.items())
    (target / "README.md").write_text(f"---\nlibrary_name: transformers\n---\nTrained with SegZero.\n\n{text}\n")


def _run_config(folder: Path) -> dict[str, Any] | None:
    """The configuration that `segzero train` writes into the run's folder."""
    import yaml

    file = folder.parent.parent / "config.yaml"
    return yaml.safe_load(file.read_text()) if file.is_file() else None
