"""What an evaluation leaves behind, and what ConverSeg's and Seg-Zero's readers find in it."""

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segzero.data.parquet import to_parquet
from segzero.errors import UserError
from segzero.evaluation.artifacts import read_rows, read_run, write_rows
from segzero.evaluation.benchmarks import Task, get_benchmark
from segzero.evaluation.exports import file_stem, save_pictures, write_seg_zero
from segzero.evaluation.html_report import write_side_by_side
from segzero.evaluation.metrics import Score
from segzero.evaluation.predict import answer, settings_of
from segzero.evaluation.predictions import NAME, Predictions
from segzero.evaluation.runner import evaluate, rescore
from segzero.evaluation.scoring import Row
from segzero.masks import decode


@pytest.fixture(scope="module")
def samples(held_out):
    """Eight with harmless ids, one whose id points elsewhere, one whose image is broken."""
    odd = replace(held_out[8], id="../../Straße 7", meta=held_out[8].meta | {"image_id": "7", "ann_id": "70"})
    return [*held_out[:8], odd, replace(held_out[9], id="broken", image=b"\x89PNG\r\n\x1a\nno more")]


@pytest.fixture(scope="module")
def finished(pipeline, samples, tmp_path_factory) -> tuple[Path, Task]:
    root = tmp_path_factory.mktemp("evaluation")
    task = get_benchmark("own").find(to_parquet(samples, root / "data" / "test.parquet").parent)
    evaluate(task, root / "out", lambda chunks, _: (answer(pipeline, c) for c in chunks), settings_of(pipeline), 16)
    return root / "out", task


def test_the_files_of_an_evaluation(finished):
    out, task = finished
    assert {path.name for path in out.iterdir()} == {
        "run.json", "predictions.jsonl", "scores.jsonl", "metrics.json", "report.html",
    }  # fmt: skip
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["samples"] == 10 and metrics["failed"] >= 1
    assert metrics["errors"]["image_error"]["ids"] == ["broken"]
    assert read_run(out)["task"]["source"] == task.source
    page = (out / "report.html").read_text()
    assert page.startswith("<!doctype html>") and page.count("data:image/png") >= 4
    assert metrics["protocol"]["policy"]["sha256"] in page and 'src="http' not in page


def test_pictures_as_converseg_names_them(finished, samples, tmp_path):
    out, task = finished
    with Predictions.open(out / NAME, write=False) as predictions:
        assert save_pictures(tmp_path / "preds", task, predictions) == 9
        found = {prediction.id: prediction for prediction in predictions}
    names = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert {path.parent.name for path in tmp_path.rglob("*.*")} == {"preds"}  # nothing beside the folder
    assert len(names) == 9 * 5 + 1 and "broken_prompt.txt" in names
    for sample in samples[:9]:
        stem = tmp_path / "preds" / file_stem(sample.id)
        assert Path(f"{stem}_prompt.txt").read_text() == sample.question
        assert (np.asarray(Image.open(f"{stem}_gt.png")) > 0).tolist() == decode(sample.mask()).tolist()
        drawn = np.zeros((224, 224), bool)
        for thing in found[sample.id].objects:
            drawn |= decode(thing.mask)
        assert (np.asarray(Image.open(f"{stem}_pred.png")) == np.where(drawn, 255, 0)).all()
        assert (np.asarray(Image.open(f"{stem}_orig.png")) == np.asarray(sample.open())).all()


def test_of_a_truth_that_is_a_count_alone_no_mask_is_drawn(pipeline, held_out, tmp_path):
    counted = replace(held_out[0], id="counted", objects=(), meta={"count": 3})
    task = get_benchmark("own").find(to_parquet([counted, held_out[1]], tmp_path / "data" / "test.parquet").parent)
    evaluate(task, tmp_path / "out", lambda chunks, _: (answer(pipeline, c) for c in chunks), settings_of(pipeline), 2)
    with Predictions.open(tmp_path / "out" / NAME, write=False) as predictions:
        save_pictures(tmp_path / "preds", task, predictions)
    names = {path.name for path in (tmp_path / "preds").iterdir()}
    other = file_stem(held_out[1].id)
    assert "counted_gt.png" not in names and f"{other}_gt.png" in names
    widths = [Image.open(tmp_path / "preds" / f"{stem}_panel.png").width for stem in ("counted", other)]
    assert widths[0] < widths[1]  # beside the other answer stands the truth


def test_names_stay_in_their_folder_and_apart():
    ids = [
        "val-17",
        "../../etc/passwd",
        "etc/passwd",
        "..",
        ".",
        "",
        "/",
        "a\0b",
        "x" * 300,
        "x" * 301,
        "straße",
        "strasse",
        "etc_passwd_3754d6cb",  # what another one's name is
        "deadbeef",
    ]
    names = [file_stem(id) for id in ids]
    assert (names[0], names[-1]) == ("val-17", "deadbeef") and len(set(names)) == len(ids)
    for name in names:
        assert name and Path(name).name == name and not name.startswith(".") and len(name) < 120


