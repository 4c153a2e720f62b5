"""`segzero program`: its output, its files and its errors; `segzero eval --program-writer`."""

import json

import numpy as np
import pytest
from PIL import Image

from segzero.tiny.questions import HELD_OUT_SEED
from segzero.tiny.scenes import make_scene
from segzero.tiny.scripted_server import serving
from segzero.tiny.scripted_writer import ScriptedWriter

OURS = ["--policy-backend", "transformers"]


@pytest.fixture
def run(run_segzero, monkeypatch, tmp_path):
    """Run `segzero program scene.png ARGS` in a folder with a scene and a program."""
    monkeypatch.chdir(tmp_path)
    Image.fromarray(make_scene(np.random.default_rng(HELD_OUT_SEED + 21)).image).save("scene.png")
    (tmp_path / "two.txt").write_text('A=FIND("all shapes")\nRESULT(LARGEST(A, 2))\n')
    (tmp_path / "count.txt").write_text('RESULT(COUNT(FIND("all shapes")))')
    (tmp_path / "late.txt").write_text('A=FIND("all shapes")\nRESULT(SEGMENT([[900, 900, 990, 990]]))')
    (tmp_path / "wrong.txt").write_text('A=FIND("all shapes")\nRESULT(CROP(A))')
    return lambda *arguments: run_segzero("program", "scene.png", *arguments)


def test_a_program_from_a_file_gives_masks_and_a_trace(run, tmp_path):
    code, out, err = run("--program", "two.txt", "--out", "found", "--format", "mask,json", *OURS)
    assert code == 0 and err == "" and "no --policy given" in out
    assert '  1 A=FIND("all shapes"): ' in out and "  2 RESULT(LARGEST(A, 2)): 2 objects of " in out
    names = {path.name for path in (tmp_path / "found").iterdir()}
    assert names == {"scene_trace.html", "scene_trace.json", "scene_mask.png", "scene.json"}
    trace = json.loads((tmp_path / "found/scene_trace.json").read_text())
    assert trace["type"] == "Masks" and len(trace["result"]) == 2 and trace["question"] == ""


def test_a_count_has_a_trace_alone(run, tmp_path):
    code, out, _ = run("how many?", "--program", "count.txt", *OURS)
    assert code == 0 and "COUNT(FIND" in out
    assert {path.name for path in (tmp_path / "outputs").iterdir()} == {"scene_trace.html", "scene_trace.json"}
    trace = json.loads((tmp_path / "outputs/scene_trace.json").read_text())
    assert trace["question"] == "how many?" and trace["result"] >= 1


def test_a_language_model_writes_and_mends_the_program(run, tmp_path):
    with ScriptedWriter(broken=True).running() as served:
        code, out, _ = run("the left two shapes", "--llm", served.url, "--llm-model", "scripted-writer", *OURS)
    assert code == 0 and "mended: line " in out and "RESULT(LEFTMOST(SHAPES, 2))" in out
    trace = json.loads((tmp_path / "outputs/scene_trace.json").read_text())
    assert [bool(one["error"]) for one in trace["attempts"]] == [True, False]
    code, out, _ = run("the left two shapes", "--llm", "scenes", *OURS)
    assert code == 0 and "RESULT(LEFTMOST(SHAPES, 2))" in out and "mended" not in out


def test_a_step_that_fails_leaves_its_trace(run, tmp_path):
    code, _, err = run("--program", "late.txt", *OURS)
    assert code == 2 and err.startswith("segzero: the program failed: line 2: [900, 900") and err.count("\n") == 1
    trace = json.loads((tmp_path / "outputs/scene_trace.json").read_text())
    assert trace["error"]["line"] == 2 and len(trace["steps"]) == 1
    assert not (tmp_path / "outputs/scene.json").exists()


