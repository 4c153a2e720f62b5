"""REFER's and gRefCOCO's folders, as they are unpacked."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from segzero.data.readers import plain_pickle, read
from segzero.errors import UserError
from segzero.masks import decode
from tests.helpers.published_records import REFER_IMAGE, REFER_INSTANCES, REFER_REFS, refer_ref
from tests.helpers.reader_files import SIZE, box_mask, jpeg, write_json


@pytest.fixture
def refcoco(tmp_path) -> Path:
    folder = tmp_path / "refcoco"
    write_json(folder / "instances.json", REFER_INSTANCES)
    (folder / "refs(unc).p").write_bytes(pickle.dumps(REFER_REFS, protocol=2))
    (folder / "refs(google).p").write_bytes(pickle.dumps(REFER_REFS[:1], protocol=0))
    jpeg(tmp_path / "images/mscoco/images/train2014" / REFER_IMAGE)
    return folder


def write_refs(folder: Path, *refs: dict) -> None:
    (folder / "refs(unc).p").write_bytes(pickle.dumps(list(refs)))


def test_an_expression_is_a_sample(refcoco):
    cat, katze, dog, corner = read(refcoco, "refer")
    assert (cat.id, cat.question, katze.question) == ("1-10", "the cat", "katze links 🐈")
    assert cat.objects == katze.objects
    assert cat.objects[0].box == (2, 1, 6, 4)
    assert (decode(cat.objects[0].rle) == box_mask(2, 1, 6, 4)).all()
    assert (cat.size, cat.open().size, cat.category) == (SIZE, SIZE, "cat")
    assert (cat.split, cat.source) == ("val", "refcoco")
    assert cat.meta == {"ref_id": "1", "image_id": 42, "ann_id": [900], "categories": ["cat", "dog"]}
    assert dog.split == "testA"
    assert decode(dog.objects[0].rle).sum() == 9
    assert (decode(corner.objects[0].rle) == box_mask(0, 0, 2, 2)).all()


def test_options_by_and_level(refcoco):
    assert len(list(read(refcoco, "refer", by="google"))) == 2
    assert [s.question for s in read(refcoco, "refer", level="instance", split="val")] == ["the cat", "corner"]
    with pytest.raises(UserError, match=r"has no refs\(umd\); it has google, unc"):
        list(read(refcoco, "refer", by="umd"))
    with pytest.raises(UserError, match=r"there are no records to read in .*; check the path and the split"):
        list(read(refcoco, "refer", split="testC"))
    with pytest.raises(UserError, match="unknown level 'word'"):
        list(read(refcoco, "refer", level="word"))


def test_refclef_has_its_own_image_folder(refcoco, tmp_path):
    refclef = refcoco.rename(tmp_path / "refclef")
    with pytest.raises(UserError, match=r"images=\.\.\. names another\): no such folder: .*saiapr_tc-12"):
        list(read(refclef, "refer"))
    jpeg(tmp_path / "images/saiapr_tc-12" / REFER_IMAGE)
    assert len(list(read(refclef, "refer"))) == 4


def test_strings_of_python_2(refcoco):
    """REFER's own pickles were written by Python 2, whose plain strings are bytes."""
    old = b"(lp0\n(dp1\nS'sent'\np2\nS'caf\\xc3\\xa9'\np3\nsa."
    assert plain_pickle.loads(old) == [{"sent": "café"}]


PAIRS = b")" + b"2\x86" * 60  # a pair of the same twice, in such a pair, and so on: a hash of 2**60 steps


