"""Near copies among images: false alarms among different scenes, copies that are missed, and time.

Copies are stretched to 840x840, halved, compressed as JPEG, and all of it at once; the photos are parts of a photo in
tests/photos. The same is measured for the usual hashes of 64 bits, dHash and pHash, at the distances in brackets.

    python -m benchmarks.near_copies [--scenes 3000]
"""

import argparse
import io
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.fft import dctn

from segzero.data.near_copies import near_copies, thumbnail
from segzero.tiny.scenes import make_scene

PHOTO = Path(__file__).parents[1] / "tests/photos/coffee.jpg"
BITS = np.array([number.bit_count() for number in range(256)], np.uint8)
COPIED = 200  # images of which copies are made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=3000)
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    scenes = [Image.fromarray(make_scene(rng).image) for _ in range(args.scenes)]
    for name, images in (("scenes", scenes), ("parts of a photo", list(parts(Image.open(PHOTO), rng)))):
        pairs = len(images) * (len(images) - 1) // 2
        begin = time.process_time()
        thumbnails = [thumbnail(image) for image in images]
        made = time.process_time() - begin
        begin = time.process_time()
        wrong = list(near_copies(thumbnails, range(len(images))))
        compared = time.process_time() - begin
        print(
            f"{len(images)} {name}, {pairs} pairs: {len(wrong)} false alarms; CPU time of a thousand thumbnails ",
            end="",
        )
        print(f"{1000 * made / len(images):.2f} s, of all comparisons {compared:.2f} s")
        for hash, limits in ((dhash, (4, 8)), (phash, (4, 8))):
            apart = distances(hash, images)
            print(
                f"    {hash.__name__}: "
                + ", ".join(f"{(apart <= limit).sum()} within {limit} bits" for limit in limits)
            )
        for kind in copies(images[0]):
            changed = [copies(image)[kind] for image in images[:COPIED]]
            found = sum(
                bool(list(near_copies([one, thumbnail(copy)], [0, 1])))
                for one, copy in zip(thumbnails, changed, strict=False)
            )
            print(f"    {kind}: {len(changed) - found} of {len(changed)} copies missed")


def copies(image: Image.Image) -> dict[str, Image.Image]:
    """An image's copies, by what was done to it."""
    small = image.resize((image.width // 2, image.height // 2), Image.Resampling.LANCZOS)
    square = image.resize((840, 840), Image.Resampling.BILINEAR)
    return {
        "stretched to 840x840": square,
        "halved": small,
        "JPEG of quality 30": as_jpeg(image, 30),
        "stretched, then JPEG of quality 50": as_jpeg(square, 50),
        "halved, then JPEG of quality 30": as_jpeg(small, 30),
        "a quarter, without smoothing": image.resize((image.width // 4, image.height // 4), Image.Resampling.NEAREST),
        "2 % cut off each side": image.crop(
            (image.width // 50, image.height // 50, image.width - image.width // 50, image.height - image.height // 50)
        ),
        "mirrored": image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        "grey": image.convert("L").convert("RGB"),
    }


def as_jpeg(image: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def parts(photo: Image.Image, rng: np.random.Generator, count: int = 100) -> Iterator[Image.Image]:
    """Parts of a photo, many of which overlap."""
    for _ in range(count):
        width, height = (int(side) for side in rng.integers((150, 120), (300, 250)))
        x, y = (int(v) for v in rng.integers(0, (photo.width - width, photo.height - height)))
        yield photo.convert("RGB").crop((x, y, x + width, y + height))


def dhash(image: Image.Image) -> np.ndarray:
    grey = np.asarray(image.convert("L").resize((9, 8), Image.Resampling.BOX), np.int16)
    return np.packbits(grey[:, 1:] > grey[:, :-1])


def phash(image: Image.Image) -> np.ndarray:
    grey = np.asarray(image.convert("L").resize((32, 32), Image.Resampling.BOX), np.float32)
    low = dctn(grey, norm="ortho")[:8, :8].ravel()
    return np.packbits(low > np.median(low[1:]))


def distances(hash: Callable[[Image.Image], np.ndarray], images: list[Image.Image]) -> np.ndarray:
    """Differing bits of every pair of images."""
    hashes = np.stack([hash(image) for image in images])
    rows = [BITS[hashes[place + 1 :] ^ hashes[place]].sum(axis=1) for place in range(len(hashes) - 1)]
    return np.concatenate(rows)


if __name__ == "__main__":
    main()
