"""What several tests share: the shipped models, loaded once, held-out scenes, and a random model of every family."""

import os
from pathlib import Path

import pytest
from random_checkpoints import FAMILIES, build_checkpoint

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test talks to a hub
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


@pytest.fixture(scope="session")
def pipeline():
    """The shipped policy (through transformers) and segmenter."""
    from segzero.pipeline import SegZeroPipeline

    return SegZeroPipeline.from_pretrained(policy_backend="transformers")


@pytest.fixture(scope="session")
def held_out():
    """Eighteen held-out samples: every kind of question twice."""
    from segzero.tiny.questions import HELD_OUT_SEED, make_samples

    return make_samples(18, HELD_OUT_SEED + 3)


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory) -> dict[str, Path]:
    """A small random checkpoint's folder for each family."""
    root = tmp_path_factory.mktemp("checkpoints")
    for family in FAMILIES:
        build_checkpoint(family, root / family)
    return {family: root / family for family in FAMILIES}
