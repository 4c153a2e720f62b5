"""Name and device of the platform that verl chooses in a run's environment, in one line.

python -m benchmarks.gpu_check.which_platform key=value ...
"""

import sys

from segzero.training.config import compose
from segzero.training.launch import prepare_environment, resolve_config


def main() -> None:
    prepare_environment(resolve_config(compose("train", sys.argv[1:])))
    from verl.plugin.platform import get_platform

    platform = get_platform()
    print(f"platform: {platform.vendor_name} {platform.device_name}")


if __name__ == "__main__":
    main()
