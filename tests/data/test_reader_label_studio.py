"""Label Studio's JSON export."""

from pathlib import Path

import numpy as np
import pytest

from segzero.data.readers import read
from segzero.errors import UserError
from segzero.masks import decode
from tests.helpers.published_records import BRUSH, POLYGON, RECTANGLE, brush_code, studio_region, studio_task
from tests.helpers.reader_files import SIZE, box_mask, jpeg, write_json

TEXT = {"type": "textarea", "value": {"text": ["a note"]}}


@pytest.fixture
def file(tmp_path) -> Path:
    jpeg(tmp_path / "cat.jpg")
    return tmp_path / "project-1.json"


def test_a_label_of_an_image_is_a_sample(file):
    write_json(
        file, [studio_task(POLYGON, TEXT, RECTANGLE, BRUSH), {"id": 4, "data": {"image": "x.jpg"}, "annotations": []}]
    )
    cat, sofa = read(file, "label_studio")
    assert (cat.id, cat.question, cat.size, cat.source) == ("3-cat", "cat", SIZE, "project-1")
    assert [o.box for o in cat.objects] == [(3, 2, 6, 6), (6, 0, 12, 4)]
    assert (decode(cat.objects[0].rle) == box_mask(3, 2, 6, 6)).all()
    assert sofa.question == "the sofa's left arm"
    assert (decode(sofa.objects[0].rle) == box_mask(1, 1, 5, 3)).all()


@pytest.mark.parametrize("runs", [True, False])
def test_brushes_in_runs_and_value_by_value(file, runs):
    mask = np.random.default_rng(0).random(SIZE[::-1]) > 0.5
    write_json(file, [studio_task(studio_region("brushlabels", {"format": "rle", "rle": brush_code(mask, runs)}))])
    [sample] = read(file, "label_studio")
    assert (decode(sample.objects[0].rle) == mask).all()


@pytest.mark.parametrize(
    "address",
    ["cat.jpg", "s3://bucket/deep/cat.jpg", "/data/local-files/?d=photos/cat.jpg", "https://x.org/c%61t.jpg?a=1"],
)
def test_images_are_found_by_name(file, address):
    write_json(file, [studio_task(POLYGON, image=address)])
    [sample] = read(file, "label_studio")
    assert sample.image == str(file.parent / "cat.jpg")


def test_images_beside_the_file(file):
    (file.parent / "images").mkdir()
    (file.parent / "cat.jpg").rename(file.parent / "images/cat.jpg")
    write_json(file, [studio_task(POLYGON)])
    [sample] = read(file, "label_studio")
    assert sample.image == str(file.parent / "images/cat.jpg")


CODE = brush_code(box_mask(1, 1, 5, 3))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (studio_task(POLYGON, image=".."), "lies outside"),
        (studio_task(POLYGON, image="gone.jpg"), "no file 'gone.jpg'"),
        (studio_task(studio_region("polygonlabels", {"points": [[25, 25], [50, 25]]})), "enclose no pixel"),
        (studio_task(studio_region("polygonlabels", {"points": [[25, float("nan")]] * 3})), "not finite"),
        (studio_task(studio_region("polygonlabels", {"points": [[25]] * 3})), "a corner must be x, y"),
        (studio_task(studio_region("polygonlabels", {"points": [[25, 1e7]] * 3})), "far outside"),
        (studio_task(studio_region("rectanglelabels", {"x": 1, "y": 1, "width": 0, "height": 5})), "no area"),
        (
            studio_task(studio_region("rectanglelabels", {"x": 1, "y": 1, "width": 5, "height": 5, "rotation": 30})),
            "rotated",
        ),
        (studio_task(RECTANGLE | {"original_width": 640}), "another size"),
        (studio_task(studio_region("polygonlabels", {"points": []}, "")), "empty"),
        (studio_task(RECTANGLE | {"value": {"rectanglelabels": ["a", "b"]}}), "2 labels"),
        (studio_task(studio_region("brushlabels", {"rle": CODE[:9]})), "ends too early"),
        (studio_task(studio_region("brushlabels", {"rle": [255, *CODE[1:]]})), "of another size"),
        (studio_task(studio_region("brushlabels", {"rle": [*CODE[:9], *[255] * 40]})), "more values"),
        (studio_task(studio_region("brushlabels", {"rle": [300]})), "list of bytes"),
        (studio_task(studio_region("brushlabels", {"rle": brush_code(box_mask(0, 0, 0, 0))})), "no pixels"),
        ([], "must be an object"),
    ],
)
def test_bad_tasks_are_listed(file, bad, message):
    write_json(file, [studio_task(POLYGON, id=1), bad])
    problems: list[str] = []
    assert [s.id for s in read(file, "label_studio", problems)] == ["1-cat"]
    [problem] = problems
    assert "task 1: " in problem
    assert message in problem


def test_another_export(file):
    write_json(file, {"tasks": []})
    with pytest.raises(UserError, match="export as JSON, not JSON-MIN"):
        list(read(file, "label_studio"))
