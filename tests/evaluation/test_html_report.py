"""The report's page shows the numbers of the run, and needs no other file."""

import re

from PIL import Image

from segzero.evaluation.figures import summarise
from segzero.evaluation.html_report import evaluation_page, notable
from segzero.evaluation.scoring import Row, score_sample
from tests.helpers.answers import predicted, sample


def scored(id: str, pixels: str, error: str | None = None, **fields) -> Row:
    return score_sample(sample("####......", id=id, **fields), [predicted(pixels)], error)


ROWS = [
    scored("right", "####......", concept="<spatial>"),
    scored("half", "##........", concept="<spatial>"),
    scored("wrong", ".....#....", concept="relations"),
    scored("far off", "....######", concept="relations"),
    scored("unread", "####......", "not_json", concept="relations"),
    score_sample(sample(id="nothing"), []),
]
PANEL = Image.new("RGB", (20, 10), "grey")
FACTS = {"protocol": {}, "published": {}}


def test_the_page():
    summary = summarise(ROWS) | {"published": {"LISA <7B>": {"gIoU": 44.4}}}
    panels = {row.id: PANEL for row in ROWS}
    html = evaluation_page("Row & row \ud800", summary | {"protocol": {"policy": "<mine>"}}, ROWS, panels)
    giou = summary["figures"]["giou"]
    assert f"<td>giou<td>0.417<td>{giou['low']:.3f} to {giou['high']:.3f}<td>6<td>mean of the samples" in html
    assert "6 samples, 1 of them failed" in html and "<td>not_json<td>1<td>16.7%<td>unread" in html
    assert "&lt;spatial&gt;" in html and "&lt;mine&gt;" in html and "<spatial>" not in html
    assert html.count("<svg") == 1 and html.count("data:image/png;base64,") == 12  # four of each kind
    assert not re.search(r'(src|href)="(?!data:)', html) and "<script" not in html
    assert "<tr><td>published, LISA &lt;7B&gt;<td>gIoU 44.4" in html
    html.encode()  # a file can hold it


def test_the_best_the_middle_and_the_worst_with_a_target_and_an_answer():
    shown = {name: [row.id for row in rows] for name, rows in notable(ROWS, each=2).items()}
    assert shown == {"best": ["right", "half"], "median": ["wrong", "half"], "worst": ["far off", "wrong"]}
    assert all(len(rows) == 4 for rows in notable(ROWS).values())


def test_counts_alone_have_no_masks_to_show():
    rows = [score_sample(sample(meta={"count": 2}), [predicted("##........")] * 2)]
    html = evaluation_page("Counting", summarise(rows) | FACTS, rows, {})
    assert "count_exact 1.000 (1.000 to 1.000)" in html and "<svg" not in html and "<img" not in html


def test_average_precision_is_shown_with_its_score():
    found = [{"AP": 0.25, "AP_large": None, "kind": "bbox", "score": "box area over image area"}]
    html = evaluation_page("COCO", summarise(ROWS) | FACTS | {"average_precision": found}, ROWS, {})
    assert "<th>AP<th>AP_large<th>kind<th>score<tr><td>0.250<td>-<td>bbox<td>box area over image area" in html
