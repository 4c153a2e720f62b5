"""The CPU as one of verl's platforms, so that the same trainer runs on a laptop.

A platform provides a module shaped like torch.cuda, and the name of a Ray resource. The host provides its own memory
figures as the first, and one logical "GPU" per process as the second.
"""

import contextlib
import types
from collections.abc import Iterator
from typing import Any

import psutil
import torch
from verl.plugin.platform.platform_base import PlatformBase


class HostDevice(types.ModuleType):
    """The functions that verl calls on torch.cuda, for the host."""

    def __init__(self) -> None:
        super().__init__("segzero_host_device")

    def is_available(self) -> bool:
        return False

    def current_device(self) -> int:
        return 0

    def device_count(self) -> int:
        return 1

    def get_device_name(self, *_: Any) -> str:
        return "cpu"

    def memory_allocated(self, *_: Any) -> int:
        return psutil.Process().memory_info().rss

    memory_reserved = max_memory_allocated = max_memory_reserved = memory_allocated

    def mem_get_info(self, *_: Any) -> tuple[int, int]:
        memory = psutil.virtual_memory()
        return memory.available, memory.total

    def get_rng_state(self, *_: Any) -> torch.Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, state: torch.Tensor, *_: Any) -> None:
        torch.set_rng_state(state)

    def manual_seed(self, seed: int) -> None:
        torch.manual_seed(seed)

    manual_seed_all = manual_seed

    def _nothing(self, *_: Any, **__: Any) -> None:
        """Do nothing: there is no queue to wait for and no cache to empty."""

    set_device = synchronize = empty_cache = ipc_collect = reset_peak_memory_stats = _nothing


class PlatformCPU(PlatformBase):
    """Platform that is registered as "cpu"; VERL_PLATFORM=cpu chooses it."""

    device_name = "cpu"
    vendor_name = "cpu"
    device_module = HostDevice()

    def is_available(self) -> bool:
        return True

    def current_device(self) -> str:  # a number would mean cuda:N
        return "cpu"

    def device_count(self) -> int:
        return 1

    def set_device(self, device_index: int) -> None: ...

    def synchronize(self, device_index: int | None = None) -> None: ...

    def manual_seed(self, seed: int) -> None:
        torch.manual_seed(seed)

    def manual_seed_all(self, seed: int) -> None:
        torch.manual_seed(seed)

    def set_allocator_settings(self, settings: str) -> None: ...

    def empty_cache(self) -> None: ...

    def get_device_capability(self, device_index: int = 0) -> tuple[None, None]:
        return None, None

    def communication_backend_name(self) -> str:
        return "gloo"

    def visible_devices_envvar(self) -> str:
        return "CUDA_VISIBLE_DEVICES"

    @contextlib.contextmanager
    def nvtx_range(self, msg: str) -> Iterator[None]:
        yield

    def profiler_start(self) -> None: ...

    def profiler_stop(self) -> None: ...

    def ray_resource_name(self) -> str:
        return "GPU"  # logical ones: ray.init(num_gpus=...)

    def ray_noset_envvars(self) -> list[str]:
        return ["RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES"]

    def is_ipc_supported(self) -> bool:
        return False  # weights then travel by shared memory

    def cudart(self) -> None:
        return None
