"""Preparation of training samples, which source, recipe and seed alone decide."""

import hashlib
import json
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from segzero import shipped
from segzero.data.check import check
from segzero.data.dataset_card import read_card
from segzero.data.exports import export
from segzero.data.parquet import from_parquet, to_parquet
from segzero.data.prepare import prepare
from segzero.data.readers import read
from segzero.data.recipe import COUNT_ALONE, DISAGREES, NO_POINTS, SampleRecipe, build_samples
from segzero.errors import UserError
from segzero.masks import box_of, decode, encode, points_of
from segzero.sample import Object, Sample
from segzero.tiny.questions import HELD_OUT_SEED, make_samples
from tests.helpers.reader_files import box_mask, mask_png, png, write_json

SIZE = (64, 48)
CATEGORIES = ("cat", "dog", "mug", "tree")


def coco_file(folder: Path, images: int = 12) -> Path:
    """Images of one colour each, each with three of the four categories."""
    annotations, pictures = [], []
    (folder / "images").mkdir(parents=True)
    for number in range(images):
        name = f"{number:02}.png"
        (folder / "images" / name).write_bytes(png(SIZE, (number, 50, 90)))
        pictures.append({"id": number, "file_name": name, "width": SIZE[0], "height": SIZE[1]})
        for place in range(3):
            mask = box_mask(2 + 20 * place, 4 + number % 12, 16 + 20 * place, 20 + number % 12, SIZE)
            category = (number + place) % 4
            annotations.append(
                {"id": len(annotations), "image_id": number, "category_id": category, "segmentation": encode(mask)}
            )
    categories = [{"id": id, "name": name} for id, name in enumerate(CATEGORIES)]
    value = {"images": pictures, "annotations": annotations, "categories": categories}
    return write_json(folder / "instances.json", value)


@pytest.fixture
def coco(tmp_path) -> Path:
    return coco_file(tmp_path / "coco")


class Stop(Exception):
    """Ends a call of `prepare` after its first shard."""


def interrupt(source, out) -> None:
    """Begin to prepare, and end after a shard."""

    def stop(read: int) -> None:
        raise Stop

    with pytest.raises(Stop):
        prepare(str(source), "coco", out, shard_size=10, progress=stop)


def contents(folder: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir() if file.is_file()}


def test_points_and_boxes_are_the_masks(coco, tmp_path):
    card = prepare(str(coco), "coco", tmp_path / "out")
    samples = list(from_parquet(tmp_path / "out"))
    assert len(samples) == card.samples == card.read == 36
    assert card.objects == {"1": 36} and card.splits == {"train": 36} and not card.left_out
    for sample in samples:
        [true] = sample.objects
        mask = decode(true.rle)
        assert true.box == box_of(mask) and true.points == points_of(mask, 2)
        assert Path(sample.image).is_absolute()
    report = check(tmp_path / "out")
    assert report.ok, report.wrong
    assert read_card(tmp_path / "out") == card
    assert not (tmp_path / "out" / ".shards").exists()
    assert "| samples | 36 |" in (tmp_path / "out" / "README.md").read_text()


def test_datasets_finds_the_splits_by_the_card(coco, tmp_path):
    from datasets import load_dataset

    prepare(str(coco), "coco", tmp_path / "out", shard_size=10)
    found = load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    assert found["train"].num_rows == 36
    assert found["train"][0]["image"].size == SIZE


def test_shares_of_joined_and_empty_questions(coco, tmp_path):
    card = prepare(str(coco), "coco", tmp_path / "out", SampleRecipe(join=0.25, no_target=0.2))
    assert card.kinds == {"as read": 36, "joined": 12, "nothing there": 12}
    samples = {sample.id: sample for sample in from_parquet(tmp_path / "out")}
    read_ones = {sample.id: sample for sample in read(coco, "coco")}
    for sample in samples.values():
        if "joined" in sample.meta:
            parts = [read_ones[id] for id in sample.meta["joined"]]
            assert len(parts) in (2, 3) and sample.question == " and ".join(part.question for part in parts)
            assert [o.rle for o in sample.objects] == [o.rle for part in parts for o in part.objects]
            assert len({part.image for part in parts} | {sample.image}) == 1
        elif sample.empty:
            lender = read_ones[sample.meta["borrowed"]]
            assert sample.question == lender.question and lender.image != sample.image
            there = {s.category for s in read_ones.values() if s.image == sample.image}
            assert sample.category not in there
    assert check(tmp_path / "out").ok


