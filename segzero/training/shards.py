"""Shards of a training checkpoint, read as whole tensors without holding the model in memory.

A checkpoint's `actor` folder holds one file per rank, `model_world_size_4_rank_0.pt` and so on: named DTensors, as
FSDP, FSDP2 and hybrid sharding save them. The files are mapped into memory. A mapped page counts as this process's
memory once it was read, so pages are released as soon as their tensor is copied.

>>> shards = Shards(actor_folder("runs/run/global_step_200"))                              # doctest: +SKIP
>>> shards.whole("lm_head.weight", torch.bfloat16).shape                                   # doctest: +SKIP
torch.Size([151936, 2048])
"""

import ctypes
import logging
import mmap
import re
import sys
import zipfile
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from segzero.errors import UserError, one_line

_FILE = re.compile(r"model_world_size_(\d{1,9})_rank_(\d{1,9})\.pt")
_MOST_PICKLED = 64 << 20  # bytes of a shard's pickled description, which takes a few hundred per tensor
_MALFORMED = (AttributeError, IndexError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError)


def actor_folder(source: str | Path) -> Path:
    """The folder that holds the shards: `source`, or the `actor` in it."""
    source = Path(source)
    for folder in (source / "actor", source):
        if any(_FILE.fullmatch(path.name) for path in folder.glob("*.pt")):
            return folder
    raise UserError(f"no shards in {source}: give a folder global_step_N, or the actor folder in it")


class Shards:
    """Shards of all ranks; `shapes` and `dtypes` are those of the whole tensors."""

    def __init__(self, folder: Path) -> None:
        matches = {m for path in folder.glob("*.pt") if (m := _FILE.fullmatch(path.name))}
        sizes = {int(match[1]) for match in matches}
        if len(sizes) != 1:
            raise UserError(f"{folder} holds shards of different world sizes: {sorted(sizes)}; keep one set")
        [size] = sizes
        present = {int(match[2]) for match in matches}
        missing = list(islice((rank for rank in range(size) if rank not in present), 8))
        if missing:
            raise UserError(f"{folder} lacks the shards of ranks {missing} of {size}; copy them here")
        self.ranks = [_load(folder / f"model_world_size_{size}_rank_{rank}.pt") for rank in range(size)]
        first = self.ranks[0]
        self.shapes = {name: tuple(tensor.shape) for name, tensor in first.items()}
        self.dtypes = {name: tensor.dtype for name, tensor in first.items()}
        for rank, shard in enumerate(self.ranks):
            described = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in shard.items()}
            expected = {name: (self.shapes[name], self.dtypes[name]) for name in first}
            odd = sorted(name for name in first.keys() | shard.keys() if described.get(name) != expected.get(name))
            if odd:
                raise UserError(f"the shards of ranks 0 and {rank} disagree about {odd[0]!r}; one is damaged")

    def whole(self, name: str, dtype: torch.dtype) -> torch.Tensor:
        """Assemble one tensor from its shards, with that dtype."""
        shape = torch.Size(self.shapes[name]) or torch.Size([1])
        try:
            dim, pieces = self._pieces(name)
            pieces = [torch.atleast_1d(_plain(piece)) for piece in pieces]
            lengths = [piece.shape[dim] for piece in pieces]
            sides = {(*piece.shape[:dim], sum(lengths), *piece.shape[dim + 1 :]) for piece in pieces}
        except UserError:
            raise
        except _MALFORMED as error:
            reason = one_line(error, 200)
            raise UserError(f"{name!r} can't be put together from its shards ({reason}); one is damaged") from error
        if sides != {tuple(shape)}:  # before memory is allocated for it
            raise UserError(f"the shards of {name!r} do not make up {self.shapes[name]}; one is damaged")
        target = torch.empty(shape, dtype=dtype)
        for place, piece in zip(target.split(lengths, dim), pieces, strict=True):
            place.copy_(piece)
            _release(piece)
        return target.reshape(self.shapes[name])

    def _pieces(self, name: str) -> tuple[int, list[torch.Tensor]]:
        """The dimension along which a tensor is cut, and its pieces in order."""
        from torch.distributed.tensor import DTensor

        tensors = [shard[name] for shard in self.ranks]
        first = tensors[0]
        if not isinstance(first, DTensor):
            return 0, [first]  # a copy on every rank
        cuts = [place for place, placement in enumerate(first.placements) if not placement.is_replicate()]
        if not cuts:
            return 0, [first._local_tensor]
        [cut, *more] = cuts
        if more or not first.placements[cut].is_shard():
            raise UserError(f"{name!r} is sharded as {first.placements}, which can't be merged here")
        dim, mesh = first.placements[cut].dim, first.device_mesh.mesh
        if not 0 <= dim < max(1, first.dim()):
            raise ValueError(f"it is cut along dimension {dim} of {first.dim()}")
        if mesh.numel() > len(tensors):
            raise ValueError(f"it lies on {mesh.numel()} ranks of {len(tensors)}")
        ranks = mesh.movedim(cut, -1).reshape(-1, mesh.shape[cut])[0].tolist()  # the first replica's
        if min(ranks) < 0:
            raise ValueError("it lies on ranks below 0")
        return dim, [tensors[rank]._local_tensor for rank in ranks]


