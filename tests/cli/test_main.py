"""The `segzero` command: version, help, exit codes, the doctor's report and `segzero data`."""

import re
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import version

import pytest
import typer

from segzero import __version__
from segzero.cli import doctor
from segzero.cli.main import app
from segzero.data.parquet import to_parquet
from segzero.machine import this_machine
from segzero.tiny.questions import make_samples
from segzero.tiny.scene_files import write_scenes

COMMANDS = {
    "infer", "segment", "words", "everything", "edges", "program", "demo", "train", "sft", "tune", "merge", "chat",
    "serve", "demo-ui", "doctor", "docs",
    "data annotate", "data check", "data show", "data prepare", "data corrupt", "data export", "data scenes",
    "data engine", "data export-runs", "data select",
    "eval", "eval rescore", "eval compare", "rewards search", "rewards check",
}  # fmt: skip


@pytest.fixture
def run(run_segzero, monkeypatch, tmp_path):
    """Run `segzero ARGS` in an empty folder, on a terminal of 200 columns."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return run_segzero


def command_names(group, prefix: str = "") -> set[str]:
    """Names of the commands of a Typer group, without those that only hold others."""
    names = set()
    for name, command in group.commands.items():
        nested = getattr(command, "commands", None)
        names |= command_names(command, f"{prefix}{name} ") if nested else set()
        names |= {prefix + name} if not nested or command.invoke_without_command else set()
    return names


def test_the_version_is_that_of_the_package(run):
    assert run("--version") == (0, f"{__version__}\n", "")


def test_help_lists_every_command():
    assert command_names(typer.main.get_command(app)) == COMMANDS


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_has_help(run, command):
    code, out, err = run(*command.split(), "--help")
    assert code == 0 and err == ""
    assert f"segzero {command} " in out
    rows = re.findall(r"^│ [* ]? *--([\w-]+)", out, re.MULTILINE)
    assert "help" in rows and len(rows) == len(set(rows))


def test_help_of_infer_has_every_option_with_its_default(run):
    _, out, _ = run("infer", "--help")
    rows = dict(re.findall(r"^│ +--([\w-]+) .*?  (\S.*?) +│$", out, re.MULTILINE))
    assert set(rows) == {
        "questions", "out", "format", "policy", "segmenter", "policy-backend", "segmenter-backend", "device", "frame",
        "prompt", "temperature", "max-tokens", "seed", "refine", "refine-seconds", "batch", "max-pixels",
        "help", "mask-model", "votes", "own-attempts",
    }  # fmt: skip
    assert rows["batch"].endswith("Images at once. [default: 64]")
    assert rows["max-pixels"].endswith("Refuse larger images. [default: 89000000]")


def test_an_unknown_command_or_option_exits_with_2(run):
    code, _, err = run("infre")
    assert code == 2 and "No such command 'infre'" in err
    code, _, err = run("infer", "--qestions", "x")
    assert code == 2 and "No such option: --qestions" in err and "--questions" in err


def test_python_m_segzero_is_the_command():
    done = subprocess.run([sys.executable, "-m", "segzero", "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"{__version__}\n")


def test_doctor_reports_versions_and_this_machine(run):
    code, out, err = run("doctor", "--quick")
    assert code == 0 and err == ""
    assert out.startswith(f"segzero {__version__} · Python {sys.version.split()[0]} · ")
    facts = dict(re.findall(r"^  (\S[\w -]*?)  +(\S.*)$", out, re.MULTILINE))
    assert set(doctor.PACKAGES) < set(facts)
    assert facts["numpy"] == version("numpy") and facts["pillow"] == version("pillow")
    assert facts["cores"] == str(this_machine().cpus)
    assert facts["memory"].startswith(f"{this_machine().memory / 2**30:.1f} GiB, ")
    assert not set(doctor.BACKENDS) & set(facts)


def test_doctor_says_why_a_backend_does_not_work(run, monkeypatch):
    broken = "import sys; print('a warning', file=sys.stderr); raise ImportError('no libcudart.so.13')"
    tried = {"good": "import json", "broken": broken, "silent": "import os; os._exit(3)"}
    monkeypatch.setattr(doctor, "BACKENDS", tried)
    _, out, _ = run("doctor")
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert {"good ok", "broken no: ImportError: no libcudart.so.13", "silent no: exit code 3"} <= set(lines)
    assert "Training on a GPU" in lines


@pytest.mark.slow
def test_doctor_tries_the_backends(run):
    code, out, _ = run("doctor")
    assert code == 0
    for name in ("policy: transformers", "policy: vllm", "segmenter: transformers", "segmenter: sam2"):
        [line] = [line for line in out.splitlines() if name in line]
        assert line.split()[-1] == "ok", line


def test_data_check_reports_by_its_exit_code(run, tmp_path):
    samples = make_samples(3, 5)
    to_parquet(samples, tmp_path / "good" / "train.parquet")
    to_parquet([samples[0], replace(samples[1], id=samples[0].id)], tmp_path / "twice" / "train.parquet")
    code, out, _ = run("data", "check", "good", "--page", "page.html")
    assert code == 0 and "nothing is wrong" in out and "pictures are in page.html" in out
    assert (tmp_path / "page.html").read_text().count("<img") >= 3
    code, out, _ = run("data", "check", "twice")
    assert code == 1 and samples[0].id in out
    code, _, err = run("data", "check", "none")
    assert code == 2 and err.count("\n") == 1


def test_data_scenes_writes_the_files_of_training(run, tmp_path):
    code, out, _ = run("data", "scenes", "scenes", "--train", 3, "--val", 2)
    assert code == 0 and out.split() == ["scenes/train.parquet", "scenes/val.parquet"]
    for written in write_scenes(tmp_path / "again", train=3, val=2):
        assert written.read_bytes() == (tmp_path / "scenes" / written.name).read_bytes()
