"""`segzero train`: from a configuration to a finished run.

This process is the run's controller: it holds verl's trainer and the rollouts, so that no further process has to
import all of that. The others are Ray actors: one trainer per GPU, one vLLM server per replica, the TransferQueue, and
the segmenter.
"""

import math
import os
import re
import sys
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf, open_dict

from rewards import CandidateReward, find_reward
from segzero.errors import UserError, one_line
from segzero.io import lock, write_atomically
from segzero.policy.checkpoint import Checkpoint, read_checkpoint
from segzero.training import checkpoints, checks, collector
from segzero.training.attention import choose_attention
from segzero.training.cluster import LOOPBACK, is_own_ray, start_ray, stop_ray
from segzero.training.config import compose, needs_reference
from segzero.training.hardware import check_room
from segzero.training.memory import estimate_memory
from segzero.training.model_shape import shape_of
from segzero.training.progress import print_stage
from segzero.training.stall import StallLimit
from segzero.training.watchdog import cause_of_death

if TYPE_CHECKING:
    from segzero.training.trainer import Trainer

PLUGIN = "segzero.training.verl_glue.plugin"
LESS_GPU_MEMORY = (
    "lower actor_rollout_ref.actor.ppo_max_token_len_per_gpu or actor_rollout_ref.rollout.gpu_memory_utilization, turn "
    "on actor_rollout_ref.actor.fsdp_config.param_offload and optimizer_offload, use more GPUs, or LoRA"
)


def train(config_name: str = "train", overrides: Sequence[str] = ()) -> Path | None:
    """Train, and return the run's folder; with dry_run=true print what the run would do, and return None."""
    os.environ.setdefault("TQDM_DISABLE", "1")  # read when tqdm is imported; our own line says more
    config = resolve_config(compose(config_name, overrides))
    batch = checks.check(config)
    if config.dry_run:
        from segzero.training.dry_run import dry_run

        print(dry_run(config, batch), flush=True)
        return None
    memory = estimate_memory(config, batch, shape_of(config.actor_rollout_ref.model.path))
    print("\n".join([*checks.describe(config, batch), *check_room(config, memory)]), flush=True)
    run = Path(config.trainer.default_local_dir)
    with lock(run, f"another training is at work in {run}; wait for it, or set trainer.default_local_dir to another"):
        prepare_environment(config)
        try:
            with StallLimit(run, config.segzero.stall_minutes):
                return _run(config)
        finally:
            stop_ray()


def resolve_config(config: DictConfig) -> DictConfig:
    """Fill in the settings that follow from the checkpoint and the installed packages, once for all processes."""
    checkpoint = read_checkpoint(config.data.checkpoint, config.data.frame, config.data.prompt)
    with open_dict(config):
        for section in (config.data, config.actor_rollout_ref.image):
            section.frame, section.prompt = str(checkpoint.frame), checkpoint.prompt
        run = Path(config.trainer.default_local_dir).expanduser().absolute()
        config.trainer.default_local_dir = str(run)
        config.data.image_dir = str(Path(config.data.image_dir).expanduser().absolute())
        name = OmegaConf.select(config, "reward.name", throw_on_missing=False)
        if str(name).endswith(".py"):  # a candidate's file
            config.reward.name = str(Path(name).expanduser().absolute())
        choose_attention(config)
        _bound_images(config, checkpoint)
        _choose_bucket(config)
    return config


def _bound_images(config: DictConfig, checkpoint: Checkpoint) -> None:
    """Make vLLM reserve memory for the largest image of the frame, which may be far below the processor's limit."""
    limits = {"size": {"shortest_edge": checkpoint.min_pixels, "longest_edge": checkpoint.frame.most_pixels}}
    key = "actor_rollout_ref.rollout.engine_kwargs.vllm.mm_processor_kwargs"
    if OmegaConf.select(config, key) is None:
        OmegaConf.update(config, key, limits, force_add=True)


def _choose_bucket(config: DictConfig) -> None:
    """Make the buffer for sending weights as large as the largest tensor, unless its size is configured."""
    transfer = config.actor_rollout_ref.rollout.checkpoint_engine
    if transfer.update_weights_bucket_megabytes is None:
        largest = shape_of(config.actor_rollout_ref.model.path).largest
        transfer.update_weights_bucket_megabytes = max(64, math.ceil(largest * 4 / 2**20) + 1)  # float32


