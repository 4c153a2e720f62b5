"""Pictures as ConverSeg's readers expect them, and the JSON that Seg-Zero's scripts read."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segzero.data.parquet import to_parquet
from segzero.evaluation.benchmarks import Records, get_benchmark
from segzero.evaluation.exports import file_stem, save_pictures, write_seg_zero
from segzero.evaluation.predictions import PREDICTIONS, Predictions
from segzero.evaluation.scoring import read_rows
from segzero.masks import decode
from tests.helpers.evaluating import run_evaluation


@pytest.fixture(scope="module")
def samples(held_out):
    """Eight with harmless ids, one whose id points elsewhere, one whose image is broken."""
    odd = replace(held_out[8], id="../../Straße 7", meta=held_out[8].meta | {"image_id": "7", "ann_id": "70"})
    return [*held_out[:8], odd, replace(held_out[9], id="broken", image=b"\x89PNG\r\n\x1a\nno more")]


@pytest.fixture(scope="module")
def finished(pipeline, samples, tmp_path_factory) -> tuple[Path, Records]:
    root = tmp_path_factory.mktemp("evaluation")
    records = Records(get_benchmark("own").find(to_parquet(samples, root / "data" / "test.parquet").parent))
    run_evaluation(records, root / "out", pipeline, 16)
    return root / "out", records


def test_pictures_as_converseg_names_them(finished, samples, tmp_path):
    out, records = finished
    with Predictions.open(out / PREDICTIONS, write=False) as predictions:
        assert save_pictures(tmp_path / "preds", records, predictions) == 9
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


def test_a_truth_that_is_a_count_alone_has_no_picture(pipeline, held_out, tmp_path):
    counted = replace(held_out[0], id="counted", objects=(), meta={"count": 3})
    data = to_parquet([counted, held_out[1]], tmp_path / "data" / "test.parquet").parent
    records = Records(get_benchmark("own").find(data))
    run_evaluation(records, tmp_path / "out", pipeline)
    with Predictions.open(tmp_path / "out" / PREDICTIONS, write=False) as predictions:
        save_pictures(tmp_path / "preds", records, predictions)
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
    out, records = finished
    with Predictions.open(out / PREDICTIONS, write=False) as predictions:
        write_seg_zero(tmp_path, records, predictions, read_rows(out))
    items = json.loads((tmp_path / "output_0.json").read_text())
    assert len(items) == 10 and items[8]["image_id"] == "7" and items[8]["ann_id"] == "70"
    rows = list(read_rows(out))
    giou, ciou = published_figures(tmp_path)
    assert ciou == pytest.approx(sum(r.score.intersection for r in rows) / sum(r.score.union for r in rows))
    nothing = sum(r.score.iou for r in rows if r.score.union == 0)  # a right "nothing there" is worth 0 to them
    assert giou == pytest.approx((sum(r.score.iou for r in rows) - nothing) / len(rows))
