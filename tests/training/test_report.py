"""The report shows the given figures, and fetches nothing."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from segzero.evaluation.metrics import Score
from segzero.evaluation.scoring import Row
from segzero.result import InstanceMask, Segmentation
from segzero.training import metrics_log
from segzero.training.report import Evaluated, curves, kinds, most_changed, read_log, write_report


def answers(ious: list[float]) -> Evaluated:
    image = Image.new("RGB", (40, 30), "grey")
    mask = np.ones((30, 40), bool)  # [H, W]
    found = (InstanceMask(mask, (0, 0, 40, 30), ((5, 5),), 0.9),)
    results = [Segmentation(image, f"<b>{place}</b> & co", found, think="because") for place in range(len(ious))]
    return Evaluated(results, [Row(str(n), score=Score(round(100 * iou), 100)) for n, iou in enumerate(ious)])


LOG = [
    {"step": 0, "data": {"val/giou": 0.5, "val/n_acc": 0.2}},
    {"step": 1, "data": {"reward/mean": 4.0}},
    {"step": 2, "data": {"reward/mean": 5.0, "val/giou": 0.6, "val/n_acc": 0.4}},
]


def test_figures_and_curves_are_those_of_this_run():
    page = write_report(answers([0.2, 0.4]), answers([0.8, 0.3]), LOG, {"steps": "<2>"})
    assert "0.300 &rarr; 0.550 <small>(+0.250)" in page
    assert "<tr><td>gIoU<td>0.300<td>0.550<td>+0.250<td>-0.100 to +0.600<td>" in page
    assert page.count("<svg") == 2 and page.count("data:image/png;base64,") == 4
    assert "&lt;2&gt;" in page and "&lt;b&gt;0&lt;/b&gt; &amp; co" in page and "<b>" not in page


def test_the_page_is_self_contained():
    page = write_report(answers([0.2]), answers([0.8]), LOG, {})
    assert not re.search(r'(src|href)="(?!data:)', page) and "<script" not in page


def test_a_log_without_validation_has_one_curve():
    assert list(curves(LOG[1:2])) == ["reward"]
    assert curves([]) == {}


def test_a_skill_has_a_curve_of_its_own():
    data = {"val/giou": 0.5, "val/giou/warmth": 0.2, "val/giou/size": 0.5, "val/giou/kind": 0.7}
    drawn = curves([{"step": 0, "data": data}, {"step": 5, "data": data | {"val/giou/warmth": 0.4}}], "warmth")
    assert list(drawn) == ["validation"]
    assert ">warmth</text>" in drawn["validation"] and ">other kinds</text>" in drawn["validation"]
    heights = [float(y) for y in re.findall(r'<circle cx="[\d.]+" cy="([\d.]+)"', drawn["validation"])]
    assert heights[0] > heights[1] > heights[2] == heights[3]  # downwards: 0.2, 0.4, then 0.6 twice


def test_kinds_of_questions_are_compared_one_by_one():
    before, after = (
        replace(each, rows=[replace(row, category=kind) for row, kind in zip(each.rows, "abb", strict=True)])
        for each in (answers([0.2, 0.4, 0.6]), answers([0.3, 0.4, 0.8]))
    )
    first, second = kinds(before, after)
    assert first[:5] == ("a", "1", "0.200", "0.300", "+0.100")
    assert second == ("b", "2", "0.500", "0.600", "+0.100", "+0.000 to +0.200")


def test_losses_are_shown_too():
    before, after = answers([0.5, 0.5, 0.5, 0.5]), answers([0.9, 0.1, 0.5, 0.7])
    assert most_changed(before, after) == [("Gained", 0), ("Gained", 3), ("Lost", 1)]


def test_each_kind_of_question_is_shown_before_any_twice():
    before, after = answers([0.0, 0.0, 0.0, 0.0]), answers([0.9, 0.8, 0.5, 0.7])
    kinds = ["colour", "colour", "size", "colour"]
    rows = [replace(row, category=kind) for row, kind in zip(after.rows, kinds, strict=True)]
    found = most_changed(before, replace(after, rows=rows), better=3)
    assert found == [("Gained", 0), ("Gained", 2), ("Gained", 1)]


TORN = [
    b'{"step": 2, "da',
    b"\xff\xfe",
    b"[" * 100_000,
    b'{"step": "2", "data": {}}',
    b'{"step": 2, "data": {"reward/mean": "high"}}',
    b"[2]",
    b"",
]


@pytest.mark.parametrize("torn", TORN, ids=lambda line: repr(line[:20]))
def test_a_torn_line_of_the_log_is_skipped(tmp_path, torn):
    file = tmp_path / metrics_log.NAME
    file.write_bytes(json.dumps(LOG[0]).encode() + b"\n" + torn)  # as a kill or a full disk leaves it
    assert read_log(tmp_path) == LOG[:1]
    for row in LOG[1:]:  # a resumed run goes on
        metrics_log.append(file, row["step"], row["data"])
    assert read_log(tmp_path) == LOG
    assert file.read_bytes().endswith(b"}\n") and len(curves(read_log(tmp_path))) == 2


def test_a_log_that_is_whole_gets_no_empty_lines(tmp_path):
    for row in LOG:
        metrics_log.append(tmp_path / metrics_log.NAME, row["step"], row["data"])
    assert [json.loads(line) for line in (tmp_path / metrics_log.NAME).read_text().splitlines()] == LOG
    assert read_log(tmp_path / "elsewhere") == []
