"""Label Studio's JSON export."""

from pathlib import Path

import numpy as np
import pytest

from segzero.data.readers import read
from segzero.errors import UserError
from segzero.masks import decode
from tests.helpers.reader_files import SIZE, box_mask, jpeg, write_json


def brush_code(mask: np.ndarray, runs: bool = True) -> list[int]:
    """What Label Studio's editor writes for a stroke: 8-bit values, lengths in 3, 4, 8 or 16 bits."""
    widths = (3, 4, 8, 16)
    values = np.repeat(mask.astype(int).ravel() * 255, 4)
    bits = f"{len(values):032b}{7:05b}" + "".join(f"{width - 1:04b}" for width in widths)
    start = 0
    while start < len(values):
        same = int(np.argmax(np.append(values[start:] != values[start], True)))
        count = min(same, 1 << 16) if runs else min(len(values) - start, 11)
        which = next(i for i, width in enumerate(widths) if count <= 1 << width)
        bits += f"{int(runs)}{which:02b}{count - 1:0{widths[which]}b}"
        bits += "".join(f"{v:08b}" for v in values[start : start + (1 if runs else count)])
        start += count
    bits += "0" * (-len(bits) % 8)
    return [int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)]


def region(kind: str, value: dict, label: str = "cat", **changes) -> dict:
    return {
        "id": "a1",
        "type": kind,
        "from_name": "tag",
        "to_name": "image",
        "original_width": SIZE[0],
        "original_height": SIZE[1],
        "image_rotation": 0,
        "value": value | {kind: [label]},
    } | changes


POLYGON = region("polygonlabels", {"points": [[25, 25], [50, 25], [50, 75], [25, 75]]})
RECTANGLE = region("rectanglelabels", {"x": 50, "y": 0, "width": 50, "height": 50, "rotation": 0})
BRUSH = region("brushlabels", {"format": "rle", "rle": brush_code(box_mask(1, 1, 5, 3))}, "the sofa's left arm")
TEXT = {"type": "textarea", "value": {"text": ["a note"]}}


def task(*regions: dict, id: int = 3, image: str = "/data/upload/1/cat.jpg") -> dict:
    annotation = {"id": 1, "was_cancelled": False, "result": list(regions)}
    return {"id": id, "data": {"image": image}, "annotations": [{"was_cancelled": True, "result": []}, annotation]}


@pytest.fixture
def file(tmp_path) -> Path:
    jpeg(tmp_path / "cat.jpg")
    return tmp_path / "project-1.json"


def test_a_label_of_an_image_is_a_sample(file):
    write_json(file, [task(POLYGON, TEXT, RECTANGLE, BRUSH), {"id": 4, "data": {"image": "x.jpg"}, "annotations": []}])
    cat, sofa = read(file, "label_studio")
    assert (cat.id, cat.question, cat.size, cat.source) == ("3-cat", "cat", SIZE, "project-1")
    assert [o.box for o in cat.objects] == [(3, 2, 6, 6), (6, 0, 12, 4)]
    assert (decode(cat.objects[0].rle) == box_mask(3, 2, 6, 6)).all()
    assert sofa.question == "the sofa's left arm"
    assert (decode(sofa.objects[0].rle) == box_mask(1, 1, 5, 3)).all()


@pytest.mark.parametrize("runs", [True, False])
def test_brushes_in_runs_and_value_by_value(file, runs):
    mask = np.random.default_rng(0).random(SIZE[::-1]) > 0.5
    write_json(file, [task(region("brushlabels", {"format": "rle", "rle": brush_code(mask, runs)}))])
    [sample] = read(file, "label_studio")
    assert (decode(sample.objects[0].rle) == mask).all()


@pytest.mark.parametrize(
    "address",
    ["cat.jpg", "s3://bucket/deep/cat.jpg", "/data/local-files/?d=photos/cat.jpg", "https://x.org/c%61t.jpg?a=1"],
)
def test_images_are_looked_for_by_name(file, address):
    write_json(file, [task(POLYGON, image=address)])
    [sample] = read(file, "label_studio")
    assert sample.image == str(file.parent / "cat.jpg")


def test_images_beside_the_file(file):
    (file.parent / "images").mkdir()
    (file.parent / "cat.jpg").rename(file.parent / "images/cat.jpg")
    write_json(file, [task(POLYGON)])
    [sample] = read(file, "label_studio")
    assert sample.image == str(file.parent / "images/cat.jpg")


CODE = brush_code(box_mask(1, 1, 5, 3))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (task(POLYGON, image=".."), "lies outside"),
        (task(POLYGON, image="gone.jpg"), "no file 'gone.jpg'"),
        (task(region("polygonlabels", {"points": [[25, 25], [50, 25]]})), "enclose no pixel"),
        (task(region("polygonlabels", {"points": [[25, float("nan")]] * 3})), "not finite"),
        (task(region("polygonlabels", {"points": [[25]] * 3})), "a corner must be x, y"),
        (task(region("polygonlabels", {"points": [[25, 1e7]] * 3})), "far outside"),
        (task(region("rectanglelabels", {"x": 1, "y": 1, "width": 0, "height": 5})), "no area"),
        (task(region("rectanglelabels", {"x": 1, "y": 1, "width": 5, "height": 5, "rotation": 30})), "rotated"),
        (task(RECTANGLE | {"original_width": 640}), "another size"),
        (task(region("polygonlabels", {"points": []}, "")), "empty"),
        (task(RECTANGLE | {"value": {"rectanglelabels": ["a", "b"]}}), "2 labels"),
        (task(region("brushlabels", {"rle": CODE[:9]})), "ends too early"),
        (task(region("brushlabels", {"rle": [255, *CODE[1:]]})), "of another size"),
        (task(region("brushlabels", {"rle": [*CODE[:9], *[255] * 40]})), "more values"),
        (task(region("brushlabels", {"rle": [300]})), "list of bytes"),
        (task(region("brushlabels", {"rle": brush_code(box_mask(0, 0, 0, 0))})), "no pixels"),
        ([], "must be an object"),
    ],
)
def test_bad_tasks_are_listed(file, bad, message):
    write_json(file, [task(POLYGON, id=1), bad])
    problems: list[str] = []
    assert [s.id for s in read(file, "label_studio", problems)] == ["1-cat"]
    [problem] = problems
    assert "task 1: " in problem
    assert message in problem


def test_another_export(file):
    write_json(file, {"tasks": []})
    with pytest.raises(UserError, match="export as JSON, not JSON-MIN"):
        list(read(file, "label_studio"))
