"""Answers that users flagged: the server's file is read back as samples."""

import json

import numpy as np
import pytest
from PIL import Image

from segzero.data.readers import read
from segzero.dialogue import Registry, Round
from segzero.errors import UserError
from segzero.masks import decode
from segzero.result import InstanceMask
from segzero.serving.errors import ApiError
from segzero.serving.feedback import FeedbackStore

IMAGE = Image.new("RGB", (60, 40), "teal")
GOOD, BAD = {"verdict": "good", "note": "", "policy": "p", "segmenter": "s"}, {"verdict": "bad", "note": "all of it"}


@pytest.fixture
def registry():
    """Two rounds: one thing, then nothing; and a third that can't be read."""
    mask = np.zeros((40, 60), bool)
    mask[10:20, 5:25] = True
    found = Registry(IMAGE.size)
    regions = found.number("the mug", (InstanceMask(mask, (5.0, 10.0, 25.0, 20.0), ((15.0, 15.0),), 0.9),))
    found = found.add(Round(1, "the mug", regions, think="it is there", raw_text="..."))
    return found.add(Round(2, "the cat", refers=(1,))).add(Round(3, "the dog", error="truncated"))


@pytest.fixture
def flags(tmp_path):
    return FeedbackStore(tmp_path / "flags", 1 << 20)


def test_an_answer_flagged_as_good_is_the_truth(flags, registry):
    for number in (1, 2, 3):
        flags.add(IMAGE, registry, number, GOOD)
    mug, cat = read(flags.folder, "flags")
    assert (mug.question, mug.size, mug.turns, mug.meta["policy"]) == ("the mug", (60, 40), (), "p")
    [thing] = mug.objects
    assert thing.box == (5, 10, 25, 20) and thing.points == ((15, 15),)
    assert (decode(thing.rle) == decode(registry.regions[0].rle)).all()
    assert cat.empty and [turn["question"] for turn in cat.turns] == ["the mug"]
    assert cat.turns[0]["boxes"] == [[5, 10, 25, 20]] and cat.turns[0]["masks"] == [registry.regions[0].rle]
    assert mug.open().tobytes() == IMAGE.tobytes() and mug.image == cat.image
    assert len(list((flags.folder / "images").iterdir())) == 1


def test_the_last_flag_counts(flags, registry):
    flags.add(IMAGE, registry, 1, GOOD)
    flags.add(IMAGE, registry, 1, BAD)
    flags.add(IMAGE, registry, 2, GOOD)
    assert [sample.question for sample in read(flags.folder, "flags")] == ["the cat"]
    [mug] = read(flags.folder / "flags.jsonl", "flags", verdict="bad")
    assert mug.question == "the mug" and mug.meta["note"] == "all of it"


def test_a_folder_grows_up_to_its_bounds_and_is_counted_again(tmp_path, registry):
    first = FeedbackStore(tmp_path, 1 << 20)
    first.add(IMAGE, registry, 1, GOOD)
    held = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    line = (tmp_path / "flags.jsonl").stat().st_size
    again = FeedbackStore(tmp_path, held + line)
    again.add(IMAGE, registry, 1, GOOD)
    with pytest.raises(ApiError, match="no room"):
        again.add(IMAGE, registry, 1, GOOD)
    with pytest.raises(UserError, match="no round 7"):
        again.add(IMAGE, registry, 7, GOOD)
    assert len((tmp_path / "flags.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"image": "../other.png"}, "lies outside"),
        ({"image": "images/none.png"}, "no file"),
        ({"verdict": "perhaps"}, "good or bad"),
        ({"width": 61}, "another size"),
        ({"question": ""}, "empty"),
        ({"objects": [{"box": [0, 0, 9, 9], "points": [], "rle": {"size": [9, 9], "counts": [81]}}]}, "60x40"),
        ({"objects": [{"box": [0, 0, 9, 9], "points": [[99, 1]], "rle": {}}]}, "RLE"),
        ({"turns": [{"question": "a", "boxes": [[0, 0, 9, 9]], "points": [], "masks": []}]}, "as many"),
        ({"turns": [3]}, "object of named fields"),
    ],
)
def test_a_malformed_line_is_named(flags, registry, change, said):
    flags.add(IMAGE, registry, 1, GOOD)
    flags.add(IMAGE, registry, 2, GOOD)
    file = flags.folder / "flags.jsonl"
    first, second = file.read_text().splitlines()
    file.write_text(json.dumps(json.loads(first) | change) + "\n" + second + "\n{\n")
    problems: list[str] = []
    assert [sample.question for sample in read(flags.folder, "flags", problems)] == ["the cat"]
    assert said in problems[0] and "line 1" in problems[0] and "line 3" in problems[1]
    with pytest.raises(UserError, match="verdict must be"):
        list(read(flags.folder, "flags", verdict="fine"))
