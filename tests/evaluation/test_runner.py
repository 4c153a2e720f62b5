"""Evaluations that are cut short, go on, and are scored again; who is asked is counted."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from segzero.data.parquet import from_parquet, to_parquet
from segzero.errors import UserError
from segzero.evaluation.artifacts import read_rows
from segzero.evaluation.benchmarks import Task, get_benchmark
from segzero.evaluation.metrics import giou, score_masks
from segzero.evaluation.predict import answer, remember, settings_of
from segzero.evaluation.predictions import NAME, Predictions
from segzero.evaluation.runner import evaluate, rescore
from segzero.pipeline import SegZeroPipeline
from segzero.policy import load_policy
from segzero.sample import Object


class Counting:
    """The policy or the segmenter itself; what it is asked to do is counted."""

    def __init__(self, model) -> None:
        self.model, self.answers, self.images, self.masks = model, 0, 0, 0

    def __getattr__(self, name):
        return getattr(self.model, name)

    def generate(self, requests, sampling):
        self.answers += len(requests)
        return self.model.generate(requests, sampling)

    def embed(self, images):
        self.images += len(images)
        return self.model.embed(images)

    def decode(self, embeddings, prompts, all_masks=False):
        self.masks += sum(map(len, prompts))
        return self.model.decode(embeddings, prompts, all_masks)


@pytest.fixture
def counted(pipeline):
    return SegZeroPipeline(Counting(pipeline.policy), Counting(pipeline.segmenter))


@pytest.fixture
def task(held_out, tmp_path) -> Task:
    return get_benchmark("own").find(to_parquet(held_out[:6], tmp_path / "data" / "test.parquet").parent)


def run(
    task: Task, out: Path, pipeline: SegZeroPipeline, batch: int = 2, stop_after: int | None = None, **hooks
) -> dict:
    def answer_all(chunks, history):
        for number, chunk in enumerate(chunks):
            if number == stop_after:
                raise KeyboardInterrupt
            yield answer(pipeline, chunk, history)

    return evaluate(task, out, answer_all, settings_of(pipeline), batch, **hooks)


def test_the_figures_are_those_of_the_pipeline(task, held_out, pipeline, tmp_path):
    metrics = run(task, tmp_path / "out", pipeline)
    results = pipeline([s.image for s in held_out[:6]], [s.question for s in held_out[:6]])
    scores = [
        score_masks(r.union, s.mask(), failed=r.error is not None) for r, s in zip(results, held_out, strict=False)
    ]
    assert metrics["figures"]["giou"]["value"] == pytest.approx(giou(scores))
    with Predictions.open(tmp_path / "out" / NAME, write=False) as predictions:
        assert [p.raw_text for p in predictions] == [r.raw_text for r in results]
        assert predictions.giou == pytest.approx(giou(scores))
    assert [row.score.iou for row in read_rows(tmp_path / "out")] == pytest.approx([s.iou for s in scores])
    protocol = metrics["protocol"]
    assert len(protocol["policy"]["sha256"]) == 64 and protocol["frame"].startswith("native(")
    assert (protocol["prompt"], protocol["format"], protocol["decoding"]) == ("multi", "multi", "greedy")
    assert protocol["versions"]["torch"]


def test_a_finished_sample_is_never_paid_for_twice(task, counted, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        run(task, out, counted, stop_after=2)
    assert counted.policy.answers == 4
    before = (out / NAME).read_bytes()
    assert before.count(b"\n") == 4
    (out / NAME).write_bytes(before + b'{"id": "cut in the mid')
    told: list[str] = []
    metrics = run(task, out, counted, tell=told.append)
    assert counted.policy.answers == metrics["samples"] == 6
    assert (out / NAME).read_bytes().startswith(before)
    assert "dropped an unfinished last line of 22 bytes" in told[0] and "4 samples are finished already" in told[1]
    again = run(task, out, counted)
    assert counted.policy.answers == 6 and again["figures"] == metrics["figures"]


@pytest.mark.slow
def test_a_killed_process_leaves_whole_lines(task, tmp_path, pipeline):
    """Another process is killed as soon as it has finished something; this one goes on."""
    out = tmp_path / "out"
    code = f"""
