"""Choice of the device that a model runs on."""

import torch

from segzero.errors import UserError


def find_device(name: str) -> torch.device:
    """Find a device by PyTorch's name; `auto` is CUDA if there is a GPU, else the CPU."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # an unknown name, or no such device here
        raise UserError(f"can't use device {name!r}: {str(error).splitlines()[0]}") from None
    return device
