"""The base package stays light: no torch, and quick to start."""

import json
import subprocess
import sys
import time

import pytest

HEAVY = {"torch", "transformers", "vllm", "datasets", "verl", "ray", "supervision", "matplotlib"}
LIGHT_MODULES = [
    "segzero", "rewards", "segzero.cli.main", "segzero.answer", "segzero.prompts", "segzero.frames", "segzero.masks",
    "segzero.images", "segzero.result", "segzero.sample", "segzero.evaluation.metrics", "segzero.shipped",
    "segzero.evaluation.html_report", "segzero.policy", "segzero.segmenter", "segzero.pipeline", "segzero.tiny",
    "segzero.cli.doctor", "segzero.batch_inference", "segzero.dialogue",
]  # fmt: skip


def test_light_modules_import_nothing_heavy():
    code = (
        "import importlib, json, sys\n"
        f"for name in {LIGHT_MODULES!r}: importlib.import_module(name)\n"
        "print(json.dumps(sorted({m.split('.')[0] for m in sys.modules})))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert HEAVY & set(json.loads(loaded)) == set()


@pytest.mark.parametrize("command", [["-c", "import segzero"], ["-c", "import rewards"], ["-m", "segzero", "--help"]])
def test_start_takes_under_a_second(command):
    def seconds() -> float:
        begin = time.perf_counter()
        subprocess.run([sys.executable, *command], capture_output=True, check=True)
        return time.perf_counter() - begin

    assert min(seconds() for _ in range(3)) < 1.0


def test_public_names_are_imported_when_they_are_used():
    code = (
        "import json, sys\n"
        "import segzero\n"
        "listed, before = dir(segzero), sorted(sys.modules)\n"
        "from segzero import SegZeroPipeline, Segmentation\n"
        "print(json.dumps([listed, before, SegZeroPipeline.__module__, Segmentation.__module__]))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    listed, loaded, *modules = json.loads(shown)
    assert {"SegZeroPipeline", "Segmentation", "__version__"} <= set(listed)
    assert {name for name in loaded if name.startswith("segzero")} == {"segzero"}
    assert not {"torch", "numpy", "PIL"} & set(loaded)
    assert modules == ["segzero.pipeline", "segzero.result"]


def test_public_names_are_those_of_their_modules():
    import segzero
    from segzero.pipeline import SegZeroPipeline
    from segzero.result import Segmentation

    assert segzero.SegZeroPipeline is SegZeroPipeline and segzero.Segmentation is Segmentation
    with pytest.raises(AttributeError, match="module 'segzero' has no attribute 'Pipeline'"):
        _ = segzero.Pipeline
