"""Own data: images/, masks/ and a table of prompts."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segzero.data.parquet import from_parquet, to_parquet
from segzero.data.readers import read
from segzero.errors import UserError
from segzero.masks import decode
from tests.helpers.reader_files import SIZE, box_mask, jpeg, mask_png


@pytest.fixture
def folder(tmp_path) -> Path:
    mine = tmp_path / "mine"
    jpeg(mine / "images/cat.jpg")
    jpeg(mine / "images/day 1/straße.jpg")
    mask_png(mine / "masks/cat.png", box_mask(1, 1, 4, 4))
    mask_png(mine / "masks/dog.png", box_mask(6, 2, 10, 7))
    mask_png(mine / "masks/day 1/straße.png", box_mask(0, 6, 12, 8))
    return mine


CSV = """image,prompt,mask,split,concept,id
cat.jpg,the cat,,train,entities,
cat.jpg,"both animals, please",cat.png | dog.png,train,,both
cat.jpg,the bird,none,val,,
day 1/straße.jpg,die Straße 🛣,,val,,
"""


def test_a_csv_table(folder):
    (folder / "prompts.csv").write_text(CSV, encoding="utf-8")
    cat, both, bird, street = read(folder, "folder")
    assert [s.id for s in (cat, both, bird, street)] == ["0", "both", "2", "3"]
    assert (cat.question, cat.size, cat.split, cat.concept, cat.source) == (
        "the cat",
        SIZE,
        "train",
        "entities",
        "mine",
    )
    assert both.question == "both animals, please"
    assert [o.box for o in both.objects] == [(1, 1, 4, 4), (6, 2, 10, 7)]
    assert bird.empty
    assert street.question == "die Straße 🛣"
    assert street.objects[0].box == (0, 6, 12, 8)
    assert list(read(folder, "folder", split="val")) == [bird, street]


@pytest.mark.parametrize("separator", [";", "\t"])
def test_tables_as_spreadsheets_write_them(folder, separator):
    text = f"\ufeffimage{separator} prompt\r\ncat.jpg {separator} the cat\r\n\r\n"
    (folder / "prompts.csv").write_text(text, encoding="utf-8", newline="")
    [sample] = read(folder, "folder")
    assert sample.question == "the cat"


def test_json_lines_say_the_same(folder):
    (folder / "prompts.csv").write_text(CSV, encoding="utf-8")
    expected = list(read(folder, "folder"))
    (folder / "prompts.csv").unlink()
    lines = [
        {"image": "cat.jpg", "prompt": "the cat", "split": "train", "concept": "entities"},
        {"image": "cat.jpg", "prompt": "both animals, please", "mask": ["cat.png", "dog.png"], "split": "train"}
        | {"id": "both"},
        {"image": "cat.jpg", "prompt": "the bird", "mask": [], "split": "val"},
        {"image": "day 1/straße.jpg", "prompt": "die Straße 🛣", "split": "val"},
    ]
    (folder / "prompts.jsonl").write_text("\ufeff" + "\n".join(map(json.dumps, lines)), encoding="utf-8")
    assert list(read(folder, "folder")) == expected


def test_samples_can_be_stored(folder, tmp_path):
    (folder / "prompts.csv").write_text(CSV, encoding="utf-8")
    samples = list(read(folder, "folder"))
    assert list(from_parquet(to_parquet(samples, tmp_path / "mine.parquet"))) == samples


@pytest.mark.parametrize("mode", ["1", "L", "I;16", "RGB", "RGBA", "P", "LA"])
def test_masks_of_every_kind(folder, mode):
    inside = box_mask(1, 1, 4, 4)
    if mode == "P":  # as VOC's: an object's number is a colour's place
        image = Image.fromarray(inside.astype(np.uint8) * 3).convert("P")
        image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0])
    elif mode == "I;16":
        image = Image.fromarray(inside.astype(np.uint16) * 300)
    elif mode in ("RGBA", "LA"):  # white everywhere, transparent outside
        image = Image.new(mode, SIZE, "white")
        image.putalpha(Image.fromarray(inside.astype(np.uint8) * 255))
    else:
        image = Image.fromarray(inside.astype(np.uint8)).convert(mode)  # ones, hardly not black
        image = Image.fromarray(inside) if mode == "1" else image
    image.save(folder / "masks/cat.png")
    (folder / "prompts.csv").write_text("image,prompt\ncat.jpg,the cat\n")
    [sample] = read(folder, "folder")
    assert (decode(sample.objects[0].rle) == inside).all()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"image": "cat.jpg", "prompt": ""}, "prompt is empty"),
        ({"image": "cat.jpg"}, "it lacks 'prompt'"),
        ({"image": "bird.jpg", "prompt": "x"}, "no file 'bird.jpg'"),
        ({"image": "../masks/cat.png", "prompt": "x"}, "lies outside"),
        ({"image": "cat.jpg", "prompt": "x", "mask": "../images/cat.jpg"}, "lies outside"),
        ({"image": "cat.jpg", "prompt": "x", "mask": "bird.png"}, "no file 'bird.png'"),
        ({"image": "cat.jpg", "prompt": "x", "mask": "black.png"}, "black.png is all black; if nothing matches, write"),
        ({"image": "cat.jpg", "prompt": "x", "mask": [3]}, "a file name or a list of them"),
        ({"image": "cat.jpg", "prompt": "x", "id": "0"}, "id '0' has been used already"),
        ({"image": "cat.jpg", "prompt": "x", "id": 1.5}, "'id' must be a whole number or text, not 1.5"),
    ],
)
def test_bad_lines_are_listed(folder, row, message):
    mask_png(folder / "masks/black.png", box_mask(0, 0, 0, 0))
    good = {"image": "cat.jpg", "prompt": "the cat"}
    (folder / "prompts.jsonl").write_text(f"{json.dumps(good)}\n\n{json.dumps(row)}\n")
    problems: list[str] = []
    assert [s.id for s in read(folder, "folder", problems)] == ["0"]
    [problem] = problems
    assert "prompts.jsonl, line 3: " in problem
    assert message in problem


def test_incomplete_folders(folder, tmp_path):
    with pytest.raises(UserError, match=r"one of prompts\.csv and prompts\.jsonl; it holds 0"):
        list(read(folder, "folder"))
    (folder / "prompts.csv").write_bytes(b"image,prompt\ncat.jpg,caf\xe9\n")
    with pytest.raises(UserError, match="not a table in UTF-8"):
        list(read(folder, "folder"))
    (folder / "prompts.jsonl").write_text("")
    with pytest.raises(UserError, match="it holds 2"):
        list(read(folder, "folder"))
    with pytest.raises(UserError, match="no such folder"):
        list(read(tmp_path / "nowhere", "folder"))


def test_lines_are_read_one_at_a_time(folder):
    """A table much larger than memory can be begun."""
    import tracemalloc

    line = json.dumps({"image": "cat.jpg", "prompt": "x" * 1000}) + "\n"
    (folder / "prompts.jsonl").write_text(line * 20_000)
    tracemalloc.start()
    samples = read(folder, "folder")
    for _ in range(50):
        next(samples)
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()
