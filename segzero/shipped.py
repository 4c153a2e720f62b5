"""Paths of the tiny models that ship with the package: a Qwen2.5-VL policy and a SAM2, trained on synthetic scenes.

They are ordinary checkpoints; `python -m segzero.tiny` makes them anew.

>>> policy_path().name, segmenter_path().name
('policy', 'sam2')
"""

from pathlib import Path


def weights_path() -> Path:
    """The folder that holds the shipped checkpoints and their manifest."""
    return Path(__file__).with_name("tiny") / "weights"


def policy_path() -> Path:
    """The shipped policy's checkpoint."""
    return weights_path() / "policy"


def segmenter_path() -> Path:
    """The shipped segmenter's checkpoint."""
    return weights_path() / "sam2"
