"""RegionReasoner's dialogues."""

import copy
from pathlib import Path

import pytest

from segzero.data.parquet import from_parquet, to_parquet
from segzero.data.readers import read
from segzero.masks import decode
from tests.helpers.published_records import REGION_DIALOGUE
from tests.helpers.reader_files import SIZE, box_mask, jpeg, write_json


@pytest.fixture
def file(tmp_path) -> Path:
    jpeg(tmp_path / "7.jpg")
    return write_json(tmp_path / "refcocog_multi_turn.json", [REGION_DIALOGUE])


def test_rounds_know_the_rounds_before_them(file, tmp_path):
    man, held, sky = read(file, "region_reasoner")
    assert (man.id, man.size, man.source, man.turns) == ("0-1", SIZE, "refcocog_multi_turn", ())
    assert [o.box for o in man.objects] == [(2, 1, 6, 4), (7, 4, 10, 7)]
    assert (decode(man.mask()) == (box_mask(2, 1, 6, 4) | box_mask(7, 4, 10, 7))).all()
    assert held.question == "what [REF:1] holds"
    assert held.meta == {"image_id": "7", "dialogue": 0, "round": 2, "reference": 1}
    assert held.objects[0].rle is None
    assert [turn["question"] for turn in sky.turns] == ["the man", "what [REF:1] holds"]
    assert sky.turns[0]["boxes"] == [[2, 1, 6, 4], [7, 4, 10, 7]]
    assert sky.turns[0]["masks"] == [o.rle for o in man.objects]
    assert sky.turns[0]["points"] == [[], []]  # one for each box, as many as the objects have
    assert sky.objects[0].box == (0, 0, 12, 1)
    assert list(from_parquet(to_parquet([man, held, sky], tmp_path / "x.parquet"))) == [man, held, sky]


@pytest.mark.parametrize(
    ("turn", "change", "message"),
    [
        (0, {"masks": [box_mask(0, 0, 1, 1, (11, 8)).tolist()]}, "its mask is 11x8"),
        (0, {"masks": [box_mask(0, 0, 0, 0).tolist()]}, "no pixels"),
        (0, {"masks": [{"size": [1 << 14, 1 << 14], "counts": [1 << 28]}]}, "for an image of"),
        (0, {"masks": ["x"]}, "its mask is not a rectangle"),
        (0, {"masks": [[["a"] * 12] * 8]}, "booleans"),
        (0, {"bboxes": [[2, 1, 6]]}, "four numbers"),
        (0, {"bboxes": [[2, 1, float("inf"), 4]]}, "not finite"),
        (1, {"context_from_turn": 1}, "round 2 refers to round 2, which is not before it"),
        (1, {"context_from_turn": -1}, "refers to round 0"),
        (1, {"context_from_turn": None}, "has no context_from_turn"),
        (2, {"question": ""}, "empty"),
    ],
)
def test_bad_dialogues_are_listed(file, turn, change, message):
    bad = copy.deepcopy(REGION_DIALOGUE)
    bad["conversational_turns"][turn] |= change
    write_json(
        file,
        [
            bad,
            REGION_DIALOGUE,
            REGION_DIALOGUE | {"image_path": "../8.jpg"},
            REGION_DIALOGUE | {"image_path": "/a/8.jpg"},
            3,
        ],
    )
    problems: list[str] = []
    assert [s.id for s in read(file, "region_reasoner", problems)] == ["1-1", "1-2", "1-3"]
    assert message in problems[0]
    assert ["lies outside" in problems[1], "no file '8.jpg'" in problems[2], "must be an object" in problems[3]] == [
        True,
        True,
        True,
    ]
