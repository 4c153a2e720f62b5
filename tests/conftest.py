"""What several tests share: the shipped models, loaded once, held-out scenes, and a random model of every family."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

from tests.helpers.random_checkpoints import FAMILIES, build_checkpoint
from tests.helpers.recording import RecordingModel

settings.register_profile("segzero", deadline=None)  # a busy machine is not a failure
settings.load_profile("segzero")
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test talks to a hub
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Pass over files without a test of the tier that is asked for: importing all of them takes twenty seconds."""
    tier, *rest = config.option.markexpr.split() or [""]
    if tier not in ("slow", "training", "alone") or "or" in rest or not collection_path.match("test_*.py"):
        return None
    return f"mark.{tier}" not in collection_path.read_text(encoding="utf-8") or None


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


@pytest.fixture(scope="session")
def mask_model(tmp_path_factory) -> Path:
    """The folder of a mask model on the shipped encoders, whose head has learnt nothing."""
    from segzero import shipped
    from segzero.mask_model.prompt_model import PromptModel
    from segzero.supervised.lora import merged_weights

    folder = tmp_path_factory.mktemp("mask_model")
    model = PromptModel.start(shipped.policy_path(), shipped.segmenter_path(), "cpu")
    model.save(folder, merged_weights(model.net))
    return folder


@pytest.fixture
def run_segzero(monkeypatch, capsys) -> Callable[..., tuple[int, str, str]]:
    """Run `segzero ARGS` in this process; returns its exit code, output and error output."""
    from segzero.cli.main import main

    def run(*args: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["segzero", *map(str, args)])
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def recorded(pipeline):
    """The shipped models, which also record their calls."""
    from segzero.pipeline import SegZeroPipeline

    return SegZeroPipeline(RecordingModel(pipeline.policy), RecordingModel(pipeline.segmenter))


@pytest.fixture
def scene(held_out):
    """A scene whose question the shipped policy answers with one region at least."""
    from segzero.images import load_image

    return load_image(held_out[0].image), held_out[0].question


@pytest.fixture
def dialogue(recorded, scene):
    """A dialogue about the scene, without rounds yet."""
    from segzero.dialogue import Dialogue

    return Dialogue(scene[0], recorded)