class Harmful:
    def __reduce__(self):
        return Path.touch, (Path("harmed"),)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (pickle.dumps([Harmful()]), "it asks for pathlib"),
        (b"cos\nsystem\n(S'touch harmed'\ntR.", "it asks for os.system"),
        (b"(S'touch harmed'\nios\nsystem\n.", "it asks for os.system"),
        (pickle.dumps(np.zeros(3)), "it asks for numpy"),
        (b"\x80\x02\x82\x01.", "not a whole pickle"),  # an extension
        (b"Pname\n.", "not a whole pickle"),  # a persistent id
        (pickle.dumps(REFER_REFS)[:100], "not a whole pickle"),
        (b"\x80\x04]r\xff\xff\xff\xfe", "not a whole pickle"),  # a memo of four thousand million places
        (b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x7f", "not a whole pickle"),  # a string of 8 EiB
        (b"\x80\x05\x96\x00\x00\x00\x00\x01\x00\x00\x00.", "not a whole pickle"),  # a byte array of 4 GiB
        (b"\x80\x02])}" + PAIRS + b"Ns.", "must be text, not tuple"),
        (b"\x80\x02](" + PAIRS + b"Nd.", "must be text, not tuple"),
        (b"\x80\x02]}(" + PAIRS + b"NX\x01\x00\x00\x00aNu.", "must be text, not tuple"),
        (b"\x80\x04\x8f(" + PAIRS + b"\x90.", "not a whole pickle"),  # a set
        (b"\x80\x04(" + PAIRS + b"\x91.", "not a whole pickle"),
        (pickle.dumps([{(2**61 - 1) * i: None for i in range(9)}]), "must be text, not int"),  # all have the hash 0
        (b"", "not a whole pickle"),
        (pickle.dumps({"refs": []}), "must hold a list"),
    ],
)
def test_hostile_pickles(refcoco, raw, message, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (refcoco / "refs(unc).p").write_bytes(raw)
    with pytest.raises(UserError, match=r"refs\(unc\)\.p") as caught:
        list(read(refcoco, "refer"))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not Path("harmed").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"segmentation": [[1.0, float("nan"), 3.0, 4.0, 5.0, 6.0]]}, "not finite"),
        ({"segmentation": [[10**400, 1, 3, 4, 5, 6]]}, "not finite or beyond"),
        ({"segmentation": [[1e6, 1, 3, 4, 5, 6]]}, "far outside its image"),
        ({"segmentation": [[1, 1, 3, 4]]}, "enclose no pixel"),
        ({"segmentation": [["a"]]}, "it holds 'a'"),
        ({"segmentation": [{"size": [8, 12]}]}, "malformed RLE"),
        ({"segmentation": {"size": [2**31, 2**31], "counts": "1"}}, "a mask must have 1 to"),
        ({"segmentation": {"size": [8, 12], "counts": [10**12]}}, "malformed RLE"),
        ({"segmentation": {"size": [9, 12], "counts": [108]}}, "for an image of"),
        ({"segmentation": None, "bbox": [2, 1, 0, 3]}, "neither a mask nor a box"),
        ({"segmentation": None, "bbox": [2, float("inf"), 1, 3]}, "not finite"),
        ({"segmentation": None, "bbox": "all"}, "'bbox' must be a list"),
        ({"image_id": 43}, "belongs to another image"),
    ],
)
def test_a_bad_annotation_leaves_out_its_ref_alone(refcoco, change, message):
    instances = json.loads(json.dumps(REFER_INSTANCES))
    instances["annotations"][0] |= change
    write_json(refcoco / "instances.json", instances)
    problems: list[str] = []
    assert [sample.id for sample in read(refcoco, "refer", problems)] == ["2-20", "3-30"]
    [problem] = problems
    assert "refs(unc).p, record 0: " in problem
    assert message in problem


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (refer_ref(9, 7, ["x"]), "its annotation 7 is not in instances.json"),
        (refer_ref(9, [[]], ["x"]), "its annotation list is not in instances.json"),
        (refer_ref(9, [10**5000], ["x"]), "its annotation int is not in instances.json"),
        (refer_ref(9, 900, ["x"], image_id=1), "its image 1 is not in instances.json"),
        (refer_ref(9, 900, ["x"], image_id=[42]), "'image_id' must be a whole number or text"),
        (refer_ref(9, 900, ["  "]), "prompt is empty"),
        (refer_ref(9, 900, ["half \ud83d"]), "lone surrogate"),
        (refer_ref(9, 900, ["x"]) | {"ref_id": 10**5000}, "more than 64 bits"),
        (refer_ref(9, 900, []), "no sentences"),
        (refer_ref(9, 900, ["x"], sentences=["x"]), "must be an object of named fields, not 'x'"),
        (refer_ref(1, 900, ["the cat"]), "its id '1-10' has been used already"),
        (["not a ref"], "must be an object"),
    ],
)
def test_a_bad_ref_is_listed(refcoco, record, message):
    write_refs(refcoco, *REFER_REFS, record)
    problems: list[str] = []
    assert len(list(read(refcoco, "refer", problems))) == 4
    [problem] = problems
    assert "record 3: " in problem
    assert message in problem


def test_absent_images_are_listed_and_none_is_read_outside_the_folder(refcoco, tmp_path):
    jpeg(tmp_path / "secret.jpg")
    instances = json.loads(json.dumps(REFER_INSTANCES))
    instances["images"] += [
        {"id": 43, "file_name": "absent.jpg", "width": 12, "height": 8},
        {"id": 44, "file_name": "../../../../secret.jpg", "width": 12, "height": 8},
        {"id": 45, "file_name": str(tmp_path / "secret.jpg"), "width": 12, "height": 8},
        {"id": 46, "file_name": REFER_IMAGE, "width": 0, "height": 8},
        {"id": 47, "file_name": "a" * 5000, "width": 12, "height": 8},
        {"id": 48, "file_name": "a\0.jpg", "width": 12, "height": 8},
    ]
    write_json(refcoco / "instances.json", instances)
    write_refs(refcoco, *(refer_ref(i, [], ["x"], image_id=i) for i in range(42, 49)))
    problems: list[str] = []
    assert len(list(read(refcoco, "refer", problems))) == 1
    messages = ["no file 'absent.jpg'", "lies outside", "lies outside", "0x8 pixels", "too long", "not a file name"]
    for problem, message in zip(problems, messages, strict=True):
        assert message in problem


def test_grefcoco(refcoco, tmp_path):
    folder = refcoco.rename(tmp_path / "grefcoco")
    refs = [
        refer_ref(1, [900, 901], ["both animals"], category_id=[17, 18], no_target=False),
        refer_ref(2, [-1], ["the bird"], category_id=[-1], no_target=True),
        refer_ref(3, -1, ["the fish"]),
        refer_ref(4, 900, ["the cat"]),
    ]
    write_json(folder / "grefs(unc).json", refs)
    both, bird, fish, cat = read(folder, "grefcoco")
    assert [o.box for o in both.objects] == [(2, 1, 6, 4), (7, 4, 10, 7)]
    assert (both.empty, bird.empty, fish.empty) == (False, True, True)
    assert (both.category, cat.category) == ("", "cat")
    assert decode(both.mask()).sum() == 12 + 9
    (folder / "grefs(unc).json").rename(folder / "kept")
    (folder / "grefs(unc).p").write_bytes(pickle.dumps(refs))
    assert list(read(folder, "grefcoco")) == [both, bird, fish, cat]
