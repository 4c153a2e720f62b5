"""Plugin that verl loads in each of its processes, through the entry point group `verl.plugins`.

verl ignores a plugin that fails to load, so `launch` also names it in VERL_USE_EXTERNAL_MODULES, where a failure stops
the process. Importing it again has no effect.
"""

import os

from verl.plugin.platform.platform_manager import PlatformRegistry

from segzero.training.stall import offer_stacks
from segzero.training.verl_glue import patches
from segzero.training.verl_glue.cpu_platform import PlatformCPU

installed: list[str] = []  # patches applied in this process


def install() -> None:
    """Register the CPU platform and apply the patches that this process needs."""
    if installed:
        return
    offer_stacks()
    chosen = list(patches.EVERYWHERE)
    if os.environ.get("SEGZERO_LOOPBACK") == "1":
        chosen.append(patches.stores_on_loopback)
    if os.environ.get("VERL_PLATFORM") == "cpu":  # otherwise verl could choose it where it finds no GPU
        PlatformRegistry.register("cpu")(PlatformCPU)
        chosen += patches.ON_CPU
        if patches.in_rollout():
            chosen.append(patches.keep_linear_weights)
    for patch in chosen:
        patch()
        installed.append(patch.__name__)


install()
