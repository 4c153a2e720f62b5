"""Pictures of samples, and the page of a report."""

import re
from dataclasses import replace

import numpy as np
from PIL import Image

from segzero.data.check import check
from segzero.data.parquet import to_parquet
from segzero.data.preview import choose, report_page, sample_html, sample_panel, show, true_instances
from segzero.masks import encode
from segzero.sample import Object, Sample
from segzero.tiny.questions import make_samples
from tests.helpers.reader_files import box_mask, png

SIZE = (60, 40)
TRUE = Object((10, 10, 40, 30), ((20.0, 20.0),), encode(box_mask(10, 10, 40, 30, SIZE)))
GREY = Sample("grey", png(SIZE, (90, 90, 90)), "the <b>box</b>", *SIZE, (TRUE,))


def test_the_truth_is_drawn_beside_the_image():
    sheet = np.asarray(sample_panel(GREY)).astype(int)
    height = round(560 * 40 / 60)
    image, overlay = sheet[-height:, :560], sheet[-height:, 560:]
    assert (np.abs(image - 90) <= 2).all()
    changed = np.abs(overlay - 90).max(axis=2) > 10
    inside = changed[130:270, 110:370]  # well inside of the box
    assert inside.mean() > 0.99 and changed[:60].mean() < 0.01 and changed[:, 450:].mean() < 0.01
    assert (sheet[:-height] < 128).any()  # the question, above


def test_a_page_holds_its_pictures_and_no_markup_of_the_data(tmp_path):
    samples = [*make_samples(12, seed=4), GREY]
    page = show(to_parquet(samples, tmp_path / "data"), tmp_path / "out", count=13)
    text = page.read_text()
    assert text.count("data:image/png;base64,") == 13 == len(list((tmp_path / "out").glob("*.png")))
    assert "the <b>box</b>" not in text
    assert "grey" in text and not re.search(r'src="(?!data:)', text)
    assert all(Image.open(file).size[0] > 500 for file in (tmp_path / "out").glob("*.png"))


def test_the_seed_chooses_evenly():
    samples = [replace(GREY, id=str(i)) for i in range(20)]
    drawn = [tuple(s.id for s in choose(iter(samples), 5, seed)) for seed in range(400)]
    assert drawn[3] == tuple(s.id for s in choose(iter(samples), 5, 3))
    counts = [sum(str(i) in each for each in drawn) for i in range(20)]
    assert min(counts) > 60 and max(counts) < 140  # 100 is even
    assert len(choose(samples, 50, 0)) == 20


def test_a_sample_that_cannot_be_drawn_says_why():
    html = sample_html(replace(GREY, image=b"torn"))
    assert "the image of sample &#x27;grey&#x27; is not an image that can be read" in html
    assert "data:image/png" not in html


def test_malformed_objects_are_left_out_of_the_picture():
    nan = replace(TRUE, box=(float("nan"), 0, 1, 1))
    bad_mask = replace(TRUE, rle={"size": [4, 4], "counts": "1"})
    other_size = replace(TRUE, rle=encode(np.ones((4, 4))))
    malformed = replace(GREY, objects=(nan, bad_mask, other_size))
    assert true_instances(malformed, SIZE) == []
    html = sample_html(replace(malformed, turns=({"question": "a&b"},)))
    assert "data:image/png" in html and "before: a&amp;b" in html


def test_one_bad_sample_does_not_hide_the_others(tmp_path):
    samples = [replace(GREY, id="absent", image="absent.png"), GREY]
    page = show(to_parquet(samples, tmp_path / "data"), tmp_path / "out")
    assert [file.name for file in (tmp_path / "out").glob("*.png")] == ["001.png"]
    assert page.read_text().count("data:image/png;base64,") == 1 and "no such image: absent.png" in page.read_text()


def test_the_page_of_a_report_shows_the_problems(tmp_path):
    bad = [replace(GREY, id=f"bad{i}", objects=(replace(TRUE, box=(0, 0, 61, 40)),)) for i in range(7)]
    torn = replace(GREY, id="torn", image=b"torn")
    good = replace(GREY, id="good", image=png(SIZE, (1, 2, 3)))
    folder = to_parquet([*bad, torn, good], tmp_path / "data").parent
    report = check(folder)
    text = report_page(report, [folder])
    assert "a box leaves its image <small>(7 samples)" in text
    shown = text.split("<h2>")
    [leaves] = [part for part in shown if part.startswith("a box leaves")]
    assert leaves.count("data:image/png") == 4 and "bad0" in leaves
    assert any(part.startswith("Some of the rest") and "good" in part for part in shown)
    assert "nothing is wrong" in report_page(check(to_parquet([good], tmp_path / "ok")), [tmp_path / "ok"])
