"""Checks whether a run fits this machine: GPUs and their driver, CPUs that Ray hands out, memory, disk.

They run before anything starts. A dry run may be meant for another machine: it only remarks on what this one lacks.
"""

import math
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from segzero.errors import UserError
from segzero.machine import Machine, gpus_problem, this_machine
from segzero.training.memory import GIB, Memory
from segzero.training.model_shape import shape_of

BUNDLE_CPUS = 3  # verl reserves them beside each GPU: ResourcePoolManager.max_colocate_count
LEFT_GPU = 1 - 1 / BUNDLE_CPUS  # share of a GPU that its trainer leaves
LEFT_CPUS = BUNDLE_CPUS - 1
SHARED = GIB  # of /dev/shm that several GPUs need at least; containers have 64 MiB by default


def check_hardware(config: DictConfig, gpus: int, machine: Machine | None = None) -> None:
    """Refuse processes that would wait for ever, weights that could not be sent, and GPUs that are missing."""
    machine = machine or this_machine()
    device = config.trainer.device
    if device not in ("cuda", "cpu"):
        raise UserError(f"trainer.device={device}: choose cuda or cpu")
    _check_replicas(config, gpus)
    _check_segmenter(config)
    missing = missing_gpus(config, machine)
    if missing and not config.dry_run:
        raise UserError(f"{missing}; choose hardware=cpu, gpu1, gpu4 ... or set it")
    _check_cpus(config, machine, elsewhere=missing is not None)
    if not (missing or (config.dry_run and config.trainer.nnodes > 1)):
        _check_shared_memory(config, machine)


def missing_gpus(config: DictConfig, machine: Machine | None = None) -> str | None:
    """The GPUs that this machine lacks, in words, or None; of several nodes only Ray knows, once it runs."""
    if config.trainer.device != "cuda" or config.trainer.nnodes > 1:
        return None
    wanted = config.trainer.n_gpus_per_node
    problem = gpus_problem(machine or this_machine(), wanted)
    return problem and f"trainer.n_gpus_per_node={wanted}, but {problem}"


def check_room(config: DictConfig, memory: Memory, machine: Machine | None = None) -> list[str]:
    """Compare the estimate with the machine's memory: refuse what can't fit here, remark what is tight."""
    machine = machine or this_machine(Path(config.trainer.default_local_dir))
    return [*_check_memory(config, memory, machine), *_check_disk(config, memory, machine)]


def _check_memory(config: DictConfig, memory: Memory, machine: Machine) -> list[str]:
    if config.trainer.nnodes > 1 or memory.host <= 0.9 * machine.memory:
        return []
    there = machine.memory / GIB
    needs = f"the run needs about {memory.host / GIB:.0f} GiB of memory, and the machine has {there:.0f}"
    if missing_gpus(config, machine):
        return [f"remark   {needs}; the machine that it is planned for needs more"]
    if memory.host <= machine.memory:
        return [f"remark   {needs}; close what else uses it"]
    offloaded = "turn off actor_rollout_ref.actor.fsdp_config.param_offload and optimizer_offload, "
    less = offloaded if config.actor_rollout_ref.actor.fsdp_config.param_offload else ""
    raise UserError(
        f"{needs}; {less}lower actor_rollout_ref.actor.ppo_max_token_len_per_gpu or segzero.segmenter.cache_gb, take a "
        f"smaller model, or LoRA (actor_rollout_ref.model.lora_rank)"
    )


def _check_disk(config: DictConfig, memory: Memory, machine: Machine) -> list[str]:
    """Remark on a disk that checkpoints would fill; it may be emptied before the run gets there."""
    if config.trainer.save_freq <= 0 or machine.disk is None or missing_gpus(config, machine):
        return []
    there = 2 + config.segzero.keep_last  # the newest, the best, and the one being written
    if memory.checkpoint * there <= machine.disk:
        return []
    return [
        f"remark   {there} checkpoints of {memory.checkpoint / GIB:.1f} GiB will be there at once, and "
        f"{machine.disk / GIB:.1f} GiB are free; make room, lower segzero.keep_last or set trainer.default_local_dir"
    ]


def _check_replicas(config: DictConfig, gpus: int) -> None:
    width = config.actor_rollout_ref.rollout.tensor_model_parallel_size
    if not isinstance(width, int) or width < 1:
        raise UserError(
            f"actor_rollout_ref.rollout.tensor_model_parallel_size={width}: it must be a whole number from 1 on"
        )
    if gpus % width:
        raise UserError(
            f"{gpus} GPUs do not divide into replicas of tensor_model_parallel_size={width}; "
            f"change actor_rollout_ref.rollout.tensor_model_parallel_size"
        )
    logical = config.ray_kwargs.ray_init.get("num_gpus")
    if config.trainer.device == "cpu" and logical is not None and logical < gpus:
        raise UserError(
            f"{gpus} processes train, but Ray counts ray_kwargs.ray_init.num_gpus={logical} logical GPUs; "
            f"set it to {gpus}"
        )


def _check_segmenter(config: DictConfig) -> None:
    """Refuse a segmenter that needs more than the first trainer leaves: it would never become free."""
    settings = config.segzero.segmenter
    if not settings.path:
        return
    if settings.num_gpus > LEFT_GPU:
        raise UserError(
            f"segzero.segmenter.num_gpus={settings.num_gpus}: a trainer leaves {LEFT_GPU:.2f} of its GPU; lower it"
        )
    if settings.num_cpus > LEFT_CPUS:
        raise UserError(f"segzero.segmenter.num_cpus={settings.num_cpus}: a trainer leaves {LEFT_CPUS}; lower it")


def _check_cpus(config: DictConfig, machine: Machine, elsewhere: bool) -> None:
    """Refuse processes that need more CPUs than Ray counts: they would start only when others end, which none does."""
    options = config.ray_kwargs.ray_init
    if config.trainer.nnodes > 1 or options.get("address") not in (None, "local"):
        return  # `ray start` counted the CPUs
    counted = options.get("num_cpus")
    if counted is None and elsewhere:
        return
    counted = counted or machine.cpus
    queue = 1 + OmegaConf.select(config, "transfer_queue.backend.SimpleStorage.num_data_storage_units")
    needed = BUNDLE_CPUS * config.trainer.n_gpus_per_node + queue
    if counted < needed:
        raise UserError(
            f"Ray would count {counted} CPUs, and the run's processes ask for {needed}, so some would wait for ever; "
            f"set ray_kwargs.ray_init.num_cpus={needed} (they share the CPUs that there are)"
        )


def _check_shared_memory(config: DictConfig, machine: Machine) -> None:
    """Refuse a small /dev/shm: without CUDA weights are sent through it, and several GPUs exchange data there."""
    rollout = config.actor_rollout_ref.rollout
    bucket = rollout.checkpoint_engine.update_weights_bucket_megabytes * 2**20
    if config.trainer.device == "cpu":
        largest = 4 * shape_of(config.actor_rollout_ref.model.path).largest
        key = "actor_rollout_ref.rollout.checkpoint_engine.update_weights_bucket_megabytes"
        if largest > bucket:
            raise UserError(
                f"{key}={bucket >> 20} does not hold the model's largest tensor; set it to "
                f"{math.ceil(largest / 2**20) + 1}, or to null"
            )
        needed = bucket
    else:
        needed = SHARED if config.trainer.n_gpus_per_node > 1 else 0
    if machine.shared is not None and machine.shared < needed:
        raise UserError(
            f"/dev/shm has {machine.shared / 2**20:.0f} MiB, and the run needs {needed / 2**20:.0f}; start the "
            f"container with --ipc=host or --shm-size=16g"
        )
