"""Evaluations of dialogues with both histories: in folders of their own, beside each other and never one figure."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from segzero.data.parquet import to_parquet
from segzero.errors import UserError
from segzero.evaluation.benchmarks import Records, Task, get_benchmark, survey
from segzero.evaluation.predictions import PREDICTIONS
from segzero.evaluation.runner import evaluate, rescore
from segzero.evaluation.scoring import read_rows
from segzero.evaluation.side_by_side import histories_in, pairs_of, write_side_by_side
from segzero.frames import stretch
from segzero.masks import encode
from segzero.pipeline import SegZeroPipeline
from segzero.policy import Reply
from segzero.sample import Object, Sample
from tests.helpers.benchmark_files import write_all
from tests.helpers.evaluating import answering, run_evaluation
from tests.helpers.recording import RecordingModel

SETTINGS = {"policy": {"name": "p", "sha256": None}, "prompt": "multi"}
TALKS = 3


class HalfPolicy:
    """A policy that always answers with the left half of a scene; questions with "broken" get no readable answer."""

    name, frame, prompt = "half", stretch(224), "multi"

    def generate(self, requests, sampling):
        return [Reply(self._answer(request.messages[1]["content"][-1]["text"]), 1, False) for request in requests]

    def close(self):
        pass

    def _answer(self, text: str) -> str:
        if "broken" in text.split('Please find "')[1]:
            return "no"
        return '<answer>[{"bbox_2d": [0, 0, 112, 224], "point_2d": [50, 50]}]</answer>'


@pytest.fixture
def models(pipeline):
    return SegZeroPipeline(RecordingModel(HalfPolicy()), pipeline.segmenter)


@pytest.fixture
def talks(held_out, tmp_path) -> Task:
    return write_talks(held_out, tmp_path)


@pytest.fixture(scope="module")
def finished(pipeline, held_out, tmp_path_factory) -> tuple[Task, Path]:
    """Both histories, evaluated."""
    root = tmp_path_factory.mktemp("finished")
    task, models = write_talks(held_out, root), SegZeroPipeline(HalfPolicy(), pipeline.segmenter)
    for history in ("true", "predicted"):
        run(task, root / "out", models, history)
    return task, root / "out"


def write_talks(held_out: list[Sample], folder: Path) -> Task:
    """Dialogues whose second question can't be answered readably and whose third refers to it, or to the first."""
    mask = encode([[x < 112 for x in range(224)] for _ in range(224)])
    true = Object((0, 0, 112, 224), ((50, 50),), mask)
    samples: list[Sample] = []
    for talk in range(TALKS):
        questions = ["the left half", "the broken half", f"what lies on [REF:{2 - talk % 2}]"]
        turns = [{"question": q, "boxes": [list(true.box)], "points": [[[50, 50]]], "masks": [mask]} for q in questions]
        samples += [
            replace(
                held_out[talk],
                id=f"{talk}-{number}",
                question=question,
                objects=(true,),
                turns=tuple(turns[: number - 1]),
                meta={"dialogue": talk, "round": number},
            )
            for number, question in enumerate(questions, 1)
        ]
    return get_benchmark("own").find(to_parquet(samples, folder / "talks" / "test.parquet").parent)


def run(
    task: Task, out: Path, models: SegZeroPipeline, history: str | None, batch: int = 2, settings=SETTINGS
) -> list[list[str]]:
    """Evaluate; returns the ids in each chunk that was answered."""
    answer_all = answering(models)
    evaluate(Records(task), out, answer_all, settings, batch, history)
    return answer_all.chunks


def read(path: Path) -> dict:
    return json.loads(path.read_text())


@pytest.mark.slow
def test_both_histories_beside_each_other(finished):
    _, out = finished
    assert {path.name for path in out.iterdir()} == {
        "true_history", "predicted_history", "metrics.json", "report.html",
    }  # fmt: skip
    both = read(out / "metrics.json")
    assert "figures" not in both and "history" not in both["protocol"]  # no figure of both
    for history, folder in histories_in(out).items():
        metrics = read(folder / "metrics.json")
        assert metrics["protocol"]["history"] == history
        assert both["histories"][history]["figures"] == metrics["figures"]
        assert (both["histories"][history]["samples"], both["histories"][history]["dialogues"]) == (3 * TALKS, TALKS)
        for number in "123":
            assert both["by_round"][number][history] == metrics["by_round"][number]
    third = both["by_round"]["3"]
    assert third["true"]["errors"] == {} and third["predicted"]["errors"] == {"lost_reference": 2}
    assert third["predicted"]["figures"]["giou"]["of"] == third["true"]["figures"]["giou"]["of"] == TALKS
    assert third["true"]["figures"]["answered"]["value"] == 1
    assert third["predicted"]["figures"]["answered"]["value"] == pytest.approx(1 / 3)
    assert both["histories"]["predicted"]["errors"] == {"no_answer": TALKS, "lost_reference": 2}


