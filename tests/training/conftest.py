"""Encoders of the shipped policy and of every family, and a few scenes with their images as files."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from tests.helpers.launching import TWO_STEPS, start, wait

# Before verl is imported: it then loads our plugin, whether or not the entry point is installed.
os.environ.setdefault("VERL_PLATFORM", "cpu")
os.environ.setdefault("VERL_USE_EXTERNAL_MODULES", "segzero.training.verl_glue.plugin")


@pytest.fixture(scope="session")
def policy() -> str:
    from segzero import shipped

    return os.environ.get("MODEL_PATH", str(shipped.policy_path()))


@pytest.fixture(scope="session")
def encoder(policy):
    from segzero.policy.checkpoint import read_checkpoint
    from segzero.training.tokenization import Encoder, load_processor

    return Encoder(read_checkpoint(policy), load_processor(policy))


@pytest.fixture(scope="session")
def encoders(checkpoints):
    """One encoder per family."""
    from segzero.policy.checkpoint import read_checkpoint
    from segzero.training.tokenization import Encoder, load_processor

    return {family: Encoder(read_checkpoint(path), load_processor(str(path))) for family, path in checkpoints.items()}


@pytest.fixture(scope="session")
def samples(tmp_path_factory):
    """Nine samples, one of each kind, images in files."""
    from segzero.tiny.questions import HELD_OUT_SEED, make_samples

    folder: Path = tmp_path_factory.mktemp("images")
    made = []
    for sample in make_samples(9, HELD_OUT_SEED + 31):
        path = folder / f"{sample.id}.png"
        path.write_bytes(sample.image)
        made.append(replace(sample, image=str(path)))
    return made


@pytest.fixture(scope="session")
def segmenter():
    from segzero import shipped
    from segzero.segmenter import load_segmenter

    return load_segmenter(os.environ.get("SEGMENTER_PATH", str(shipped.segmenter_path())))


@pytest.fixture(scope="session")
def scenes(tmp_path_factory):
    """A folder with train.parquet and val.parquet."""
    from segzero.data.parquet import to_parquet
    from segzero.tiny.questions import HELD_OUT_SEED, make_samples

    folder = tmp_path_factory.mktemp("scenes")
    to_parquet(make_samples(36, 11), folder / "train.parquet")
    to_parquet(make_samples(9, HELD_OUT_SEED + 11), folder / "val.parquet")
    return folder


@pytest.fixture(scope="session")
def finished_run(scenes, tmp_path_factory) -> Path:
    """The folder of a run with TWO_STEPS; tests leave it as it is."""
    run = tmp_path_factory.mktemp("finished") / "run"
    process = start(scenes, run, *TWO_STEPS)
    output = wait(process)
    assert process.returncode == 0, output[-3000:]
    return run
