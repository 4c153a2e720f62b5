"""`segzero data engine` and `segzero data export-runs`: the demo, bad input in one line, ConverSeg's own flags."""

import json
import runpy
import signal
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import pytest

from segzero.data.readers import read
from segzero.tiny.scripted_vlm import Faults
from tests.helpers.engine_world import EngineWorld, engine_world
from tests.helpers.policy_server import unused_address

ROOT = Path(__file__).parents[2]
QUICK = ("--points-per-side", 8, "--prompts", 1, "--negatives", 1, "--workers", 2, "--concepts", "entities,spatial")


@pytest.fixture
def world(tmp_path, pipeline, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with engine_world(tmp_path, pipeline.segmenter, count=1) as world:
        yield world


@pytest.fixture
def refused(world, run_segzero):
    """Run a command that must end in one line and exit code 2, and leave nothing."""

    def run(*args: object) -> str:
        before = sorted(Path.cwd().rglob("*"))
        code, _, err = run_segzero("data", "engine", *args)
        assert code == 2 and err.count("\n") == 1 and err.startswith("segzero: "), err
        assert sorted(Path.cwd().rglob("*")) == before
        return err

    return run


def test_bad_input_is_one_line_and_leaves_nothing(world, refused, monkeypatch):
    (Path.cwd() / "empty").mkdir()
    (Path.cwd() / "broken").mkdir()
    (Path.cwd() / "broken" / "a.png").write_bytes(b"\x89PNG\r\n\x1a\nno more")
    url = world.vlm.url
    given = ("images", "--vlm", url, "--out", "new")
    assert "no server at" in refused("images", "--vlm", unused_address(), "--out", "new")
    assert "is not a server's address" in refused("images", "--vlm", "gemini", "--out", "new")
    assert "give images and a server" in refused("images", "--out", "new")
    assert "give images and a server" in refused("--vlm", url, "--out", "new")
    assert "unknown model at" in refused(*given, "--vlm-model", "other")
    assert "--budget 0: nothing can be done for that" in refused(*given, "--budget", "0", "--price", "1,1")
    assert "--budget needs the model's price" in refused(*given, "--budget", "5")
    assert "--budget 1e-06 is spent" in refused(*given, "--budget", "0.000001", "--price", "1,1")
    assert "no images in the folder empty" in refused("empty", "--vlm", url, "--out", "new")
    assert "no such image" in refused("nowhere", "--vlm", url, "--out", "new")
    assert "none of 1 images can be read" in refused("broken", "--vlm", url, "--out", "new")
    assert "holds something else" in refused("images", "--vlm", url, "--out", "images")
    assert "--scenes and --faults are for --demo" in refused(*given, "--scenes", "3")
    assert "--demo brings images" in refused(*given, "--demo")
    assert "unknown fault 'rong'" in refused("--demo", "--out", "new", "--faults", "rong=1")
    assert "even number" in refused(*given, "--votes", "2")
    world.vlm.key = "the right one"
    assert "refuses the key (401); set OPENAI_API_KEY" in refused(*given)
    monkeypatch.setenv("OPENAI_API_KEY", "the right one")
    world.vlm.sees = False
    assert "takes no pictures, choose a vision-language model" in refused(*given)
    world.vlm.sees, world.vlm.faults = True, Faults()
    monkeypatch.setattr(world.vlm, "_say", lambda *_: ("sight", {"left": "red", "right": "red"}))
    assert "does not see: a picture of blue and yellow is 'red and red'" in refused(*given)
    monkeypatch.setattr(world.vlm, "_say", lambda *_: ("sight", {"text": "hello"}))
    assert "does not answer in JSON when it is shown a picture" in refused(*given)


def test_images_to_training_files_on_the_command_line(world, run_segzero):
    (world.images / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nno more")
    code, out, err = run_segzero("data", "engine", "images", "--vlm", world.vlm.url, "--out", "runs", *QUICK)
    assert code == 1 and not err  # an image failed
    assert "1 of 2 images" in out and "failed: broken.png" in out and "price not known" in out
    assert "<h1>Data engine" in (world.out / "report.html").read_text()
    asked = world.vlm.requests
    code, _, err = run_segzero("data", "engine", "images", "--vlm", world.vlm.url, "--out", "runs", "--regions", 3)
    assert code == 2 and "runs was made with" in err and world.vlm.requests == asked
    for script in ("export_dataset_converseg", None):
        name = "theirs" if script else "ours"
        if script:
            flags = ["--runs_root", "runs", "--out_dir", name, "--mode", "eval", "--path_mode", "relative"]
            assert run_script(script, *flags) == 0
        else:
            assert run_segzero("data", "export-runs", "runs", "--out", name, "--mode", "eval")[0] == 0
    ours, theirs = (json.loads(Path(name, "items.json").read_text()) for name in ("ours", "theirs"))
    assert ours["items"] == theirs["items"] and ours["count"] >= 3
    assert len(list(read("ours/items.json", "converseg"))) == ours["count"]


def run_script(name: str, *flags: object) -> int:
    """Run a script of training_scripts in this process; returns its exit code."""
    before = sys.argv
    sys.argv = [name, *map(str, flags)]
    try:
        runpy.run_path(str(ROOT / "training_scripts" / f"{name}.py"), run_name="__main__")
        return 0
    except SystemExit as stop:
        return int(stop.code or 0)
    finally:
        sys.argv = before


def test_the_wrapper_has_the_flags_of_run_py(world, capsys):
    flags = ["-i", "images", "-o", "runs", "-k", "nowhere.pt", "-c", "sam2.1_hiera_l.yaml", "--vlm", world.vlm.url]
    assert run_script("run_converseg", *flags) == 2
    assert "no such checkpoint: nowhere.pt" in capsys.readouterr().err
    assert not Path("runs").exists()
    assert run_script("export_dataset_converseg", "--runs_root", "nowhere", "--out_dir", "data") == 2
    assert "no such folder: nowhere" in capsys.readouterr().err


def hold_an_answer(world: EngineWorld, number: int) -> tuple[threading.Event, threading.Event]:
    """Hold the answer of that number back until the second event is set; the first says that it is there."""
    reached, go_on, answer = threading.Event(), threading.Event(), type(world.vlm).answer

    def held(body: dict) -> tuple:
        made = answer(world.vlm, body)
        if world.paid >= number:
            reached.set()
            go_on.wait(60)
        return made

    world.vlm.answer = held
    return reached, go_on


@pytest.mark.slow
def test_a_killed_run_goes_on_and_loses_no_more_than_the_calls_under_way(world, tmp_path):
    command = [sys.executable, "-m", "segzero", "data", "engine", "images", "--vlm", world.vlm.url, "--out", "runs"]
    command += ["--points-per-side", "8", "--workers", "1"]
    world.vlm.faults = Faults(slow=0.4)  # seconds: many calls are still to come when a signal arrives
    for more, sign, code in ((5, signal.SIGKILL, -signal.SIGKILL), (4, signal.SIGINT, 130)):
        reached, go_on = hold_an_answer(world, world.paid + more)
        # Tests that run in a shell's background ignore interrupts, and would hand that on.
        heeds = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        with subprocess.Popen(command, preexec_fn=heeds, **quiet) as process:
            assert reached.wait(60)
            process.send_signal(sign)
            go_on.set()
            assert process.wait(30) == code
    world.vlm.faults = Faults()
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    calls = [json.loads(line) for line in (world.out / "calls.jsonl").read_text().splitlines()]
    assert len({call["key"] for call in calls}) == len(calls)
    assert len(calls) <= world.paid <= len(calls) + 1  # one was under way when the first was killed
    assert "1 of 1 images" in done.stdout


@pytest.mark.slow
def test_the_demo_makes_data_that_are_right(tmp_path, run_segzero, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = run_segzero("data", "engine", "--demo", "--out", "demo", "--scenes", 4)
    assert code == 0 and not err and "nothing is wrong" in out
    assert "4 of 4 images" in out and "precision" in out
    code, out, _ = run_segzero("data", "engine", "--demo", "--out", "demo", "--scenes", 4)
    assert code == 0 and "0 calls are new" in out