def _plain(piece: Any) -> torch.Tensor:
    """Check that all elements of a piece lie in the file: strides could expand a few bytes to any number."""
    if type(piece) not in (torch.Tensor, torch.nn.Parameter) or piece.layout is not torch.strided:
        raise TypeError(f"a piece is not a plain tensor but {type(piece).__name__}")
    if piece.device.type != "cpu" or piece.numel() * piece.element_size() > piece.untyped_storage().nbytes():
        raise ValueError("a piece has more elements than bytes in the file")
    return piece


def _load(path: Path) -> dict[str, torch.Tensor]:
    """Read a shard without running code that it may contain."""
    import torch.distributed.tensor  # makes DTensor a type that weights_only accepts

    # It warns for every shard that torch.compile won't find the process groups.
    logging.getLogger("torch.distributed.device_mesh").setLevel(logging.ERROR)
    try:
        _check_stored(path)
        with torch.serialization.safe_globals(_older_names()):
            state = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except Exception as error:
        raise UserError(f"{path} can't be read as a shard: {one_line(error, 200)}") from error
    named = isinstance(state, dict) and all(isinstance(name, str) for name in state)
    if not named or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise UserError(f"{path} is not a model shard: it should hold named tensors")
    return state


def _check_stored(path: Path) -> None:
    """Refuse compressed parts, which may be far larger than the file, and a huge description: torch writes neither."""
    with zipfile.ZipFile(path) as parts:
        for part in parts.infolist():
            if part.compress_type != zipfile.ZIP_STORED or part.file_size != part.compress_size:
                raise ValueError("its parts are packed, which torch does not do")
            if part.filename.endswith(".pkl") and part.file_size > _MOST_PICKLED:
                raise ValueError(f"its description has {part.file_size >> 20} MiB")


def _older_names() -> list:
    """Harmless classes under the names they had in the torch versions that saved released checkpoints."""
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


def _release(piece: torch.Tensor) -> None:
    """Release the pages of a mapped tensor; they are read from the file again when needed.

    The content of a tensor that is not mapped would be lost. `_load` maps all that it returns.
    """
    if sys.platform != "linux":
        return
    storage = piece.untyped_storage()
    first = -(-storage.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
    end = (storage.data_ptr() + storage.nbytes()) // mmap.PAGESIZE * mmap.PAGESIZE
    if end > first:
        ctypes.CDLL(None).madvise(ctypes.c_void_p(first), ctypes.c_size_t(end - first), mmap.MADV_DONTNEED)
