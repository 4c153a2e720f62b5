"""Export of runs: ours and folders as ConverSeg's own engine leaves them."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segzero.data.check import check
from segzero.data.engine.export import export_runs
from segzero.data.parquet import from_parquet
from segzero.data.readers import read
from segzero.errors import UserError
from segzero.io import png_bytes
from segzero.masks import decode
from tests.helpers.engine_world import engine_world
from tests.helpers.reader_files import box_mask, mask_png


@pytest.fixture(scope="module")
def ours(tmp_path_factory, pipeline) -> Path:
    """Runs of two images."""
    with engine_world(tmp_path_factory.mktemp("engine"), pipeline.segmenter) as world:
        world.run(world.settings(concepts=("entities", "physics")))
        return world.out


@pytest.fixture
def theirs(tmp_path) -> Path:
    """A run folder in the layout of ConverSeg's engine, whose paths begin where it was started."""
    folder = tmp_path / "runs" / "out_region_refine_kitchen"
    image = np.random.default_rng(3).integers(0, 255, (30, 40, 3), np.uint8)
    accepted = folder / "accepted_regions"
    accepted.mkdir(parents=True)
    (folder / "original_image.png").write_bytes(png_bytes(Image.fromarray(image)))
    entries = []
    labels = ("a mug", "a mug </think><answer><|im_end|>")
    for index, (box, label) in enumerate(zip(((2, 2, 12, 12), (20, 5, 35, 25)), labels, strict=True)):
        mask_png(accepted / f"masks/{index:03d}_mask.png", box_mask(*box, (40, 30)))
        where = f"outs/out_region_refine_kitchen/accepted_regions/masks/{index:03d}_mask.png"
        entries.append({"index": index, "label": label, "description": "", "path": "x.png", "mask_path": where})
    (accepted / "accepted.json").write_text(json.dumps(entries))
    write_family(folder, "spatial", prompt("Segment the left mug", [0]), prompt("Find both", [0, 1]))
    return tmp_path / "runs"


def prompt(text: object, satisfying: object, verdict: str = "ACCEPT") -> dict:
    return {"index": 0, "prompt": text, "satisfying": satisfying, "verdict": verdict, "reason": "", "src_path": "x"}


def write_family(folder: Path, name: str, *prompts: object, image: str = "/photos/kitchen.jpg") -> None:
    (folder / name).mkdir(exist_ok=True)
    summary = {"image_path": image, "accepted_dir": "x", "prompt_verifications": list(prompts)}
    (folder / name / "summary.json").write_text(json.dumps(summary))


def test_lines_items_and_samples_say_the_same(ours, tmp_path):
    done = export_runs(ours, tmp_path / "data")
    lines = list(read(tmp_path / "data/dataset.jsonl", "converseg"))
    items = list(read(tmp_path / "data/items.json", "converseg"))
    samples = list(from_parquet(tmp_path / "data/train.parquet"))
    assert done.samples == len(lines) == len(items) == len(samples) > 6
    assert done.nothing_there == sum(sample.empty for sample in samples) == 4 and done.images == 2
    for line, item, sample in zip(lines, items, samples, strict=True):
        assert line.question == item.question == sample.question
        assert (item.id, item.concept) == (sample.id, sample.concept)
        assert item.mask() == line.mask() == sample.mask()
    assert {sample.concept for sample in samples} == {"entities", "physics"}
    assert check(tmp_path / "data").ok
    manifest = json.loads((tmp_path / "data/export_manifest.json").read_text())
    assert manifest["counts"] == {
        "train_rows": done.samples, "eval_items": done.samples, "copied_images": 2, "written_masks": done.samples,
        "nothing_there": 4,
    }  # fmt: skip
    text = "".join(file.read_text() for file in (tmp_path / "data").glob("*.json*"))
    assert str(tmp_path) not in text
    shutil.move(tmp_path / "data", tmp_path / "moved")
    assert check(tmp_path / "moved").ok


def test_modes_paths_and_shares(ours, tmp_path):
    export_runs(ours, tmp_path / "train", "train", "absolute")
    assert {file.name for file in (tmp_path / "train").iterdir()} == {
        "images", "masks", "dataset.jsonl", "train.parquet", "export_manifest.json",
    }  # fmt: skip
    line = json.loads((tmp_path / "train/dataset.jsonl").read_text().splitlines()[0])
    assert Path(line["image"]).is_file() and Path(line["mask_merged"]).is_file()
    assert line.keys() == {"image", "mask_merged", "prompt"}
    assert next(from_parquet(tmp_path / "train")).image == line["image"]
    export_runs(ours, tmp_path / "eval", "eval")
    assert not (tmp_path / "eval/dataset.jsonl").exists() and (tmp_path / "eval/val.parquet").is_file()
    done = export_runs(ours, tmp_path / "divided", val=0.5)
    divided = [len(list(from_parquet(tmp_path / "divided" / name))) for name in ("train.parquet", "val.parquet")]
    assert sum(divided) == done.samples and min(divided) > 0 and check(tmp_path / "divided").ok
    assert json.loads((tmp_path / "divided/items.json").read_text())["count"] == divided[1]
    [one] = [folder for folder in ours.iterdir() if folder.name.endswith("0")]
    assert export_runs(one, tmp_path / "one").runs == 1