def published_figures(folder: Path) -> tuple[float, float]:
    """gIoU and cIoU as the published calculate_iou script takes them from its output files."""
    items = [item for file in sorted(folder.glob("output_*.json")) for item in json.loads(file.read_text())]
    ious = [item["intersection"] / item["union"] if item["union"] > 0 else 0 for item in items]
    total = sum(item["union"] for item in items)
    assert all(isinstance(item["bbox_iou"], float) and isinstance(item["think"], str) for item in items)
    return float(np.mean(ious)), sum(item["intersection"] for item in items) / total


def test_seg_zero_reads_the_same_figures(finished, tmp_path):
    out, task = finished
    with Predictions.open(out / NAME, write=False) as predictions:
        write_seg_zero(tmp_path, task, predictions)
    items = json.loads((tmp_path / "output_0.json").read_text())
    assert len(items) == 10 and items[8]["image_id"] == "7" and items[8]["ann_id"] == "70"
    rows = list(read_rows(out))
    giou, ciou = published_figures(tmp_path)
    assert ciou == pytest.approx(sum(r.score.intersection for r in rows) / sum(r.score.union for r in rows))
    nothing = sum(r.score.iou for r in rows if r.score.union == 0)  # a right "nothing there" is worth 0 to them
    assert giou == pytest.approx((sum(r.score.iou for r in rows) - nothing) / len(rows))


def test_rows_that_are_no_rows(tmp_path):
    with pytest.raises(UserError, match=r"there is no scores\.jsonl; `segzero eval rescore` makes it"):
        list(read_rows(tmp_path))
    for line in ("{}", "[]", "no", '{"id": "x", "score": {"iou": 1}}'):
        (tmp_path / "scores.jsonl").write_text(line + "\n")
        with pytest.raises(UserError, match=r"scores\.jsonl, line 1: it is no row of scores"):
            list(read_rows(tmp_path))


@pytest.mark.parametrize(
    "change",
    [
        {"id": 7}, {"question": None}, {"error": ["x"]}, {"category": {}}, {"round": "1"}, {"box_iou": "0.5"},
        {"box_iou": float("nan")}, {"true_objects": None}, {"true_count": 1.5}, {"lost": "no"}, {"matched_masks": 0.5},
        {"matched_boxes": [None]}, {"score": []}, {"score": {"intersection": 1}}, {"published": {"iou": 1}}, {"new": 1},
        {"score": {"intersection": "1", "union": 4}}, {"score": {"intersection": 1, "union": True}},
    ],
)  # fmt: skip
def test_rows_with_values_of_other_types(change, tmp_path):
    good = Row("a", score=Score(1, 4), box_iou=1, matched_masks=(0.5,), true_objects=1)
    write_rows(tmp_path / "scores.jsonl", [good])
    assert list(read_rows(tmp_path)) == [good]
    (tmp_path / "scores.jsonl").write_text(json.dumps(asdict(good) | change) + "\n")
    with pytest.raises(UserError, match=r"scores\.jsonl, line 1: it is no row of scores; run `segzero eval rescore`"):
        list(read_rows(tmp_path))


def test_a_torn_row_is_one_line(tmp_path):
    """A figure over the rest would be another's, so the rows are made anew."""
    write_rows(tmp_path / "scores.jsonl", [Row("a"), Row("b")])
    whole = (tmp_path / "scores.jsonl").read_bytes()
    (tmp_path / "scores.jsonl").write_bytes(whole[:-20])
    with pytest.raises(UserError, match=r"line 2: it is no row of scores; run `segzero eval rescore`"):
        list(read_rows(tmp_path))
    assert (tmp_path / "scores.jsonl").read_bytes() == whole[:-20]


@pytest.mark.parametrize(
    "content",
    ["", "[]", "5", '{"what"', "{}", "[" * 100_000, '{"what": {}, "settings": 1, "task": {}}',
     '{"what": {}, "settings": {"a": NaN}, "task": {}}', '{"what": {}, "settings": {"a": 1e999}, "task": {}}'],
)  # fmt: skip
def test_settings_that_are_none(content, tmp_path):
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(UserError, match=r"cannot read .*run\.json: .*; evaluate into another --out") as raised:
        read_run(tmp_path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("task", {"source": 5}), ("task", {"limit": "3"}), ("task", {"limit": -1}), ("task", {"history": []}),
        ("task", {"benchmark": []}), ("benchmark", {"name": None}), ("benchmark", {"options": {"split": 3}}),
        ("benchmark", {"keep": 1}), ("benchmark", {"count": "all"}),
        ("benchmark", {"published": {"LISA": {"gIoU": "?"}}}),
    ],
)  # fmt: skip
def test_an_evaluation_of_what_makes_no_sense_is_one_line(finished, tmp_path, part, change):
    out, _ = finished
    shutil.copytree(out, tmp_path / "out")
    run = read_run(tmp_path / "out")
    run["task"] |= change if part == "task" else {"benchmark": run["task"]["benchmark"] | change}
    (tmp_path / "out" / "run.json").write_text(json.dumps(run))
    before = (tmp_path / "out" / "metrics.json").read_bytes()
    with pytest.raises(UserError, match=r"run\.json names no benchmark and data; evaluate into another --out"):
        rescore(tmp_path / "out")
    assert (tmp_path / "out" / "metrics.json").read_bytes() == before


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