def prepare_environment(config: DictConfig) -> None:
    """Set the environment variables of all processes, before Ray starts: they are read during imports."""
    run = Path(config.trainer.default_local_dir)
    write_atomically(run / "config.yaml", OmegaConf.to_yaml(config).encode())
    reward = find_reward(config.reward.name)
    if isinstance(reward, CandidateReward):
        write_atomically(run / "candidate.py", reward.candidate.source.encode())
    settings = {
        "VERL_USE_EXTERNAL_MODULES": PLUGIN,  # a failure stops the process; in the entry point verl would ignore it
        "VERL_ENGINE_VENDOR": "segzero",
        "TRANSFER_QUEUE_ENABLE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONWARNINGS": "ignore",  # verl lists the engines that are not installed, in every process
        "TQ_LOGGING_LEVEL": "ERROR",
        "VLLM_LOGGING_LEVEL": "WARNING",
        "VLLM_DISABLE_COMPILE_CACHE": "1",
        "VERL_LOGGING_LEVEL": "WARN",
        "RAY_DEDUP_LOGS": "1",
        "RAY_DISABLE_IMPORT_WARNING": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "NCCL_DEBUG": "WARN",
        # verl unpickles checkpoints, which could run code of a tampered file; this allows only tensors and plain data.
        "TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1",
    }
    # Explicit, because verl's own detection fails on a GPU machine without nvidia-smi on its path.
    settings["VERL_PLATFORM"] = {"cuda": "nvidia"}.get(config.trainer.device, config.trainer.device)
    if is_own_ray(config):
        settings |= LOOPBACK
    if config.trainer.device == "cpu":
        settings |= {"OMP_NUM_THREADS": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}
        # vLLM compiles three helper functions even if it is told to be eager: 20 s for work of microseconds.
        settings |= {"TORCH_COMPILE_DISABLE": "1"}
        settings |= {"OMP_WAIT_POLICY": "PASSIVE"}  # spinning threads would take the cores from the other processes
        settings |= {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}  # one process fewer
    for name, value in settings.items():
        os.environ.setdefault(name, value)


def _run(config: DictConfig) -> Path:
    run = Path(config.trainer.default_local_dir)
    checkpoints.discard_unfinished(run)
    with open_dict(config):
        config.transfer_queue.enable = True
    print_stage("starting Ray and loading verl")
    import ray.dashboard.optional_deps  # noqa: F401  # what ray.init imports, lest two threads import it at once

    with ThreadPoolExecutor(1) as beside:  # Ray and the TransferQueue are other processes: this one would only wait
        loaded = beside.submit(_load_trainer)
        start_ray(config)
        import transfer_queue as tq

        tq.init(config.transfer_queue)
        trainer_class = loaded.result()
    collector.collect_as_usual()
    trainer = None
    try:
        validate(config)
        print_stage("reading data; starting the rollout engine's process")
        trainer = trainer_class(config)
        trainer.init()
        trainer.fit(trainer.start_rollouts())
        return run
    except Exception as error:
        explained = (trainer.watchdog.cause if trainer else None) or explain(error, run)
        if explained is None:
            raise
        raise explained from error
    finally:
        if trainer:
            trainer.watchdog.stop()
        logger = getattr(trainer, "logger", None)
        if logger is not None:
            logger.finish(exit_code=1 if sys.exc_info()[0] else 0)
        tq.close()


def _load_trainer() -> type["Trainer"]:
    """Import verl and the trainer, which takes 10 s of one core."""
    warnings.filterwarnings("ignore", module="verl")  # for each engine that is not installed
    _assert_plugin()
    from segzero.training.trainer import Trainer

    return Trainer


def validate(config: DictConfig) -> None:
    """Let verl check its part of the configuration."""
    from verl.utils.config import validate_config

    try:
        validate_config(config, use_reference_policy=needs_reference(config), use_critic=False)
    except (AssertionError, ValueError) as error:
        raise UserError(f"configuration: {one_line(error, 1000)}") from error


def _assert_plugin() -> None:
    """Check that verl imported our plugin, and that it was applied."""
    import verl  # noqa: F401

    from segzero.training.verl_glue import plugin

    assert plugin.installed, "the plugin was imported but not applied"


def explain(error: Exception, run: Path) -> UserError | None:
    """Translate a failure, here or in another process, into one line; None if the traceback is needed."""
    from ray.exceptions import RayActorError

    cause = getattr(error, "cause", None) or error
    if isinstance(cause, UserError):  # perhaps raised in another process
        return UserError(str(cause))
    if checkpoints.no_room(cause):
        checkpoints.discard_unfinished(run)
        return UserError(
            f"no room left to write to {run}: {one_line(cause)}. Its earlier checkpoints are whole; make room, or "
            f"lower segzero.keep_last, and start again"
        )
    if type(cause).__name__ == "UnpicklingError" and "Weights only load failed" in str(cause):
        return UserError(
            f"the checkpoint that {run} would resume from holds more than tensors and plain data, so it was not read: "
            f"{_refused_class(cause)}. If it comes from elsewhere, don't trust it; segzero.resume names another"
        )
    if isinstance(error, RayActorError) or type(cause).__name__ == "EngineDeadError":
        return UserError(f"a process of the run died; its checkpoints are whole. Cause: {cause_of_death(cause)}")
    if type(cause).__name__ == "OutOfMemoryError":
        return UserError(f"a GPU's memory is full: {one_line(cause)}; {LESS_GPU_MEMORY}")
    return None


def _refused_class(error: BaseException) -> str:
    """The class that torch refused to load, from its long error message."""
    match = re.search(r"[Uu]nsupported (?:global: )?(?:GLOBAL|operand) (\S+)", str(error))
    return f"it asks for {match[1]}" if match else one_line(error, 200)