def test_shares_that_cannot_be_reached_are_reported(coco, tmp_path):
    card = prepare(
        str(coco), "coco", tmp_path / "out", SampleRecipe(join=0.85), limit=3
    )  # one image: three pairs, one triple
    assert card.kinds == {"as read": 3, "joined": 4}
    assert "joined: 57.1% of the samples, not 85.0%: few images have several questions" in str(card)
    assert "not" not in str(prepare(str(coco), "coco", tmp_path / "more", SampleRecipe(join=0.25)))


def test_empty_questions_that_are_too_many_are_left_out():
    there = [Sample(f"t{i}", png(SIZE), "the mug", *SIZE, (found(),)) for i in range(8)]
    nothing = [Sample(f"n{i}", png(SIZE), f"the bird {i}", *SIZE) for i in range(8)]
    built = build_samples([*there, *nothing], SampleRecipe(no_target=0.2), (0, 0))
    assert built.kinds == {"as read": 8, "nothing there": 2}
    assert built.left_out == {"nothing is there, beyond the share asked for": 6}
    assert build_samples([*there, *nothing], SampleRecipe(), (0, 0)).kinds["nothing there"] == 8


def test_questions_are_borrowed_only_where_all_categories_of_an_image_are_known():
    some = [Sample(f"{c}", png(SIZE), c, *SIZE, (found(),), category=c) for c in CATEGORIES]
    assert build_samples(some, SampleRecipe(no_target=0.5), (0, 0)).kinds["nothing there"] == 0


def found(x0: int = 4) -> Object:
    return Object((0, 0, 1, 1), rle=encode(box_mask(x0, 4, x0 + 20, 30, SIZE)))


def test_expressions_for_the_same_object_are_not_joined():
    some = [Sample(f"s{i}", "", text, *SIZE, (found(),)) for i, text in enumerate(["the mug", "the blue mug"])]
    some = [replace(sample, image=png(SIZE)) for sample in some]
    assert build_samples(some, SampleRecipe(join=0.5), (0, 0)).kinds["joined"] == 0
    other = Sample("s2", png(SIZE), "the cup.", *SIZE, (found(30),))
    [joined] = [
        s for s in build_samples([some[0], other], SampleRecipe(join=0.4), (0, 0)).samples if "joined" in s.meta
    ]
    assert joined.question in ("the mug and the cup", "the cup and the mug")


def test_unusable_samples_are_left_out_and_counted():
    speck = Object((0, 0, 1, 1), rle=encode(box_mask(5, 5, 6, 6, (4000, 4000))))
    block = [
        Sample("good", png(SIZE), "the mug", *SIZE, (found(),)),
        Sample("bare", png(SIZE), "the mug", *SIZE, (Object((1, 1, 9, 9)),)),
        Sample("speck", png((4000, 4000)), "the speck", 4000, 4000, (speck,)),
        Sample("torn", png(SIZE)[:60], "the mug", *SIZE, (found(),)),
        Sample("lies", png((64, 64)), "the mug", *SIZE, (found(),)),
        Sample("counted", png(SIZE), "the mugs", *SIZE, meta={"count": 3}),
        Sample("mute", png(SIZE), " . ", *SIZE, (found(),)),
        Sample("long", png(SIZE), "the mug " * 200, *SIZE, (found(),)),
    ]
    built = build_samples(block, SampleRecipe(), (0, 0))
    assert [sample.id for sample in built.samples] == ["good"]
    assert sum(built.left_out.values()) == 7 and built.left_out[COUNT_ALONE] == 1 and built.left_out[NO_POINTS] == 1
    assert [line.split("'")[1] for line in built.problems] == ["torn", "lies", "mute", "long"]


@pytest.mark.slow
def test_any_number_of_workers_makes_the_same_files(coco, tmp_path):
    recipe = SampleRecipe(join=0.2, no_target=0.2)
    prepare(str(coco), "coco", tmp_path / "one", recipe, shard_size=8, seed=3)
    prepare(str(coco), "coco", tmp_path / "two", recipe, shard_size=8, seed=3, workers=2)
    prepare(str(coco), "coco", tmp_path / "other", recipe, shard_size=8, seed=4)
    one = contents(tmp_path / "one")
    assert len(one) == 5 + 2 and contents(tmp_path / "two") == one
    assert contents(tmp_path / "other") != one


