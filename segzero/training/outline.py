"""A policy's class without weights: its keys and shapes, for what must be known before any weight is read."""

from pathlib import Path
from typing import Any

from segzero.errors import UserError, one_line
from segzero.policy.checkpoint import read_config


def outline(path: str | Path) -> tuple[Any, Any]:
    """The config and the model of a checkpoint; the model's tensors have shapes, and take no memory."""
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    read_config(path)  # its numbers are such that this takes no more than seconds
    try:
        config = AutoConfig.from_pretrained(path, trust_remote_code=False)
        with torch.device("meta"):
            model = AutoModelForImageTextToText.from_config(config, trust_remote_code=False)
    except ImportError:
        raise
    except Exception as error:  # a config can be wrong in many ways, and each has its own exception
        raise UserError(f"config.json in {path} makes no model: {one_line(error)}") from error
    return config, model
