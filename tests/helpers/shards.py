"""A checkpoint as verl saves it, made in one process: each rank's DTensors under torch's fake process group."""

import json
import os
import shutil
from pathlib import Path

import torch
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.testing._internal.distributed.fake_pg import FakeStore


def save_shards(model, processor, folder: Path, world: int = 3, state: dict | None = None, replicas: int = 1) -> Path:
    """`folder/actor` with shards of the model's state, its config and its processor.

    `world` ranks hold a replica together; more than one is FSDP's hybrid sharding.
    """
    actor = folder / "actor"
    (actor / "huggingface").mkdir(parents=True)
    state = state or model.state_dict()
    ranks = world * replicas
    for rank in range(ranks):
        distributed.init_process_group("fake", store=FakeStore(), rank=rank, world_size=ranks)
        try:
            if replicas > 1:
                mesh = init_device_mesh("cpu", (replicas, world), mesh_dim_names=("ddp", "fsdp"))
            else:
                mesh = init_device_mesh("cpu", (world,), mesh_dim_names=("fsdp",))
            shard = {name: _local(tensor, mesh, rank % world, world) for name, tensor in state.items()}
            torch.save(shard, actor / f"model_world_size_{ranks}_rank_{rank}.pt")
        finally:
            distributed.destroy_process_group()
    (actor / "fsdp_config.json").write_text(json.dumps({"FSDP_version": 2, "world_size": ranks}))
    model.config.save_pretrained(actor / "huggingface")
    model.generation_config.save_pretrained(actor / "huggingface")
    processor.save_pretrained(actor / "huggingface")
    return actor


def _local(tensor: torch.Tensor, mesh, rank: int, world: int) -> DTensor:
    chunks = list(tensor.detach().chunk(world)) if tensor.dim() else [tensor]
    empty = tensor.detach()[:0]
    local = (chunks[rank] if rank < len(chunks) else empty).clone()
    placements = [Replicate()] * (mesh.ndim - 1) + [Shard(0)]
    return DTensor.from_local(
        local, mesh, placements, run_check=False, shape=tensor.shape, stride=tensor.contiguous().stride()
    )


def light_copy(checkpoint: Path, folder: Path) -> Path:
    """The actor folder of a copy whose shards are hard links."""
    shutil.copytree(checkpoint, folder / "global_step_7", copy_function=os.link)
    place = folder / "global_step_7" / "actor"
    for file in (place / "huggingface").iterdir():  # these may be written to
        text = file.read_bytes()
        file.unlink()
        file.write_bytes(text)
    return place
