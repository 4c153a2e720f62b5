"""ConverSeg's three forms."""

import json
from pathlib import Path

import pytest
from datasets import Dataset, Image

from segzero.data.readers import conver_seg, read
from segzero.errors import UserError
from segzero.masks import decode
from tests.helpers.published_records import CONVERSEG_ITEM
from tests.helpers.reader_files import SIZE, box_mask, jpeg, mask_bytes, mask_png, png, write_json


@pytest.fixture
def folder(tmp_path) -> Path:
    jpeg(tmp_path / "images/0001.jpg")
    mask_png(tmp_path / "masks/0001.png", box_mask(1, 1, 4, 4))
    mask_png(tmp_path / "masks/black.png", box_mask(0, 0, 0, 0))
    return tmp_path


def write_lines(folder: Path, *lines: dict | str) -> Path:
    text = "\n".join(line if isinstance(line, str) else json.dumps(line, ensure_ascii=False) for line in lines)
    (folder / "dataset.jsonl").write_text(text, encoding="utf-8")
    return folder


LINE = {"image": "images/0001.jpg", "mask_merged": "masks/0001.png", "prompt": "the left-most person"}


def test_training_lines(folder):
    write_lines(folder, LINE, "", LINE | {"prompt": ""}, {k: LINE[k] for k in ("image", "mask_merged")})
    person, empty, absent = read(folder, "converseg")
    assert (person.question, empty.question, absent.question) == ("the left-most person", "segment", "segment")
    assert (decode(person.objects[0].rle) == box_mask(1, 1, 4, 4)).all()
    assert (person.size, person.image) == (SIZE, str(folder / "images/0001.jpg"))
    assert list(read(folder / "dataset.jsonl", "converseg")) == [person, empty, absent]


def test_evaluation_items_and_black_masks(folder):
    items = [CONVERSEG_ITEM, CONVERSEG_ITEM | {"id": 2, "mask": "masks/black.png", "prompt": "Brüstung 🛝"}]
    write_json(folder / "items.json", {"dataset": "chunk_01", "count": 2, "items": items})
    rail, nothing = read(folder, "converseg")
    assert (rail.id, rail.concept, rail.split) == ("0001", "affordances", "chunk_01")
    assert (nothing.id, nothing.empty, nothing.question) == ("2", True, "Brüstung 🛝")
    write_lines(folder, LINE)
    with pytest.raises(UserError, match=r"dataset\.jsonl and items\.json; name the one"):
        list(read(folder, "converseg"))


def test_hub_columns(tmp_path):
    row = {"id": "7", "image": {"bytes": png(), "path": None}, "prompt": "what holds the roof", "concept": "physics"}
    row["mask"] = {"bytes": mask_bytes(box_mask(2, 2, 8, 6)), "path": None}
    dataset = Dataset.from_list([row]).cast_column("image", Image()).cast_column("mask", Image())
    dataset.to_parquet(str(tmp_path / "human_annotated-00000-of-00001.parquet"))
    [sample] = read(tmp_path, "converseg", split="human_annotated")
    assert (sample.id, sample.concept, sample.split) == ("human_annotated-7", "physics", "human_annotated")
    assert sample.objects[0].box == (2, 2, 8, 6)
    assert [found.objects for found in read(dataset, "converseg")] == [sample.objects]


def test_either_spelling_of_the_hub_name(tmp_path, monkeypatch):
    """The one that can be had is read; here, from a folder of that name."""
    row = {
        "id": "7",
        "image": {"bytes": png(), "path": None},
        "prompt": "x",
        "mask": {"bytes": mask_bytes(box_mask(0, 0, 2, 2)), "path": None},
    }
    (tmp_path / "aadarsh99/ConvSeg").mkdir(parents=True)
    Dataset.from_list([row]).to_parquet(str(tmp_path / "aadarsh99/ConvSeg/sam_seeded-00000-of-00001.parquet"))
    monkeypatch.chdir(tmp_path)
    for name in conver_seg.HUB_NAMES:
        assert [s.id for s in read(name, "converseg", split="sam_seeded")] == ["sam_seeded-7"]
    monkeypatch.chdir("/")
    with pytest.raises(UserError, match="cannot get aadarsh99/ConverSeg from the hub"):
        list(read("aadarsh99/ConverSeg", "converseg"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (LINE | {"image": "../../etc/passwd"}, "lies outside"),
        (LINE | {"image": "/etc/passwd"}, "lies outside"),
        (LINE | {"image": "images/absent.jpg"}, "no file 'images/absent.jpg'"),
        (LINE | {"mask_merged": "images/0001.jpg"}, "save masks as PNG"),
        (LINE | {"mask_merged": "masks/small.png"}, "small.png is 5x5, the image it belongs to 12x8"),
        (LINE | {"mask_merged": "masks/text.png"}, "text.png is not an image"),
        (LINE | {"mask_merged": "masks/cut.png"}, "cut.png is damaged"),
        (LINE | {"mask_merged": "masks/bomb.png"}, "more than the 89 allowed"),
        (LINE | {"mask_merged": ""}, "not a file name"),
        (LINE | {"prompt": 3}, "'prompt' must be text, not 3"),
        ({"image": "images/0001.jpg"}, "it lacks 'mask_merged'"),
        ("{broken", "not JSON"),
        ("[1]", "must be an object"),
        ("9" * 5000, "not JSON"),
    ],
)
def test_bad_lines_are_listed(folder, line, message):
    mask_png(folder / "masks/small.png", box_mask(0, 0, 2, 2, (5, 5)))
    (folder / "masks/text.png").write_text("no picture")
    whole = mask_bytes(box_mask(1, 1, 4, 4))
    (folder / "masks/cut.png").write_bytes(whole[:45])
    sides = (60_000).to_bytes(4, "big") * 2
    from zlib import crc32

    header = b"IHDR" + sides + whole[24:29]
    (folder / "masks/bomb.png").write_bytes(whole[:12] + header + crc32(header).to_bytes(4, "big") + whole[33:])
    write_lines(folder, LINE, line)
    problems: list[str] = []
    assert len(list(read(folder, "converseg", problems))) == 1
    [problem] = problems
    assert "dataset.jsonl, line 2: " in problem
    assert message in problem


def test_absolute_paths_inside_the_named_folder(folder, tmp_path):
    elsewhere = tmp_path / "lists"
    elsewhere.mkdir()
    write_lines(elsewhere, LINE | {"image": str(folder / "images/0001.jpg")})
    with pytest.raises(UserError, match=r"line 1: .*lies outside"):
        list(read(elsewhere, "converseg"))
    assert len(list(read(elsewhere, "converseg", images=folder))) == 1
    write_json(elsewhere / "items.json", [CONVERSEG_ITEM])
    with pytest.raises(UserError, match=r"items\.json: it must be an object"):
        list(read(elsewhere / "items.json", "converseg"))
