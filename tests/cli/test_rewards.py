"""`segzero rewards`: a search from the command line, and the check of a file."""

import json
import subprocess
import sys

import pytest

import rewards
from rewards.search.expressions import PRESET_GENOMES, Genome, GenomeTerm, render
from segzero.data.parquet import from_parquet, to_parquet
from segzero.tiny.questions import HELD_OUT_SEED, make_samples
from tests.helpers.policy_server import ScriptedPolicyServer
from tests.helpers.recorded_answers import recorded_groups
from tests.helpers.reward_writer import BEST, RewardWriter

SEED = 5
WEAK = Genome.of(GenomeTerm("pair_overlap", weight=2.0), GenomeTerm("readable"))


@pytest.fixture
def data(tmp_path):
    """A folder with data, the answers of a run to them, and a base without a word about what is missing."""
    to_parquet(make_samples(8, SEED), tmp_path / "data" / "train.parquet")
    to_parquet(make_samples(18, HELD_OUT_SEED + SEED), tmp_path / "data" / "val.parquet")
    rows = [
        {"sample": group.sample.id, "best": {"text": group.texts[good]}, "worst": {"text": group.texts[bad]}}
        for group in recorded_groups(8, SEED)
        for good, bad in ((0, 3), (1, 4), (2, 5))
    ]
    (tmp_path / "rollouts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "weak.py").write_text(render(WEAK))
    return tmp_path


def options(data, *more: object) -> list[object]:
    """A small search."""
    files = [
        "--data",
        data / "data",
        "--rollouts",
        data / "rollouts.jsonl",
        "--out",
        data / "out",
        "--base",
        data / "weak.py",
    ]
    return ["rewards", "search", *files, "--base", data / "weak.py", "--answers", 6, "--held-out", 4, *more]


@pytest.mark.slow
def test_a_search_without_training_and_its_winner(data, run_segzero):
    small = ["--offline", "--finalists", 0, "--candidates", 6, "--iterations", 2]
    code, out, err = run_segzero(*options(data, *small))
    assert (code, err) == (0, "")
    assert "48 recorded answers to 8 questions" in out and "iteration 2: " in out
    winner = data / "out" / "winner.py"
    assert f"train with it: segzero train reward=candidate reward.path={winner}" in out
    page = (data / "out" / "report.html").read_text()
    assert page.count("<img") == 4 and "gates" in page
    sample = next(one for one in from_parquet(data / "data" / "train.parquet") if one.objects)
    assert rewards.score(str(winner), "<answer>nonsense", sample).total == 0
    code, out, _ = run_segzero("rewards", "check", winner)
    assert code == 0 and "passes the gates" in out
    before = (data / "out" / "candidates" / "02-06.json").stat().st_mtime_ns
    assert run_segzero(*options(data, *small))[0] == 0  # all of it is there
    assert (data / "out" / "candidates" / "02-06.json").stat().st_mtime_ns == before
    code, _, err = run_segzero(*options(data, *small, "--seed", 1))
    assert code == 2 and "its seed is 0, now it is 1; choose another --out" in err


@pytest.mark.slow
def test_a_search_with_a_model_over_http(data, run_segzero):
    with ScriptedPolicyServer(RewardWriter(str(data / "marker"))).running() as server:
        small = ["--llm", server.url, "--finalists", 0, "--candidates", 4, "--iterations", 2, "--task", "Find it."]
        code, out, err = run_segzero(*options(data, *small))
    assert (code, err) == (0, "") and "the winner is 02-01" in out
    assert (data / "out" / "winner.py").read_text().strip() == BEST.strip()
    assert len(list((data / "out" / "llm").glob("*.json"))) == 8 and not (data / "marker").exists()


@pytest.mark.training
def test_the_whole_search(data):
    """Candidates, a trial, the winner and the base trained and compared, and the page that says so."""
    sizes = ["--candidates", 4, "--iterations", 1, "--finalists", 1, "--trial-steps", 1, "--seeds", 1, "--batch", 2]
    command = [sys.executable, "-m", "segzero", *map(str, options(data, "--offline", *sizes))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "after 1 steps: held-out 0." in done.stdout and "seed 1: gIoU 0." in done.stdout
    out = data / "out"
    evidence = json.loads((out / "winner.json").read_text())
    assert evidence["trial"]["steps"] == 1 and len(evidence["trial"]["held_out"]) == 2
    compared = evidence["comparison"]["figures"][0]
    assert compared["name"] == "gIoU" and compared["low"] <= compared["difference"] <= compared["high"]
    assert (evidence["comparison"]["seeds"], evidence["comparison"]["questions"]) == (1, 4)
    page = (out / "report.html").read_text()
    assert "The winner against the base" in page and page.count("<svg") == 4
    assert (out / "final" / "base-1" / "run" / "candidate.py").read_text() == render(WEAK)


def test_check_says_what_is_wrong(run_segzero, tmp_path):
    good, weak, wrong = (tmp_path / name for name in ("good.py", "weak.py", "wrong.py"))
    good.write_text(render(PRESET_GENOMES["mask"]))
    weak.write_text(render(WEAK))
    wrong.write_text("import os\n")
    code, out, _ = run_segzero("rewards", "check", good)
    assert code == 0 and "in the language; compares masks; passes the gates" in out
    code, out, _ = run_segzero("rewards", "check", weak)
    assert code == 1 and "needs no masks; fails the gates" in out and "\n- nothing there: " in out
    code, _, err = run_segzero("rewards", "check", wrong)
    assert code == 2 and "wrong.py, line 1: no import" in err and err.count("\n") == 1
    code, _, err = run_segzero("rewards", "check", tmp_path / "none.py")
    assert code == 2 and "no reward could be read" in err


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ((), "say who writes the candidates: --offline, or --llm"),
        (("--offline", "--llm", "http://127.0.0.1:9/v1"), "say who writes the candidates"),
        (("--offline", "--base", "sofd"), "did you mean 'soft'?"),
        (("--offline", "--base", "none.py"), "no reward could be read from none.py"),
        (("--offline", "--data", "nowhere"), "no train*.parquet in nowhere"),
        (("--llm", "127.0.0.1"), "is not a server's address"),
    ],
)
def test_mistakes_are_one_line(run_segzero, monkeypatch, tmp_path, given, complaint):
    monkeypatch.chdir(tmp_path)
    code, _, err = run_segzero("rewards", "search", *given)
    assert code == 2 and complaint in err and err.count("\n") == 1