@pytest.mark.slow
def test_a_killed_call_is_resumed(tmp_path):
    """The first call gets SIGKILL between two shards; the second redoes none of them and gives the same files."""
    source = coco_file(tmp_path / "coco", images=80)
    command = [sys.executable, "-m", "segzero", "data", "prepare", str(source), "--format", "coco"]
    command += ["--join", "0.2", "--shard-size", "10", "--out"]
    out = tmp_path / "out"
    process = subprocess.Popen([*command, str(out)], stdout=subprocess.DEVNULL)
    while len(list((out / ".shards").glob("train-*.json"))) < 3:
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.002)
    process.kill()
    process.wait()
    assert not (out / "card.json").exists()
    notes = {note: note.stat().st_mtime_ns for note in (out / ".shards").glob("train-*.json")}
    files = {file: file.stat().st_mtime_ns for file in out.glob("*.parquet")}
    assert 3 <= len(notes) < 24
    (out / ".train-00003.parquet.999").write_bytes(b"half a shard")
    done = []
    prepare(str(source), "coco", out, SampleRecipe(join=0.2), shard_size=10, progress=done.append)
    kept = [out / f"{note.stem}.parquet" for note in notes]
    assert [file.stat().st_mtime_ns for file in kept] == [files[file] for file in kept]
    assert done[-1] == 240 and not list(out.glob(".*.parquet.*"))
    prepare(str(source), "coco", tmp_path / "whole", SampleRecipe(join=0.2), shard_size=10)
    assert contents(out) == contents(tmp_path / "whole")


def test_finished_data_is_neither_made_again_nor_mixed(coco, tmp_path):
    card = prepare(str(coco), "coco", tmp_path / "out", seed=1)
    times = {file: file.stat().st_mtime_ns for file in (tmp_path / "out").iterdir()}
    assert prepare(str(coco), "coco", tmp_path / "out", seed=1) == card
    assert times == {file: file.stat().st_mtime_ns for file in (tmp_path / "out").iterdir()}
    with pytest.raises(UserError, match=r"out was made with seed 1, not 2; choose another --out"):
        prepare(str(coco), "coco", tmp_path / "out", seed=2)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/train.parquet").write_bytes(b"")
    with pytest.raises(UserError, match="holds something else already"):
        prepare(str(coco), "coco", tmp_path / "mine")


def test_two_calls_at_once_do_not_mix(coco, tmp_path):
    """The second is begun when the first has made a shard, in a process of its own as locks are a process's."""
    out, said = tmp_path / "out", []

    def meanwhile(read: int) -> None:
        if not said:
            code = "import sys; from segzero.data.prepare import prepare; prepare(*sys.argv[1:4], seed=2)"
            call = [sys.executable, "-c", code, str(coco), "coco", str(out)]
            said.append(subprocess.run(call, capture_output=True, text=True, check=False).stderr)

    card = prepare(str(coco), "coco", out, shard_size=10, seed=1, progress=meanwhile)
    assert f"{out} is being made by another process; wait for it, or choose another --out" in said[0]
    assert read_card(out) == card and card.settings["seed"] == 1
    assert sorted(path.name for path in out.iterdir()) == sorted([*card.files, "README.md", "card.json"])


def test_a_lock_file_that_was_left_behind_does_not_matter(coco, tmp_path):
    (tmp_path / "out/.shards").mkdir(parents=True)
    (tmp_path / "out/.shards/.lock").write_bytes(b"")
    assert prepare(str(coco), "coco", tmp_path / "out").samples == 36
    assert not (tmp_path / "out/.shards").exists()


@pytest.mark.parametrize("note", ['{"digest": "x", "read', "[]", '{"digest": "x"}', "null"])
def test_a_shard_with_a_damaged_note_is_made_again(coco, tmp_path, note):
    interrupt(coco, tmp_path / "out")
    before = (tmp_path / "out/train-00000.parquet").read_bytes()
    (tmp_path / "out/.shards/train-00000.json").write_text(note)
    card = prepare(str(coco), "coco", tmp_path / "out", shard_size=10)
    assert card.samples == 36 and (tmp_path / "out/train-00000.parquet").read_bytes() == before


def test_a_call_that_made_nothing_does_not_block_the_next(coco, tmp_path):
    out = tmp_path / "out"
    for wrong in (tmp_path / "typo.json", coco.parent / "images" / "00.png"):
        with pytest.raises(UserError):
            prepare(str(wrong), "coco", out)
    (tmp_path / "mine/images").mkdir(parents=True)
    (tmp_path / "mine/prompts.csv").write_text("picture,text\n00.png,the cat\n")
    with pytest.raises(UserError, match=r"nothing of .* can be trained on; first: .*lacks 'image'"):
        prepare(str(tmp_path / "mine"), "folder", out)
    assert prepare(str(coco), "coco", out).samples == 36