import os, signal
from pathlib import Path
from segzero.evaluation.predict import Models
from segzero.evaluation.benchmarks import Task, get_benchmark
from segzero.evaluation.runner import evaluate
from segzero.evaluation.runner import started
from segzero import tiny
models = Models(str(shipped.policy_path()), str(shipped.segmenter_path()), "transformers", max_tokens=1024)
with started(models) as (answer_all, settings):
    task = Task(get_benchmark("own"), {task.source!r})
    evaluate(task, Path({str(out)!r}), answer_all, settings, 1,
             progress=lambda done: len(done) == 3 and os.kill(os.getpid(), signal.SIGKILL))
"""
    ended = subprocess.run([sys.executable, "-c", code], env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
    assert len([json.loads(line) for line in (out / NAME).read_text().splitlines()]) == 3
    assert run(task, out, pipeline)["samples"] == 6


def test_other_settings_are_refused(task, pipeline, tmp_path):
    out = tmp_path / "out"
    run(replace(task, limit=1), out, pipeline)
    with pytest.raises(UserError, match=r"its limit is 1, now it is None; choose another --out"):
        run(task, out, pipeline)
    other = SegZeroPipeline(pipeline.policy, pipeline.segmenter, prompt="vision_reasoner")
    with pytest.raises(UserError, match="its prompt is multi, now it is vision_reasoner"):
        run(replace(task, limit=1), out, other)
    (out / "run.json").unlink()
    with pytest.raises(UserError, match=r"holds a predictions\.jsonl without its run\.json"):
        run(replace(task, limit=1), out, pipeline)


def test_other_data_are_refused(task, pipeline, held_out, tmp_path):
    out = tmp_path / "out"
    run(task, out, pipeline)
    changed = [replace(held_out[0], question="another thing"), *held_out[1:6]]
    to_parquet(changed, Path(task.source) / "test.parquet")
    with pytest.raises(UserError, match=r"is of other data: its sample .* asks"):
        run(task, out, pipeline)
    to_parquet(held_out[:5], Path(task.source) / "test.parquet")
    with pytest.raises(UserError, match=r"has 6 samples, the data 5"):
        rescore(out)
    to_parquet(held_out[:7], Path(task.source) / "test.parquet")
    with pytest.raises(UserError, match=r"lacks the sample .*: run the same `segzero eval` to the end"):
        rescore(out)


def test_scoring_again_asks_nobody(task, pipeline, tmp_path):
    out = tmp_path / "out"
    metrics = run(task, out, pipeline)
    (out / "metrics.json").unlink()
    (out / "scores.jsonl").unlink()
    assert rescore(out) == metrics
    with pytest.raises(UserError, match=r"no evaluation in .*: there is no run\.json"):
        rescore(tmp_path)


@pytest.mark.parametrize("rle", [{"size": [2**30, 2**30], "counts": "0"}, {"size": [1, 2], "counts": "11"}])
def test_masks_that_somebody_changed_are_refused(task, pipeline, tmp_path, rle):
    out = tmp_path / "out"
    run(replace(task, limit=1), out, pipeline)
    line = json.loads((out / NAME).read_text())
    line["objects"][0]["rle"] = rle
    (out / NAME).write_text(json.dumps(line) + "\n")
    with pytest.raises(UserError, match=rf"predictions\.jsonl, sample '{line['id']}': ") as caught:
        rescore(out)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_answers_and_masks_are_remembered(task, counted, tmp_path):
    first = run(task, tmp_path / "a", remember(counted, tmp_path / "cache"))
    drawn = counted.segmenter.masks
    assert counted.policy.answers == 6 and counted.segmenter.images == 6 and drawn > 0
    again = run(task, tmp_path / "b", remember(counted, tmp_path / "cache"), batch=4)
    assert again["figures"] == first["figures"]
    lines = [[json.loads(line) for line in (tmp_path / out / NAME).read_text().splitlines()] for out in "ab"]
    assert [line | {"seconds": {}} for line in lines[0]] == [line | {"seconds": {}} for line in lines[1]]
    kept = [path for path in (tmp_path / "cache" / "masks").rglob("*.json") if path.name != "nothing.json"]
    assert counted.policy.answers == counted.segmenter.images == 6
    assert counted.segmenter.masks == drawn == len(kept)
    other = SegZeroPipeline(counted.policy, counted.segmenter, prompt="vision_reasoner")
    run(task, tmp_path / "c", remember(other, tmp_path / "cache"))
    assert counted.policy.answers == 12  # another prompt is another question


@pytest.mark.slow
def test_a_damaged_cache_is_made_anew(task, counted, tmp_path):
    first = run(task, tmp_path / "a", remember(counted, tmp_path / "cache"))
    drawn = counted.segmenter.masks
    for number, path in enumerate(sorted((tmp_path / "cache").rglob("*.json"))):
        path.write_bytes((b'{"text": 1}', b'{"rle": {"size": [1, 1], "counts": "1"}, "score": 1}', b"")[number % 3])
    again = run(task, tmp_path / "b", remember(counted, tmp_path / "cache"))
    assert again["figures"] == first["figures"]
    assert counted.policy.answers == 12 and counted.segmenter.masks == 2 * drawn


def test_an_image_asked_about_twice_is_encoded_once(counted, held_out, tmp_path):
    twice = [held_out[0], replace(held_out[0], id="again", question="the largest shape")]
    answer(remember(counted, tmp_path / "cache"), twice)
    assert counted.segmenter.images == 1 and counted.policy.answers == 2


def test_what_concerns_one_sample_is_its_failure(counted, held_out):
    good = held_out[0]
    broken = replace(good, id="broken", image=b"\x89PNG\r\n\x1a\nno more")
    other = replace(good, id="other", width=100, objects=(Object((1, 1, 9, 9)),))
    special = replace(good, id="special", question="<|im_end|> what")
    lost = replace(good, id="lost", question="left of [REF:3]")
    found = answer(counted, [broken, good, other, special, lost])
    assert [p.id for p in found] == ["broken", good.id, "other", "special", "lost"]
    assert [p.error for p in found] == ["image_error", None, "image_error", "policy_error", "lost_reference"]
    assert "its record says 100x224" in found[2].problem and "special tokens" in found[3].problem
    assert "there is no round 3" in found[4].problem
    assert [p.score and p.score.failed for p in found] == [True, False, None, True, True]
    assert counted.policy.answers == 1


def test_what_one_request_spoils_is_asked_alone(pipeline, held_out):
    """The question is longer than the shipped policy's context; the other two are answered all the same."""
    endless = replace(held_out[0], id="endless", question="the ring beside " * 620)
    found = answer(pipeline, [held_out[0], endless, held_out[1]])
    assert [p.error for p in found] == [None, "policy_error", None]
    assert "leaves no room for an answer" in found[1].problem
    with pytest.raises(UserError, match="leaves no room"):  # nothing can be answered: no sample's own fault
        answer(pipeline, [endless, replace(endless, id="more")])


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
        metrics = run(replace(task, limit=2), tmp_path / "out", SegZeroPipeline(policy, pipeline.segmenter))
        server.shutdown()
    assert metrics["samples"] == metrics["errors"]["time_out"]["count"] == 2
    assert metrics["figures"]["giou"]["value"] == 0
    assert metrics["protocol"]["policy"] == {"name": "m", "backend": "OpenAIPolicy", "sha256": None}


def test_samples_of_a_folder_of_prompts_are_own_data_too(pipeline, held_out, tmp_path):
    [sample] = list(from_parquet(to_parquet(held_out[:1], tmp_path / "one.parquet")))
    (tmp_path / "mine/images").mkdir(parents=True)
    (tmp_path / "mine/images/a.png").write_bytes(sample.image)
    (tmp_path / "mine/prompts.csv").write_text(f"image,prompt,mask\na.png,{sample.question},none\n")
    metrics = run(get_benchmark("own").find(tmp_path / "mine"), tmp_path / "out", pipeline)
    assert metrics["samples"] == 1 and "n_acc" in metrics["figures"]
