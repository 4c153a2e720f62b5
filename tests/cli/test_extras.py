"""Commands on an installation without extras: one line that says what is missing and how to install it."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from rewards.search.expressions import PRESET_GENOMES, render
from segzero.data.parquet import to_parquet
from segzero.errors import UserError
from segzero.evaluation.scoring import score_sample
from segzero.extras import needs, require
from segzero.tiny.questions import make_samples
from tests.cli.test_main import COMMANDS
from tests.helpers.without_extras import EXTRAS, run_without_extras

MAIN = "import sys; sys.argv[0] = 'segzero'; from segzero.cli.main import main; main()"
INFER, TRAIN, SERVE = (f"pip install 'segzero[{extra}]'" for extra in ("infer", "train", "serve"))
CALLS = {
    "infer scene.png circle": INFER,
    "segment scene.png --point 9,9": INFER,
    "everything scene.png": INFER,
    "edges scene.png": INFER,
    "words scene.png circle": INFER,
    "program scene.png circle --llm scenes": INFER,
    "demo": TRAIN,
    "demo --steps 0 --scenes 1": INFER,
    "train": TRAIN,
    "train dry_run=true": TRAIN,
    "sft data=data": TRAIN,
    "tune data=data": TRAIN,
    "merge run/global_step_1 --out merged": TRAIN,
    "chat scene.png": INFER,
    "serve --port 1": SERVE,
    "demo-ui --port 1 --no-browser": SERVE,
    "data annotate project --images images": INFER,
    "data check data": INFER,
    "data show data": INFER,
    "data prepare folder --format folder --out prepared": INFER,
    "data corrupt data --out judging": INFER,
    "data export data --to coco --out exported": INFER,
    "data scenes scenes": INFER,
    "data engine scene.png --vlm http://127.0.0.1:9/v1": INFER,
    "data export-runs folder --out exported": INFER,
    "data select --frontier --data data --out chosen.parquet": INFER,
    "eval --benchmark own --data data": INFER,
    "eval rescore run": INFER,
    "rewards search --offline": TRAIN,
}
LIGHT = {
    "doctor --quick": "torch",
    "docs": "segzero docs evaluation",
    "rewards check reward.py": "passes the gates",
    "eval compare run run --out both.json": "all of it is in both.json",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """An image, samples, own data in a folder, a checkpoint's folder and a finished evaluation."""
    folder = tmp_path_factory.mktemp("without_extras")
    [sample] = make_samples(1, 3)
    to_parquet([sample], folder / "data" / "train.parquet")
    for image in (folder / "scene.png", folder / "folder" / "images" / "a.png"):
        image.parent.mkdir(parents=True, exist_ok=True)
        image.write_bytes(sample.image)
    (folder / "folder" / "masks").mkdir()
    (folder / "folder" / "masks" / "a.png").write_bytes(sample.image)
    (folder / "folder" / "prompts.csv").write_text("image,mask,prompt\na.png,a.png,the circle\n")
    (folder / "reward.py").write_text(render(PRESET_GENOMES["mask"]))
    (folder / "run" / "global_step_1" / "actor").mkdir(parents=True)
    benchmark = {"name": "own", "reader": "own", "level": "question", "ignore": "none"}
    task = {"benchmark": benchmark, "source": str(folder / "data"), "limit": None, "history": None}
    (folder / "run" / "run.json").write_text(json.dumps({"what": {}, "settings": {}, "task": task}))
    (folder / "run" / "predictions.jsonl").touch()
    (folder / "run" / "scores.jsonl").write_text(json.dumps(asdict(score_sample(sample, ()))) + "\n")
    return folder


def test_every_command_is_called():
    called = {name for name in COMMANDS for command in CALLS | LIGHT if f"{command} ".startswith(f"{name} ")}
    assert called == COMMANDS


@pytest.mark.parametrize("command", CALLS)
def test_a_missing_extra_is_one_line_and_exit_code_2(folder, command):
    done = run_without_extras(MAIN, *command.split(), folder=folder)
    assert done.returncode == 2, done.stderr
    [line] = done.stderr.splitlines()
    assert line.startswith("segzero: ") and CALLS[command] in line
    assert any(package in line for package in EXTRAS)


@pytest.mark.parametrize("command", LIGHT)
def test_the_base_installation_is_enough(folder, command):
    done = run_without_extras(MAIN, *command.split(), folder=folder)
    assert done.returncode == 0, done.stderr
    assert LIGHT[command] in done.stdout


def test_needs_names_the_package_and_keeps_our_own_mistakes():
    with pytest.raises(UserError) as refusal, needs("x"):
        raise ModuleNotFoundError("No module named 'torch.cuda'", name="torch.cuda")
    assert str(refusal.value) == "torch does not import here (No module named 'torch.cuda'); pip install 'segzero[x]'"
    with pytest.raises(UserError, match="a package does not import here"), needs("x"):
        raise ImportError("libcudart.so.13: cannot open shared object file")
    with pytest.raises(ImportError, match="cannot import name 'x'"), needs("x"):
        raise ImportError("cannot import name 'x' from 'segzero.io'", name="segzero.io")
    require("json")
    with pytest.raises(ModuleNotFoundError, match="no_such_package"):
        require("no_such_package")
