"""Imports: what runs on the base requirements, and how little a start needs."""

import json
import re
import subprocess
import sys

import pytest

from tests.helpers.structure import modules
from tests.helpers.without_extras import run_without_extras

# Modules that import torch or another package of an extra at once; nothing else may.
NEEDS_EXTRA = re.compile(
    r"segzero\.(device|policy\.(adapters|shared_prompt|transformers|vision|vllm)"
    r"|segmenter\.(transformers|meta_weights|sam2|sam2_worker|sam3)"
    r"|tiny\.(?!questions|scenes|scene_files)\w+|training\.\w+|reward_search\.\w+|supervised\.\w+|mask_model\.(?!protocol)\w+|serving\.(?!client|examples|limits)\w+)(\.|$)"
)
LIGHT_MODULES = sorted(name for name in modules() if not NEEDS_EXTRA.match(name) and not name.endswith(".__main__"))
LOADED = "; import json; print(json.dumps(sorted(sys.modules)))"


def loaded_by(code: str) -> set[str]:
    """Names of the modules that are loaded when the code has run in a Python of its own."""
    done = subprocess.run([sys.executable, "-c", f"import sys; {code}{LOADED}"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_light_modules_import_on_the_base_requirements(tmp_path):
    assert {"segzero.pipeline", "segzero.data.prepare", "segzero.evaluation.runner", "rewards"} < set(LIGHT_MODULES)
    code = f"import importlib\nfor name in {LIGHT_MODULES!r}:\n    importlib.import_module(name)"
    done = run_without_extras(code, folder=tmp_path)
    assert done.returncode == 0, done.stderr


def test_importing_the_package_loads_nothing_else():
    ours = loaded_by("import segzero") - loaded_by("pass")
    assert {name for name in ours if name.partition(".")[0] not in sys.stdlib_module_names} == {"segzero"}


def test_importing_the_rewards_loads_no_model_and_no_command():
    loaded = {name.partition(".")[0] for name in loaded_by("import rewards")}
    assert not loaded & {"torch", "transformers", "datasets", "typer", "rich", "scipy"}


def test_help_loads_the_commands_without_what_they_run():
    """It starts as fast as Typer does: neither NumPy nor Pillow, and none of our modules that need them."""
    start = "from segzero.cli.main import app; sys.argv = ['segzero', '--help']\ntry: app()\nexcept SystemExit: pass\n0"
    loaded = loaded_by(start) - loaded_by("import typer.rich_utils, rich.markdown, rich.traceback")
    ours = {name for name in loaded if name.startswith("segzero.")}
    assert not {"numpy", "PIL", "scipy", "torch", "yaml"} & loaded
    assert {name for name in ours if not name.startswith("segzero.cli")} <= {
        "segzero.errors", "segzero.extras", "segzero.image_structure", "segzero.machine", "segzero.shipped",
    }  # fmt: skip
    assert len(loaded) < 80, sorted(loaded)


def test_public_names_are_imported_when_they_are_used():
    code = "import segzero; listed, before = dir(segzero), sorted(sys.modules); "
    code += "from segzero import SegZeroPipeline, Segmentation; "
    code += "print(*[name for name in before if name.startswith('segzero')]); print(*listed); "
    code += "print(SegZeroPipeline.__module__, Segmentation.__module__)"
    done = subprocess.run([sys.executable, "-c", f"import sys; {code}"], capture_output=True, text=True, check=True)
    before, listed, homes = done.stdout.splitlines()
    assert before == "segzero"
    assert {"SegZeroPipeline", "Segmentation", "__version__"} <= set(listed.split())
    assert homes == "segzero.pipeline segzero.result"


def test_public_names_are_those_of_their_modules():
    import segzero
    from segzero.pipeline import SegZeroPipeline
    from segzero.result import Segmentation

    assert segzero.SegZeroPipeline is SegZeroPipeline and segzero.Segmentation is Segmentation
    with pytest.raises(AttributeError, match="module 'segzero' has no attribute 'Pipeline'"):
        _ = segzero.Pipeline