def test_a_source_that_changed_between_two_calls(coco, tmp_path):
    interrupt(coco, tmp_path / "out")
    value = json.loads(coco.read_text())
    value["categories"][0]["name"] = "kitten"
    write_json(coco, value)
    with pytest.raises(UserError, match="the source is not what it was"):
        prepare(str(coco), "coco", tmp_path / "out", shard_size=10)


def test_splits_do_not_mix(tmp_path):
    rows = ["image,prompt,mask,split"]
    for number in range(9):
        (tmp_path / "mine/images").mkdir(parents=True, exist_ok=True)
        (tmp_path / f"mine/images/{number}.png").write_bytes(png(SIZE, (number, 0, 0)))
        mask_png(tmp_path / f"mine/masks/{number}.png", box_mask(4, 4, 20, 20, SIZE))
        rows.append(f"{number}.png,the mug,,{['train', 'val', '../../up-1'][number % 3]}")
    (tmp_path / "mine/prompts.csv").write_text("\n".join(rows))
    card = prepare(str(tmp_path / "mine"), "folder", tmp_path / "out", shard_size=2)
    assert card.splits == {"train": 3, "val": 3, "______up_1": 3}
    assert sorted(card.files) == sorted(file.name for file in (tmp_path / "out").glob("*.parquet"))
    assert {s.split for s in from_parquet(tmp_path / "out/val-00000.parquet")} == {"val"}
    one = prepare(str(tmp_path / "mine"), "folder", tmp_path / "one", options={"split": "val"}, limit=2)
    assert one.splits == {"val": 2}


def test_problems_are_listed_and_strict_ends_at_the_first(coco, tmp_path):
    (coco.parent / "images/03.png").unlink()
    (coco.parent / "images/05.png").write_bytes(png(SIZE)[:80])
    card = prepare(str(coco), "coco", tmp_path / "out")
    lines = (tmp_path / "out/problems.txt").read_text().splitlines()
    assert card.problems == len(lines) == 4  # an absent image is one record, a torn one three samples
    assert sum("there is no file '03.png'" in line for line in lines) == 1
    assert card.samples == 30 and card.left_out == {"its image is absent or can't be decoded": 3}
    with pytest.raises(UserError, match=r"image 3: there is no file '03\.png'"):
        prepare(str(coco), "coco", tmp_path / "strict", strict=True)
    (coco.parent / "images/03.png").write_bytes(png(SIZE))
    with pytest.raises(UserError, match=r"sample '5-1': its image is absent .* \(without --strict"):
        prepare(str(coco), "coco", tmp_path / "strict2", strict=True)


def test_the_segmenter_filters(tmp_path):
    """The shipped SAM2 draws most scenes as they are; masks pushed aside are not what it draws."""
    from functools import partial

    from segzero.data.segmenter_filter import reproduces_masks

    samples = [sample for sample in make_samples(8, HELD_OUT_SEED + 9) if not sample.empty]

    def aside(sample: Sample) -> Sample:
        halves = tuple(replace(o, rle=encode(np.roll(decode(o.rle), 40, axis=1))) for o in sample.objects)
        return replace(sample, id=f"{sample.id}-aside", objects=halves)

    keep = partial(reproduces_masks, segmenter=str(shipped.segmenter_path()), min_iou=0.6)
    built = build_samples([*samples, *map(aside, samples)], SampleRecipe(filter_iou=0.6), (0, 0), keep)
    kept = Counter("aside" in sample.id for sample in built.samples)
    assert kept[False] >= 0.8 * len(samples) and kept[True] <= 0.2 * len(samples)
    assert built.left_out[DISAGREES] == 2 * len(samples) - kept.total() - sum(
        count for why, count in built.left_out.items() if why != DISAGREES
    )

    export(to_parquet(samples[:3], tmp_path / "scenes"), "coco", tmp_path / "coco")
    recipe = SampleRecipe(filter_iou=0.6)
    card = prepare(
        str(tmp_path / "coco/instances.json"), "coco", tmp_path / "out", recipe, segmenter=str(shipped.segmenter_path())
    )
    verdicts = keep(list(read(tmp_path / "coco/instances.json", "coco")))
    assert card.samples == 3 - card.left_out[DISAGREES] and len(verdicts) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"join": 1.0}, "--join 1.0 is not a share"),
        ({"no_target": -0.1}, "--no-target -0.1 is not a share"),
        ({"join": 0.5, "no_target": 0.45}, "leave less than a tenth"),
        ({"filter_iou": 60.0}, "--filter-iou 60.0 is not an IoU"),
    ],
)
def test_wrong_recipes(arguments, message):
    with pytest.raises(UserError, match=message):
        SampleRecipe(**arguments)
