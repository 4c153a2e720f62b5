"""Copies of images that were stretched, resized or compressed again, as leaks between splits."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segzero.data.check import check
from segzero.data.near_copies import BLOCK, near_copies, thumbnail
from segzero.data.parquet import to_parquet
from segzero.masks import decode, encode
from segzero.sample import Object, Sample
from segzero.tiny.questions import make_samples
from segzero.tiny.scenes import make_scene

PHOTO = Path(__file__).parents[1] / "photos" / "coffee.jpg"


def as_jpeg(image: Image.Image, quality: int) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return file.getvalue()


def copied(sample: Sample, size: tuple[int, int], quality: int = 60) -> Sample:
    """The sample about its image in another size and file."""
    scale = np.array([size[0] / sample.width, size[1] / sample.height])
    objects = []
    for one in sample.objects:
        mask = np.asarray(Image.fromarray(decode(one.rle)).resize(size, Image.Resampling.NEAREST))
        box = tuple(float(v) for v in (np.reshape(one.box, (2, 2)) * scale).ravel())
        points = tuple((float(x), float(y)) for x, y in np.array(one.points) * scale)
        objects.append(Object(box, points, encode(mask)))
    file = as_jpeg(sample.open().resize(size, Image.Resampling.BICUBIC), quality)
    return replace(
        sample, id=f"{sample.id}-copy", image=file, width=size[0], height=size[1], objects=tuple(objects), split="val"
    )


@pytest.mark.parametrize("size", [(840, 840), (112, 112), (150, 420)])
def test_a_stretched_and_compressed_copy_is_a_leak(tmp_path, size):
    train = make_samples(6, 5)
    to_parquet(train, tmp_path / "a" / "train.parquet")
    to_parquet([*make_samples(5, 77), copied(train[3], size)], tmp_path / "a" / "val.parquet")
    report = check(tmp_path / "a")
    leaks = {what: ids for what, ids in report.wrong.items() if "nearly" in what}
    assert leaks == {
        "its image is nearly that of another sample, in 'train' and 'val'": [train[3].id, f"{train[3].id}-copy"]
    }


def test_copies_within_a_split_and_equal_pixels_are_not(tmp_path):
    train = make_samples(3, 5)
    twice = replace(copied(train[0], (300, 300)), split="")
    to_parquet([*train, twice], tmp_path / "one" / "train.parquet")
    assert not [what for what in check(tmp_path / "one").wrong if "nearly" in what]
    to_parquet(train, tmp_path / "two" / "train.parquet")
    to_parquet([replace(train[1], split="val")], tmp_path / "two" / "val.parquet")
    [problem] = [what for what in check(tmp_path / "two").wrong if "image" in what]
    assert problem == "its image is in 'train' and 'val'"


def test_different_scenes_are_told_apart_and_copies_found():
    rng = np.random.default_rng(3)
    scenes = [Image.fromarray(make_scene(rng).image) for _ in range(150)]
    copies = [Image.open(io.BytesIO(as_jpeg(scene.resize((333, 500)), 40))) for scene in scenes]
    thumbnails = [thumbnail(image) for image in (*scenes, *copies)]
    groups = [0] * 150 + [1] * 150
    assert list(near_copies(thumbnails, groups)) == [(place, place + 150) for place in range(150)]
    assert list(near_copies(thumbnails[:150], range(150))) == []
    assert list(near_copies(thumbnails, [0] * 300)) == list(near_copies([], [])) == []


def test_parts_of_a_photo_are_other_pictures():
    photo = Image.open(PHOTO)
    parts = [photo.crop((x, y, x + 200, y + 150)) for x in range(0, 400, 50) for y in range(0, 250, 50)]
    assert list(near_copies([thumbnail(part) for part in parts], range(len(parts)))) == []
    small = thumbnail(photo.resize((97, 301)))
    assert list(near_copies([thumbnail(photo), small], [0, 1])) == [(0, 1)]


def test_many_copies_are_each_listed_once_or_so():
    rng = np.random.default_rng(0)
    one = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
    pairs = list(near_copies([one] * 400, [place % 2 for place in range(400)]))
    assert {place for pair in pairs for place in pair} == set(range(400)) and len(pairs) < 400


def test_plain_pictures_are_copies_of_nothing():
    grey = [np.full((16, 16, 3), value, np.uint8) for value in (90, 90, 91)]
    assert list(near_copies(grey, [0, 1, 2])) == []


def test_all_blocks_are_compared():
    rng = np.random.default_rng(0)
    many = rng.integers(0, 256, (2 * BLOCK + 50, 16, 16, 3), dtype=np.uint8)
    many[BLOCK + 7] = many[3]
    many[2 * BLOCK + 40] = many[BLOCK - 1] ^ 1
    assert list(near_copies(list(many), range(len(many)))) == [(3, BLOCK + 7), (BLOCK - 1, 2 * BLOCK + 40)]


def test_a_benchmark_may_not_share_images_with_the_data(run_segzero, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train = make_samples(6, 5)
    data = to_parquet(train, tmp_path / "train" / "train.parquet")
    foreign = [*make_samples(3, 77), copied(train[2], (500, 700)), replace(train[4], id="same")]
    to_parquet([*foreign, replace(train[0], id="broken", image=b"x")], tmp_path / "compositional.parquet")
    report = check(data, against={"bench": foreign})
    assert report.wrong == {
        "its image is nearly that of another sample, in 'bench' and 'train'": [train[2].id],
        "its image is in 'bench' and 'train'": [train[4].id],
    }
    assert (report.samples, report.images) == (6, len({sample.image for sample in train}))
    assert check(data, against={"bench": foreign[:3]}).ok
    code, out, _ = run_segzero("data", "check", "train", "--against", "compositional", "--page", "page.html")
    assert code == 1 and "in 'compositional' and 'train'" in out and "1 images of compositional can't be decoded" in out
    assert run_segzero("data", "check", "train", "--against", "compositionall")[0] == 2
