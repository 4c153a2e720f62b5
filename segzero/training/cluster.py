"""Ray for a run: a Ray of its own on one machine, or the cluster that the configuration names."""

import os
import sys
from uuid import uuid4

from omegaconf import DictConfig, OmegaConf

from segzero.errors import UserError, one_line
from segzero.training.verl_glue.patches import fewer_ray_processes

# On one node nothing listens where another machine could reach it: TransferQueue unpickles what any client sends.
LOOPBACK = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # makes Ray bind to 127.0.0.1, as it does by default on macOS
    "GLOO_SOCKET_IFNAME": "lo" if sys.platform == "linux" else "lo0",
    "SEGZERO_LOOPBACK": "1",  # patches.stores_on_loopback
}
RUN = "SEGZERO_RUN"  # the run's own name, for patches.tell_runs_apart
INHERITED = ("VERL_", "VLLM_", "TQ_", "TQDM_", "TRANSFER_QUEUE_", "OMP_", "TORCH_", "GLOO_", "SEGZERO_LOOPBACK", RUN)


def is_own_ray(config: DictConfig) -> bool:
    """Whether the run starts its own Ray for one node; a cluster that is already running has its own addresses."""
    return config.trainer.nnodes == 1 and config.ray_kwargs.ray_init.get("address") in (None, "local")


def start_ray(config: DictConfig) -> None:
    """Start or join Ray, with this process's settings in the environment of every worker."""
    import ray

    os.environ[RUN] = uuid4().hex
    options = OmegaConf.to_container(config.ray_kwargs.ray_init)
    assert isinstance(options, dict)
    options.setdefault("address", "local")  # not a cluster that happens to run on this machine
    given = {name: value for name, value in (options.pop("runtime_env", None) or {}).items() if value is not None}
    if is_own_ray(config):  # its workers inherit this process's environment; without one of their own, they start ahead
        fewer_ray_processes(logs=bool(options.get("log_to_driver")))
        os.environ.setdefault("RAY_preload_python_modules", "segzero.training.collector")
    else:
        inherited = {name: value for name, value in os.environ.items() if name.startswith(INHERITED)}
        given["env_vars"] = inherited | given.get("env_vars", {})
    options["runtime_env"] = given or None
    try:
        ray.init(logging_level="warning", **{str(k): v for k, v in options.items() if v is not None})
    except ConnectionError as error:
        raise UserError(
            f"can't join the Ray cluster at ray_kwargs.ray_init.address={options['address']}: {one_line(error)}. Is it "
            f"up (`ray status`)? If its `ray start` said that token authentication is enabled, set RAY_AUTH_MODE=token"
        ) from error


def stop_ray() -> None:
    """Leave Ray, and stop it if this run started it."""
    import ray

    if ray.is_initialized():
        ray.shutdown()
