"""Evaluations from data to files: read once, scored once, cut short, resumed, and scored again."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from segzero.data.parquet import from_parquet, to_parquet
from segzero.errors import UserError
from segzero.evaluation import predictions as predictions_module
from segzero.evaluation.benchmarks import Records, Task, get_benchmark, survey
from segzero.evaluation.metrics import giou, score_masks
from segzero.evaluation.predict import answer
from segzero.evaluation.predictions import PREDICTIONS, Predictions
from segzero.evaluation.provenance import settings_of
from segzero.evaluation.runner import evaluate, read_run, rescore
from segzero.evaluation.scoring import read_rows
from segzero.pipeline import SegZeroPipeline
from segzero.policy import load_policy
from tests.helpers.evaluating import run_evaluation


@pytest.fixture
def task(held_out, tmp_path) -> Task:
    return get_benchmark("own").find(to_parquet(held_out[:6], tmp_path / "data" / "test.parquet").parent)


@pytest.fixture
def counts(monkeypatch) -> Counter:
    """Calls so far: passes over the data, and scores by sample id."""
    calls: Counter = Counter()

    def read(task, original=Task.read):
        calls["passes"] += 1
        return original(task)

    def score(sample, *args, original=predictions_module.score_sample):
        calls[sample.id] += 1
        return original(sample, *args)

    monkeypatch.setattr(Task, "read", read)
    monkeypatch.setattr(predictions_module, "score_sample", score)
    return calls


def test_data_are_read_once_and_each_sample_is_scored_once(task, pipeline, held_out, counts, tmp_path):
    once = Counter({sample.id: 1 for sample in held_out[:6]})
    records = Records(task)
    assert survey(records).samples == 6
    metrics = run_evaluation(records, tmp_path / "out", pipeline)
    assert counts == once | {"passes": 1}
    rows = list(read_rows(tmp_path / "out"))
    assert [row.id for row in rows] == [sample.id for sample in held_out[:6]]
    assert metrics["figures"]["giou"]["of"] == 6 and (tmp_path / "out/report.html").read_text().count("<img") == 12
    counts.clear()
    rescore(tmp_path / "out")
    assert counts == once | {"passes": 1} and list(read_rows(tmp_path / "out")) == rows


def test_a_resumed_evaluation_scores_each_sample_once_too(task, pipeline, held_out, counts, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run_evaluation(task, tmp_path / "out", pipeline, stop_after=2)
    counts.clear()
    run_evaluation(task, tmp_path / "out", pipeline)
    assert counts == Counter({sample.id: 1 for sample in held_out[:6]}) | {"passes": 1}


def test_the_command_reads_once_too_with_exports(task, held_out, counts, run_segzero, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    models = ("--policy-backend", "transformers", "--cache", "cache", "--output", "seg_zero", "--save_preds", "preds")
    code, *_ = run_segzero("eval", "--benchmark", "own", "--data", task.source, *models)
    assert code == 0 and counts == Counter({sample.id: 1 for sample in held_out[:6]}) | {"passes": 1}
    assert len(json.loads((tmp_path / "evaluation/own/output_0.json").read_text())) == 6
    assert len(list((tmp_path / "preds").glob("*_pred.png"))) == 6


@pytest.mark.slow
def test_large_data_are_read_again_and_never_scored_again(task, pipeline, held_out, counts, tmp_path):
    """Nothing is kept: a pass to check the data, one to answer, and one to find the answers that the report shows."""
    records = Records(task, kept_bytes=0)
    survey(records)
    run_evaluation(records, tmp_path / "out", pipeline)
    assert counts == Counter({sample.id: 1 for sample in held_out[:6]}) | {"passes": 3}
    run_evaluation(task, tmp_path / "kept", pipeline)
    assert (tmp_path / "out/scores.jsonl").read_bytes() == (tmp_path / "kept/scores.jsonl").read_bytes()
    assert (tmp_path / "out/report.html").read_bytes() == (tmp_path / "kept/report.html").read_bytes()


@pytest.mark.slow
def test_chunks_may_be_answered_in_any_order(task, pipeline, held_out, tmp_path):
    """Lines are in the order of the answers, rows in that of the data."""
    ordinary = run_evaluation(task, tmp_path / "ordinary", pipeline)

    def backwards(chunks, history):
        return reversed([answer(pipeline, chunk, history) for chunk in chunks])

    metrics = evaluate(Records(task), tmp_path / "out", backwards, settings_of(pipeline), 2)
    with Predictions.open(tmp_path / "out" / PREDICTIONS, write=False) as predictions:
        assert list(predictions.places) == [held_out[place].id for place in (4, 5, 2, 3, 0, 1)]
    assert metrics == ordinary
    scores = [(tmp_path / name / "scores.jsonl").read_bytes() for name in ("ordinary", "out")]
    assert scores[0] == scores[1]


def test_the_files_of_an_evaluation(task, pipeline, held_out, tmp_path):
    broken = replace(held_out[6], id="broken", image=b"\x89PNG\r\n\x1a\nno more")
    to_parquet([*held_out[:6], broken], Path(task.source) / "test.parquet")
    out = tmp_path / "out"
    run_evaluation(task, out, pipeline)
    assert {path.name for path in out.iterdir()} == {
        "run.json", "predictions.jsonl", "scores.jsonl", "metrics.json", "report.html",
    }  # fmt: skip
    metrics = json.loads((out / "metrics.json").read_text())
    failures = {"image_error": {"count": 1, "share": 1 / 7, "ids": ["broken"]}}
    assert metrics["samples"] == 7 and metrics["errors"] == failures
    assert read_run(out)["task"]["source"] == task.source
    page = (out / "report.html").read_text()
    assert page.startswith("<!doctype html>") and page.count("data:image/png") >= 4
    assert metrics["protocol"]["policy"]["sha256"] in page and 'src="http' not in page


def test_the_figures_are_those_of_the_pipeline(task, held_out, pipeline, tmp_path):
    metrics = run_evaluation(task, tmp_path / "out", pipeline)
    results = pipeline([s.image for s in held_out[:6]], [s.question for s in held_out[:6]])
    scores = [
        score_masks(r.union, s.mask(), failed=r.error is not None) for r, s in zip(results, held_out, strict=False)
    ]
    assert metrics["figures"]["giou"]["value"] == pytest.approx(giou(scores))
    with Predictions.open(tmp_path / "out" / PREDICTIONS, write=False) as predictions:
        assert [p.raw_text for p in predictions] == [r.raw_text for r in results]
        assert predictions.giou == pytest.approx(giou(scores))
    assert [row.score.iou for row in read_rows(tmp_path / "out")] == pytest.approx([s.iou for s in scores])
    protocol = metrics["protocol"]
    assert len(protocol["policy"]["sha256"]) == 64 and protocol["frame"].startswith("native(")
    assert (protocol["prompt"], protocol["format"], protocol["decoding"]) == ("multi", "multi", "greedy")
    assert protocol["versions"]["torch"]


def test_a_finished_sample_is_never_paid_for_twice(task, recorded, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        run_evaluation(task, out, recorded, stop_after=2)
    assert len(recorded.policy.requests) == 4
    before = (out / PREDICTIONS).read_bytes()
    assert before.count(b"\n") == 4
    (out / PREDICTIONS).write_bytes(before + b'{"id": "cut in the mid')
    lines: list[str] = []
    metrics = run_evaluation(task, out, recorded, print_line=lines.append)
    assert len(recorded.policy.requests) == metrics["samples"] == 6
    assert (out / PREDICTIONS).read_bytes().startswith(before)
    assert "dropped an unfinished last line of 22 bytes" in lines[0] and "4 samples are finished already" in lines[1]
    again = run_evaluation(task, out, recorded)
    assert len(recorded.policy.requests) == 6 and again["figures"] == metrics["figures"]


@pytest.mark.slow
def test_a_killed_process_leaves_whole_lines(task, tmp_path, pipeline):
    """Another process is killed as soon as it has finished something; this one goes on."""
    out = tmp_path / "out"
    code = f"""
