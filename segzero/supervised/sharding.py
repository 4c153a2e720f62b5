"""Weights divided over processes (PyTorch's FSDP2), and whole again where they are written.

Each layer of the language model is a unit whose weights are gathered when it computes; everything else of the network
is one more. A state holds whole tensors, so that a run may go on with another number of processes.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils._pytree import tree_map


def shard(net: Any) -> None:
    """Divide a vision-language model's weights over all processes, in place."""
    from torch.distributed.fsdp import fully_shard

    for layer in net.get_decoder().layers:
        fully_shard(layer)
    fully_shard(net)


def whole(tensor: Tensor) -> Tensor:
    """Gather a divided tensor; all processes must ask for it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def whole_state(state: Any) -> Any:
    """Gather every tensor of an optimizer's state."""
    return tree_map(lambda value: whole(value) if isinstance(value, Tensor) else value, state)


@torch.no_grad()
def put(parameter: nn.Parameter, value: Tensor) -> None:
    """Set a parameter, divided or not, to a whole tensor."""
    parameter.copy_(_like(parameter, value))


def divided_state(state: dict[str, Any], trained: list[nn.Parameter]) -> dict[str, Any]:
    """Divide an optimizer's whole state as the parameters are, which it numbers in their order."""
    moments = {
        number: {
            name: _like(trained[number], value) if value.shape == trained[number].shape else value
            for name, value in kept.items()
        }
        for number, kept in state["state"].items()
    }
    return {**state, "state": moments}


def _like(parameter: nn.Parameter, value: Tensor) -> Tensor:
    """Divide a whole tensor as a parameter is."""
    if isinstance(parameter, DTensor):
        return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)
    return value