@pytest.mark.slow
def test_the_page_of_both_histories(finished):
    _, out = finished
    page = (out / "report.html").read_text()
    assert "<th>round<th>samples<th>true history<th>predicted history" in page
    assert "<tr><td>3<td>3<td>0<td>2" in page and page.count("<svg") == 1
    assert set(re.findall(r'href="([^"]*)"', page)) == {"true_history/report.html", "predicted_history/report.html"}
    assert "<h1>own, predicted history" in (out / "predicted_history/report.html").read_text()


@pytest.mark.slow
def test_chunks_are_of_dialogues_where_history_is_predicted(talks, models, tmp_path):
    by_sample = run(talks, tmp_path / "out", models, "true", batch=2)
    assert [len(chunk) for chunk in by_sample] == [2, 2, 2, 2, 1] and len(models.policy.requests) == 9
    alone = read(tmp_path / "out" / "metrics.json")
    assert list(alone["histories"]) == list(alone["by_round"]["2"]) == ["true"]
    by_dialogue = run(talks, tmp_path / "out", models, "predicted", batch=2)
    assert [len(chunk) for chunk in by_dialogue] == [6, 3]
    assert len(models.policy.requests) == 9 + 7  # two rounds have lost what they refer to


@pytest.mark.slow
def test_what_is_finished_is_not_asked_again(finished, models, tmp_path):
    task, _ = finished
    out = shutil.copytree(finished[1], tmp_path / "out")
    path = out / "predicted_history" / PREDICTIONS
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:4]) + lines[4][:20])
    before = read(out / "metrics.json")
    chunks = run(task, out, models, "predicted")
    assert read(out / "metrics.json") == before
    seconds = rb'"seconds": {[^}]*}'
    assert re.sub(seconds, b"", path.read_bytes()) == re.sub(seconds, b"", whole)
    assert chunks == [["1-2", "1-3", "2-1", "2-2", "2-3"]]
    # The first question of the second dialogue is asked once more; one reference is lost.
    assert len(models.policy.requests) == 3 + 2
    assert run(task, out, models, "true") == []


@pytest.mark.slow
def test_scoring_again_scores_both(finished, tmp_path):
    task, _ = finished
    out = shutil.copytree(finished[1], tmp_path / "out")
    both = read(out / "metrics.json")
    for path in [*out.rglob("metrics.json"), *out.rglob("scores.jsonl")]:
        path.unlink()
    assert rescore(out) == both == read(out / "metrics.json")
    (out / "metrics.json").unlink()
    moved = shutil.copytree(task.source, tmp_path / "moved")
    assert rescore(out / "true_history", moved)["protocol"]["history"] == "true"
    assert read(out / "metrics.json") == both


@pytest.mark.slow
def test_histories_are_of_one_evaluation(finished, models, held_out, tmp_path):
    talks, _ = finished
    out = tmp_path / "out"
    shutil.copytree(finished[1] / "true_history", out / "true_history")
    with pytest.raises(UserError, match=r"true_history holds an evaluation with other settings: its prompt is multi"):
        run(talks, out, models, "predicted", settings=SETTINGS | {"prompt": "vision_reasoner"})
    with pytest.raises(UserError, match=r"its limit is None, now it is 3; choose another --out"):
        run(replace(talks, limit=3), out, models, "predicted")
    single = get_benchmark("own").find(to_parquet(held_out[:1], tmp_path / "single" / "a.parquet").parent)
    with pytest.raises(UserError, match="out holds an evaluation of dialogues; choose another --out"):
        run(single, out, models, None)
    run(single, tmp_path / "flat", models, None)
    with pytest.raises(UserError, match="flat holds an evaluation that knows of no history; choose another --out"):
        run(talks, tmp_path / "flat", models, "true")
    assert not histories_in(tmp_path / "flat")


