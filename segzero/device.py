"""Where a model runs."""

import torch

from segzero.errors import UserError


def find_device(name: str) -> torch.device:
    """`auto` is CUDA where there is one."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # an unknown name, or a device that is not there
        raise UserError(f"can't use device {name!r}: {str(error).splitlines()[0]}") from None
    return device