import os, signal
from pathlib import Path
from segzero import shipped
from segzero.evaluation.benchmarks import Records, Task, get_benchmark
from segzero.evaluation.predict import EvaluationModels
from segzero.evaluation.runner import evaluate, start_workers
models = EvaluationModels(str(shipped.policy_path()), str(shipped.segmenter_path()), "transformers", max_tokens=1024)
with start_workers(models) as (answer_all, settings):
    records = Records(Task(get_benchmark("own"), {task.source!r}))
    evaluate(records, Path({str(out)!r}), answer_all, settings, 1,
             on_progress=lambda done: len(done) == 3 and os.kill(os.getpid(), signal.SIGKILL))
"""
    ended = subprocess.run([sys.executable, "-c", code], env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
    assert len([json.loads(line) for line in (out / PREDICTIONS).read_text().splitlines()]) == 3
    assert run_evaluation(task, out, pipeline)["samples"] == 6


def test_other_settings_are_refused(task, pipeline, tmp_path):
    out = tmp_path / "out"
    run_evaluation(replace(task, limit=1), out, pipeline)
    with pytest.raises(UserError, match=r"its limit is 1, now it is None; choose another --out"):
        run_evaluation(task, out, pipeline)
    other = SegZeroPipeline(pipeline.policy, pipeline.segmenter, prompt="vision_reasoner")
    with pytest.raises(UserError, match="its prompt is multi, now it is vision_reasoner"):
        run_evaluation(replace(task, limit=1), out, other)
    (out / "run.json").unlink()
    with pytest.raises(UserError, match=r"holds a predictions\.jsonl without its run\.json"):
        run_evaluation(replace(task, limit=1), out, pipeline)


def test_other_data_are_refused(task, pipeline, held_out, tmp_path):
    out = tmp_path / "out"
    run_evaluation(task, out, pipeline)
    changed = [replace(held_out[0], question="another thing"), *held_out[1:6]]
    to_parquet(changed, Path(task.source) / "test.parquet")
    with pytest.raises(UserError, match=r"is of other data: its sample .* asks"):
        run_evaluation(task, out, pipeline)
    to_parquet(held_out[:5], Path(task.source) / "test.parquet")
    with pytest.raises(UserError, match=r"has 6 samples, the data 5"):
        rescore(out)
    to_parquet(held_out[:7], Path(task.source) / "test.parquet")
    with pytest.raises(UserError, match=r"lacks the sample .*: run the same `segzero eval` to the end"):
        rescore(out)


def test_scoring_again_needs_no_models(task, pipeline, tmp_path):
    out = tmp_path / "out"
    metrics = run_evaluation(task, out, pipeline)
    (out / "metrics.json").unlink()
    (out / "scores.jsonl").unlink()
    assert rescore(out) == metrics
    with pytest.raises(UserError, match=r"no evaluation in .*: there is no run\.json"):
        rescore(tmp_path)


@pytest.mark.parametrize("rle", [{"size": [2**30, 2**30], "counts": "0"}, {"size": [1, 2], "counts": "11"}])
def test_masks_that_were_changed_are_refused(task, pipeline, tmp_path, rle):
    out = tmp_path / "out"
    run_evaluation(replace(task, limit=1), out, pipeline)
    line = json.loads((out / PREDICTIONS).read_text())
    line["objects"][0]["rle"] = rle
    (out / PREDICTIONS).write_text(json.dumps(line) + "\n")
    with pytest.raises(UserError, match=rf"predictions\.jsonl, sample '{line['id']}': ") as caught:
        rescore(out)
    assert "\n" not in str(caught.value)


class Silent(BaseHTTPRequestHandler):
    """A server that names its model and then never says anything."""

    def do_GET(self):
        body = b'{"data": [{"id": "m", "owned_by": "nobody"}]}'
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self):
        time.sleep(2)

    def log_message(self, *args):
        pass


def test_time_outs_are_lines(pipeline, held_out, task, tmp_path):
    with ThreadingHTTPServer(("127.0.0.1", 0), Silent) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/v1"
        policy = load_policy(address, frame="stretch(840)", prompt="multi", timeout=0.2, retries=0)
        metrics = run_evaluation(replace(task, limit=2), tmp_path / "out", SegZeroPipeline(policy, pipeline.segmenter))
        server.shutdown()
    assert metrics["samples"] == metrics["errors"]["time_out"]["count"] == 2
    assert metrics["figures"]["giou"]["value"] == 0
    assert metrics["protocol"]["policy"] == {"name": "m", "backend": "OpenAIPolicy", "sha256": None}


def test_samples_of_a_folder_of_prompts_are_own_data_too(pipeline, held_out, tmp_path):
    [sample] = list(from_parquet(to_parquet(held_out[:1], tmp_path / "one.parquet")))
    (tmp_path / "mine/images").mkdir(parents=True)
    (tmp_path / "mine/images/a.png").write_bytes(sample.image)
    (tmp_path / "mine/prompts.csv").write_text(f"image,prompt,mask\na.png,{sample.question},none\n")
    metrics = run_evaluation(get_benchmark("own").find(tmp_path / "mine"), tmp_path / "out", pipeline)
    assert metrics["samples"] == 1 and "n_acc" in metrics["figures"]


@pytest.fixture(scope="module")
def finished(pipeline, held_out, tmp_path_factory) -> Path:
    """The folder of an evaluation of two samples."""
    root = tmp_path_factory.mktemp("finished")
    task = get_benchmark("own").find(to_parquet(held_out[:2], root / "data" / "test.parquet").parent)
    run_evaluation(task, root / "out", pipeline)
    return root / "out"


@pytest.mark.parametrize(
    "content",
    ["", "[]", "5", '{"what"', "{}", "[" * 100_000, '{"what": {}, "settings": 1, "task": {}}',
     '{"what": {}, "settings": {"a": NaN}, "task": {}}', '{"what": {}, "settings": {"a": 1e999}, "task": {}}'],
)  # fmt: skip
def test_a_run_file_that_makes_no_sense_is_one_line(content, tmp_path):
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(UserError, match=r"cannot read .*run\.json: .*; evaluate into another --out") as raised:
        read_run(tmp_path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("task", {"source": 5}), ("task", {"limit": "3"}), ("task", {"limit": -1}), ("task", {"history": []}),
        ("task", {"history": "own"}),
        ("task", {"benchmark": []}), ("benchmark", {"name": None}), ("benchmark", {"options": {"split": 3}}),
        ("benchmark", {"keep": 1}), ("benchmark", {"count": "all"}),
        ("benchmark", {"published": {"LISA": {"gIoU": "?"}}}),
    ],
)  # fmt: skip
def test_a_task_that_makes_no_sense_is_one_line(finished, tmp_path, part, change):
    shutil.copytree(finished, tmp_path / "out")
    run = read_run(tmp_path / "out")
    run["task"] |= change if part == "task" else {"benchmark": run["task"]["benchmark"] | change}
    (tmp_path / "out" / "run.json").write_text(json.dumps(run))
    before = (tmp_path / "out" / "metrics.json").read_bytes()
    with pytest.raises(UserError, match=r"run\.json names no benchmark and data; evaluate into another --out"):
        rescore(tmp_path / "out")
    assert (tmp_path / "out" / "metrics.json").read_bytes() == before