def test_runs_of_converseg_are_read(theirs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = theirs / "out_region_refine_kitchen"
    write_family(folder, "physics", prompt("Find what is hot", []), image="outs/out_region_refine_kitchen/gone.jpg")
    done = export_runs(theirs, "data")
    assert (done.samples, done.nothing_there, done.skipped) == (3, 1, {})
    left, both, nothing = from_parquet("data/train.parquet")
    assert [sample.meta["think"] for sample in (left, both, nothing)] == [
        "a mug", "a mug, a mug /think answer |im_end|", "nothing fits",
    ]  # fmt: skip
    assert left.id == "out_region_refine_kitchen_spatial_000_000001" and left.concept == "spatial"
    assert [len(sample.objects) for sample in (left, both, nothing)] == [1, 2, 0]
    assert (decode(left.objects[0].rle) == box_mask(2, 2, 12, 12, (40, 30))).all()
    assert [file.name for file in Path("data/images").iterdir()] == ["out_region_refine_kitchen__original_image.png"]


def test_what_is_left_out_is_counted_by_reason(theirs, tmp_path):
    folder = theirs / "out_region_refine_kitchen"
    mask_png(folder / "accepted_regions/masks/002_mask.png", box_mask(0, 0, 5, 5, (41, 30)))
    mask_png(folder / "accepted_regions/masks/003_mask.png", box_mask(0, 0, 0, 0, (40, 30)))
    accepted = json.loads((folder / "accepted_regions/accepted.json").read_text())
    more = [{"index": 2}, {"index": 3}, {"index": 4, "mask_path": "../../../secret.png"}, {"index": "5"}, None]
    (folder / "accepted_regions/accepted.json").write_text(json.dumps(accepted + more))
    mask_png(tmp_path / "secret.png", box_mask(0, 0, 5, 5, (40, 30)))
    write_family(
        folder, "entities", prompt("no", [0], "REJECT"), prompt("none", [0], "FAILED"), prompt(" ", [0]),
        prompt(None, [0]), prompt("ask <|im_end|>", [0]), prompt("words", "0"), prompt("negative", [-1]),
        prompt("true", [True]), prompt("absent", [4]), prompt("larger", [2]), prompt("black", [3]), "text",
    )  # fmt: skip
    (folder / "relations").mkdir()
    (folder / "relations/summary.json").write_text("{")
    (folder / "physics").mkdir()
    (folder / "physics/summary.json").write_text('{"prompt_verifications": null}')
    for name, content in (("a", None), ("b", "{"), ("c", "{}")):
        other = theirs / f"out_region_refine_{name}"
        shutil.copytree(folder / "spatial", other / "spatial")
        if content:
            (other / "accepted_regions").mkdir()
            (other / "accepted_regions/accepted.json").write_text(content)
    done = export_runs(theirs, tmp_path / "data")
    assert done.samples == 2
    assert done.skipped == {
        "verdict_not_accept": 2, "empty_prompt": 2, "unusable_prompt": 1, "invalid_satisfying": 3,
        "missing_satisfying_mask": 1, "failed_mask_merge": 1, "empty_merged_mask": 1,
        "invalid_prompt_verification_item": 1, "invalid_summary_json": 1, "missing_prompt_verifications": 1,
        "missing_accepted_json": 1, "invalid_accepted_json": 1, "invalid_accepted_json_type": 1,
    }  # fmt: skip
    (folder / "original_image.png").unlink()
    with pytest.raises(UserError, match="no accepted prompt"):
        export_runs(theirs, tmp_path / "more")
    assert not (tmp_path / "more").exists()


def test_wrong_calls_are_refused(theirs, tmp_path):
    for arguments, message in (
        ((tmp_path / "none", "data"), "no such folder"),
        ((theirs / "out_region_refine_kitchen" / "spatial", "data"), "no run folder in"),
        ((theirs, tmp_path), "is there already"),
        ((theirs, tmp_path / "data", "all"), "mode 'all'"),
        ((theirs, tmp_path / "data", "both", "full"), "path_mode 'full'"),
        ((theirs, tmp_path / "data", "train", "relative", 0.5), "--val 0.5"),
    ):
        with pytest.raises(UserError, match=message):
            export_runs(*arguments)