@pytest.mark.slow
def test_folders_to_compare(finished, tmp_path):
    _, one = finished
    other = tmp_path / "other"
    shutil.copytree(one / "predicted_history", other / "predicted_history")
    assert pairs_of(one, other) == {"predicted": (one / "predicted_history", other / "predicted_history")}
    assert pairs_of(one / "true_history", one / "predicted_history") == {
        "": (one / "true_history", one / "predicted_history")
    }
    with pytest.raises(UserError, match="no history is in both folders") as caught:
        pairs_of(one, other / "predicted_history")
    assert "\n" not in str(caught.value)
    rows = {row.id: row for row in read_rows(one / "predicted_history")}
    assert (rows["2-3"].error, rows["2-3"].dialogue, rows["2-3"].round) == ("lost_reference", "2", 3)


def test_nothing_finished_and_nothing_readable(tmp_path):
    with pytest.raises(UserError, match="no finished evaluation"):
        write_side_by_side(tmp_path)
    folder = tmp_path / "true_history"
    folder.mkdir()
    (folder / "run.json").write_text("{}")
    for content in ("", "[]", "{}", '{"by_round": {}}'):
        (folder / "metrics.json").write_text(content)
        with pytest.raises(UserError, match=r"cannot read .*segzero eval rescore") as caught:
            write_side_by_side(tmp_path)
        assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mr_refcoco", "regiondial_refcocog"])
def test_published_dialogues_with_the_shipped_models(name, pipeline, tmp_path):
    task = get_benchmark(name).find(write_all(tmp_path / "data"))
    records = Records(task)
    assert survey(records).dialogues
    for history in ("true", "predicted"):
        run_evaluation(records, tmp_path / "out", pipeline, history=history)
    lines = {
        history: [json.loads(line) for line in (folder / PREDICTIONS).read_text().splitlines()]
        for history, folder in histories_in(tmp_path / "out").items()
    }
    (first, second), (same, own) = lines["true"], lines["predicted"]
    assert first["raw_text"] == same["raw_text"] != ""  # a first round has no history
    assert second["id"] == own["id"] and second["question"] == own["question"] and "[REF:1]" in own["question"]
    both = json.loads((tmp_path / "out/metrics.json").read_text())
    assert {number: set(found) for number, found in both["by_round"].items()} == {
        "1": {"true", "predicted"},
        "2": {"true", "predicted"},
    }
    assert all(both["by_round"]["2"][history]["figures"]["giou"]["of"] == 1 for history in lines)


HISTORY = {
    "benchmark": "talks", "samples": 2, "failed": 1,
    "figures": {"giou": {"value": 0.5, "low": 0.4, "high": 0.6, "of": 2}},
    "errors": {"time_out": {"count": 1}}, "resampling": {}, "published": {}, "protocol": {"policy": "p"},
}  # fmt: skip
BY_ROUND = {"1": {"samples": 2, "failed": 1, "errors": {"time_out": 1}, "figures": HISTORY["figures"]}}


def write_history(out: Path, metrics: object) -> Path:
    (out / "true_history").mkdir(exist_ok=True)
    (out / "true_history" / "run.json").write_text("{}")
    (out / "true_history" / "metrics.json").write_text(json.dumps(metrics))
    return out


def test_figures_by_round_are_read(tmp_path):
    assert write_side_by_side(write_history(tmp_path, HISTORY | {"by_round": BY_ROUND}))["benchmark"] == "talks"


@pytest.mark.parametrize(
    "change",
    [
        {"by_round": ["1"]}, {"by_round": {"1": 5}}, {"by_round": {"1": {"samples": 2}}}, {"errors": {"time_out": 1}},
        {"figures": {"giou": 0.5}}, {"figures": {"giou": {"value": "0.5", "low": None}}}, {"protocol": []},
        {"published": 3}, {"benchmark": None, "figures": None}, {"by_round": {"1": BY_ROUND["1"] | {"figures": []}}},
    ],
)  # fmt: skip
def test_figures_with_values_of_other_types(change, tmp_path):
    write_history(tmp_path, HISTORY | {"by_round": BY_ROUND} | change)
    with pytest.raises(UserError, match=r"metrics\.json.*; `segzero eval rescore .*` writes") as raised:
        write_side_by_side(tmp_path)
    assert "\n" not in str(raised.value)
    assert [path.name for path in tmp_path.iterdir()] == ["true_history"]