def test_a_model_that_writes_no_program_is_a_failure(run):
    reply = {"choices": [{"message": {"content": "I would rather not."}}]}
    with serving(lambda body: (200, {}, reply), "shy") as port:
        code, _, err = run("a cup", "--llm", f"http://127.0.0.1:{port}/v1", *OURS)
    assert code == 2 and "the program failed: no program: line 1: 'I would rather not.' can't be read" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nobody writes the program: give --program FILE, or --llm http://HOST:PORT/v1"),
        (["the mug"], "nobody writes the program"),
        (["the mug", "--program", "two.txt", "--llm", "scenes"], "both --program and --llm are given"),
        (["--llm", "scenes"], "--llm writes a program for a question; give one"),
        (["--program", "two.txt", "--llm-model", "x"], "--llm-model goes with --llm"),
        (["--program", "none.txt"], "cannot read the program none.txt: No such file"),
        (["--program", "scene.png"], "cannot read the program scene.png: it is not UTF-8"),
        (["--program", "wrong.txt"], "line 2: RESULT takes Masks or Number or Text as value, and CROP(A) is Image"),
        (["the mug", "--llm", "localhost"], "'localhost' is not a server's address"),
        (["the mug", "--llm", "scenes", "--llm-model", "x"], "unknown model at"),
        (["--program", "two.txt", "--mask-model", "tiny"], "--mask-model: programs need a policy and a segmenter"),
        (["--program", "two.txt", "--format", "gif"], "unknown format 'gif'"),
    ],
)
def test_what_makes_no_sense_is_one_line(run, tmp_path, arguments, message):
    code, _, err = run(*arguments)
    assert code == 2 and err.startswith(f"segzero: {message}") and err.count("\n") == 1
    assert not (tmp_path / "outputs").exists()


def test_an_evaluation_by_programs(run_segzero, monkeypatch, tmp_path):
    """Data, answers and scores; the trace is kept with each prediction, and a program that fails counts."""
    monkeypatch.chdir(tmp_path)
    code, out, _ = run_segzero("data", "scenes", "data", "--train", 0, "--val", 0, "--compositional", 6)
    assert code == 0 and out.split() == ["data/compositional.parquet"]
    flags = ["--benchmark", "compositional", "--data", "data", "--cache", "cache", *OURS]
    code, out, _ = run_segzero("eval", *flags, "--program-writer", "scenes")
    assert code == 0 and "giou" in out and "6/6" in out
    folder = tmp_path / "evaluation/compositional"
    lines = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    assert all("RESULT(" in line["raw_text"] and "ms)" in line["think"] for line in lines)
    protocol = json.loads((folder / "metrics.json").read_text())["protocol"]
    assert protocol["program_writer"] == "scripted-writer" and protocol["everything"] == "scenes"
    code, _, err = run_segzero("eval", *flags)
    assert code == 2 and "with other settings: its everything is scenes" in err

    reply = {"choices": [{"message": {"content": "RESULT(SEGMENT([[900, 900, 990, 990]]))"}}]}
    with serving(lambda body: (200, {}, reply), "wrong") as port:
        address = f"http://127.0.0.1:{port}/v1"
        code, out, _ = run_segzero("eval", *flags, "--program-writer", address, "--limit", 2, "--out", "failed")
    assert code == 0 and "failed, program_error: 2 of 2" in out
    line = json.loads((tmp_path / "failed/compositional/predictions.jsonl").read_text().splitlines()[0])
    assert line["problem"].startswith("line 1: [900, 900") and line["error"] == "program_error"


def test_programs_take_no_dialogues_and_no_mask_model(run_segzero, monkeypatch, tmp_path):
    from tests.helpers.benchmark_files import write_all

    monkeypatch.chdir(tmp_path)
    write_all(tmp_path)
    code, _, err = run_segzero("eval", "--benchmark", "mr_refcoco", "--data", ".", "--program-writer", "scenes")
    assert code == 2 and "--program-writer: samples have earlier rounds" in err
    code, _, err = run_segzero("eval", "--benchmark", "own", "--mask-model", "tiny", "--program-writer", "scenes")
    assert code == 2 and "leave --program-writer out" in err
