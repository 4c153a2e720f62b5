"""Masks: run-length encoding, boxes and points that stand for masks, and the overlap of two masks.

A mask is a boolean array [H, W]; stored or sent, it is an `RLE`. Everything that comes from a file is checked before
pycocotools' C code sees it, because that code trusts the numbers it is given.

>>> mask = np.zeros((4, 6), bool)
>>> mask[1:3, 2:5] = True
>>> box_of(mask), area(encode(mask))
((2.0, 1.0, 5.0, 3.0), 6)
>>> bool((decode(encode(mask)) == mask).all())
True
"""

from collections.abc import Iterable, Sequence
from typing import Any, TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from pycocotools import mask as coco

from segzero.errors import UserError
from segzero.io import png_bytes

Mask = NDArray[np.bool_]  # [H, W]
Box = tuple[float, float, float, float]  # x0, y0, x1, y1
Point = tuple[float, float]  # x, y

MAX_PIXELS = 1 << 28  # per mask
MAX_OUTLINE = 1 << 24  # pixels that the edges of one object's polygons may pass through
_MAX_DIGITS = 6  # six digits of five bits hold every difference of two runs up to MAX_PIXELS
_PIECE = 1 << 16  # characters of counts that are parsed at a time


class RLE(TypedDict):
    """COCO's compressed run-length encoding, a plain dict: it goes into JSON and parquet as it is."""

    size: list[int]  # height, width
    counts: str


def encode(mask: ArrayLike) -> RLE:
    """Encode a mask [H, W]; everything but zero is inside."""
    array = np.asarray(mask)
    if array.ndim != 2 or not 0 < array.size <= MAX_PIXELS:
        raise UserError(f"a mask must be an array [height, width] of 1 to {MAX_PIXELS} pixels, not {array.shape}")
    return _plain(coco.encode(np.asfortranarray(array != 0, dtype=np.uint8)))


def decode(rle: RLE, size: tuple[int, int] | None = None) -> Mask:
    """Decode an RLE into a mask [H, W]; it must be of that (width, height) if one is given."""
    decoded: NDArray[np.uint8] = coco.decode(check_rle(rle, size))  # 0 and 1
    return decoded.view(np.bool_)


def check_rle(rle: object, size: tuple[int, int] | None = None) -> RLE:
    """Check an RLE, and return it compressed and safe to decode; COCO's uncompressed lists are accepted too.

    `size` is the (width, height) of the mask's image. Give it wherever it is known: a mask of another size is refused
    before its counts are parsed, and those are bounded by its pixels.

    >>> check_rle({"size": [2, 2], "counts": [1, 2, 1]})
    {'size': [2, 2], 'counts': '121'}
    >>> check_rle({"size": [2, 2], "counts": "122"})
    Traceback (most recent call last):
    segzero.errors.UserError: malformed RLE: its runs cover 5 pixels, its size 2x2 has 4
    """
    if not isinstance(rle, dict) or not {"size", "counts"} <= rle.keys():
        raise UserError('malformed RLE: it must be {"size": [height, width], "counts": ...}')
    sides, counts = rle["size"], rle["counts"]
    if not isinstance(sides, list | tuple) or len(sides) != 2 or not all(_is_int(side) for side in sides):
        raise UserError("malformed RLE: its size must be two integers, [height, width]")
    height, width = (int(side) for side in sides)
    _check_size(width, height)
    if size is not None and (width, height) != tuple(size):
        raise UserError(f"a mask of {width}x{height} pixels for an image of {size[0]}x{size[1]}")
    compressed = isinstance(counts, str | bytes)
    covered = _read_counts(counts, height * width) if compressed else _check_counts(counts, height * width)
    if covered != height * width:
        raise UserError(
            f"malformed RLE: its runs cover {covered} pixels, its size {height}x{width} has {height * width}"
        )
    if compressed:
        return {"size": [height, width], "counts": counts if isinstance(counts, str) else counts.decode()}
    return _plain(coco.frPyObjects({"size": [height, width], "counts": counts}, height, width))


def area(rle: RLE) -> int:
    """Number of pixels inside a mask."""
    return int(coco.area(check_rle(rle)))


def union(rles: Iterable[RLE], size: tuple[int, int]) -> RLE:
    """Union of masks of that (width, height); without masks, the empty mask."""
    width, height = size
    checked = [check_rle(rle, size) for rle in rles]
    if not checked:
        return check_rle({"size": [height, width], "counts": [height * width]})
    return _plain(coco.merge(checked))


def from_polygons(polygons: Iterable[Sequence[float]], size: tuple[int, int]) -> RLE:
    """Rasterise the union of COCO polygons [x, y, x, y, ...] in an image of (width, height).

    Polygons of fewer than three corners are dropped, as COCO's own files contain some.
    """
    width, height = size
    _check_size(width, height)
    usable = []
    outline = 0.0
    for polygon in polygons:
        try:
            if len(polygon) < 6:
                continue
            corners = np.asarray(polygon, dtype=np.float64).reshape(-1, 2)  # [N, 2] xy
        except (TypeError, ValueError):
            raise UserError("malformed polygon: it must be a flat list of numbers x, y, x, y, ...") from None
        # Not clipped, which would bend the outline. A little beyond the edge is usual, a whole image is not.
        if not (np.abs(corners / size - 0.5) <= 1.5).all():
            raise UserError(f"malformed polygon: a corner lies far outside its image of {width}x{height}")
        outline += np.abs(corners - np.roll(corners, 1, axis=0)).max(axis=1).sum()
        usable.append(corners.ravel().tolist())
    if outline > MAX_OUTLINE:
        raise UserError(f"polygons too long: their edges pass {outline:.0f} pixels, at most {MAX_OUTLINE} are read")
    if not usable:
        return union([], size)
    return _plain(coco.merge(coco.frPyObjects(usable, height, width)))


def box_of(mask: ArrayLike, inclusive: bool = False) -> Box | None:
    """Tightest box x0, y0, x1, y1 of a mask, or None for an empty mask.

    The right and bottom edges lie behind the last pixel, so that x1 - x0 is the width; with `inclusive` they are the
    last pixel's own index, as in the published data.
    """
    array = np.asarray(mask, dtype=bool)
    columns, rows = np.flatnonzero(array.any(axis=0)), np.flatnonzero(array.any(axis=1))
    if not len(rows):
        return None
    beyond = 0 if inclusive else 1
    return float(columns[0]), float(rows[0]), float(columns[-1] + beyond), float(rows[-1] + beyond)


def points_of(mask: ArrayLike, count: int = 1) -> tuple[Point, ...]:
    """Choose one or two safe points inside a mask, as pixel indices x, y; none for an empty mask.

    The first is the centre of the largest inscribed circle, for which the image's border is an edge too. The second is
    the centre of the largest circle among the half of the pixels that lie farther from the first; if all pixels lie
    equally far (a single pixel), it is the first again.
    """
    assert count in (1, 2), count
    array = np.asarray(mask, dtype=bool)
    box = box_of(array)
    if box is None:
        return ()
    x0, y0, x1, y1 = (int(v) for v in box)
    from scipy.ndimage import distance_transform_edt  # takes two thirds of this module's import time

    crop = np.pad(array[y0:y1, x0:x1], 1)
    depth = distance_transform_edt(crop)  # [h + 2, w + 2] distance to the nearest pixel outside
    first = np.unravel_index(np.argmax(depth), depth.shape)
    centres = [first]
    if count == 2:
        inside = np.argwhere(crop)  # [N, 2] row, column
        distances = np.hypot(*(inside - first).T)  # [N]
        far = inside[distances > np.median(distances)]
        centres.append(tuple(far[np.argmax(depth[tuple(far.T)])]) if len(far) else first)
    return tuple((float(column - 1 + x0), float(row - 1 + y0)) for row, column in centres)


def mask_iou(a: ArrayLike, b: ArrayLike, ignore: ArrayLike | None = None) -> float:
    """Intersection over union of two masks without the pixels in `ignore`; 1.0 for two empty masks."""
    a, b = np.asarray(a, dtype=bool), np.asarray(b, dtype=bool)
    if a.shape != b.shape:
        raise UserError(f"masks of different sizes can't be compared: {a.shape} and {b.shape}")
    both, either = a & b, a | b
    if ignore is not None:
        counted = ~np.asarray(ignore, dtype=bool)
        both, either = both & counted, either & counted
    total = int(either.sum())
    return int(both.sum()) / total if total else 1.0


def box_iou(a: ArrayLike, b: ArrayLike, plus_one: bool = False) -> NDArray[np.float64]:
    """IoU of every box in `a` with every box in `b`: [..., 4] x [..., 4] xyxy -> one axis per list.

    Two single boxes give a number, [N, 4] and [M, 4] give [N, M]. A width is x1 - x0; with `plus_one` it is
    x1 - x0 + 1, the convention of the published rewards. Boxes without area overlap nothing.

    >>> round(float(box_iou([0, 0, 10, 10], [5, 0, 15, 10])), 3)
    0.333
    >>> round(float(box_iou([0, 0, 10, 10], [5, 0, 15, 10], plus_one=True)), 3)
    0.375
    """
    a, b = (np.asarray(boxes, dtype=np.float64) for boxes in (a, b))
    a, b = (boxes if boxes.size else boxes.reshape(0, 4) for boxes in (a, b))
    rows, columns = a.reshape(-1, 1, 4), b.reshape(1, -1, 4)
    extra = 1.0 if plus_one else 0.0

    def areas(low: NDArray[np.float64], high: NDArray[np.float64]) -> NDArray[np.float64]:
        sides: NDArray[np.float64] = np.clip(high - low + extra, 0, None)
        return np.asarray(sides.prod(axis=-1))

    shared = areas(np.maximum(rows[..., :2], columns[..., :2]), np.minimum(rows[..., 2:], columns[..., 2:]))
    total = areas(rows[..., :2], rows[..., 2:]) + areas(columns[..., :2], columns[..., 2:]) - shared
    iou = np.divide(shared, total, out=np.zeros_like(shared), where=total > 0)
    return iou.reshape(a.shape[:-1] + b.shape[:-1])


def to_rle(mask: ArrayLike | RLE) -> RLE:
    """The RLE of a mask [H, W], or a given RLE after `check_rle`; the functions below trust it."""
    return check_rle(mask) if isinstance(mask, dict) else encode(mask)


def pixel_count(rle: RLE) -> int:
    """Number of pixels inside a checked mask; `area` checks it first, which takes ten times as long."""
    return int(coco.area(rle))


def intersection_area(*rles: RLE) -> int:
    """Number of pixels inside all of these checked masks of one size."""
    return pixel_count(coco.merge(list(rles), intersect=True))


def merge_checked(rles: Sequence[RLE], size: tuple[int, int]) -> RLE:
    """Union of checked masks, each of which must be of that (width, height)."""
    width, height = size
    for rle in rles:
        if rle["size"] != [height, width]:
            raise UserError(f"a mask of {rle['size'][1]}x{rle['size'][0]} pixels for an image of {width}x{height}")
    if len(rles) == 1:
        return rles[0]
    return coco.merge(list(rles)) if rles else union([], size)


def subtract(rle: RLE, ignore: RLE) -> RLE:
    """A checked mask without the ignored pixels."""
    return encode(decode(rle) & ~decode(ignore)) if intersection_area(rle, ignore) else rle


def box_of_rle(rle: RLE) -> Box | None:
    """The tightest box of a checked mask, as `box_of` gives it; None for an empty mask."""
    x, y, width, height = coco.toBbox(rle).tolist()
    return (x, y, x + width, y + height) if width and height else None


def iou_matrix(predicted: Sequence[RLE], true: Sequence[RLE]) -> NDArray[np.float64]:
    """IoU of every predicted mask with every true one, [P, T]; all are checked masks of one size."""
    if not predicted or not true:
        return np.zeros((len(predicted), len(true)))
    return np.asarray(coco.iou(list(predicted), list(true), [False] * len(true)), dtype=np.float64)


def box_mask(box: Box, size: tuple[int, int]) -> Mask:
    """Mask [H, W] of the pixels whose centres lie in a box; `size` is the image's (width, height)."""
    x, y = np.arange(size[0]) + 0.5, np.arange(size[1]) + 0.5
    return ((y >= box[1]) & (y <= box[3]))[:, None] & ((x >= box[0]) & (x <= box[2]))[None, :]


def box_rle(box: Box, size: tuple[int, int]) -> RLE:
    """RLE of `box_mask`."""
    return encode(box_mask(box, size))


def mask_png(mask: Mask) -> bytes:
    """A mask [H, W] as a PNG file of 0 and 255."""
    return png_bytes(Image.fromarray(mask.astype(np.uint8) * 255))


def coco_annotation(box: Box | None, rle: RLE | None = None, crowd: bool = False) -> dict[str, Any]:
    """Fields of COCO's annotations that tell an object's place: `bbox`, `area`, `segmentation` and `iscrowd`.

    `bbox` is x, y, width, height; there is none without a box. The area is the mask's, or the box's without a mask.

    >>> coco_annotation((1, 2, 4, 6))
    {'bbox': [1.0, 2.0, 3.0, 4.0], 'area': 12.0, 'segmentation': [], 'iscrowd': 0}
    """
    place: dict[str, Any] = {}
    if box is not None:
        x0, y0, x1, y1 = (float(v) for v in box)
        place = {"bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0), "segmentation": []}
    if rle is not None:
        checked = check_rle(rle)
        place |= {"area": pixel_count(checked), "segmentation": checked}
    return place | {"iscrowd": int(crowd)}


def _plain(rle: dict[str, Any]) -> RLE:
    """Convert pycocotools' RLE, whose counts are bytes, into one that JSON can hold."""
    return {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode()}


def _check_size(width: int, height: int) -> None:
    if width <= 0 or height <= 0 or width * height > MAX_PIXELS:
        raise UserError(f"a mask must have 1 to {MAX_PIXELS} pixels, not {width}x{height}")


def _is_int(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _check_counts(counts: object, pixels: int) -> int:
    """Check an uncompressed RLE, and count the pixels that its runs cover."""
    if not isinstance(counts, list | tuple) or not 0 < len(counts) <= pixels + 1:
        raise UserError("malformed RLE: its counts must be text, or a list of at most one run per pixel")
    if not all(_is_int(run) and 0 <= run <= pixels for run in counts):
        raise UserError(f"malformed RLE: its runs must be integers of 0 to {pixels}")
    return sum(int(run) for run in counts)


def _read_counts(counts: str | bytes, pixels: int) -> int:
    """Count the pixels that the runs of a compressed RLE cover: digits of five bits, lowest first, and 32 for "more".

    Each number is signed; from the fourth on, it is the difference to the run two places before. The text is parsed in
    pieces, so that long counts take no more memory than short ones.
    """
    if not 0 < len(counts) <= _MAX_DIGITS * (pixels + 2):
        raise UserError(f"malformed RLE: counts of {len(counts)} characters for {pixels} pixels")
    covered = place = 0
    before = np.zeros(2, np.int64)  # the two runs before this piece
    while place < len(counts) and covered <= pixels:
        numbers, used = _read_numbers(counts[place : place + _PIECE])
        if not used:
            raise UserError("malformed RLE: its counts end inside a number")
        if place:
            numbers[:2] += before[: len(numbers)]
        else:
            numbers[2:3] -= numbers[0]  # the third is not a difference
        numbers[::2] = np.cumsum(numbers[::2])
        numbers[1::2] = np.cumsum(numbers[1::2])
        if numbers.min() < 0 or numbers.max() > pixels:  # before the sum, which could wrap around
            raise UserError("malformed RLE: a run is negative or longer than the whole mask")
        covered += int(numbers.sum())
        place += used
        before = numbers[-2:]
    return covered


def _read_numbers(piece: str | bytes) -> tuple[NDArray[np.int64], int]:
    """Parse the complete numbers in a piece of counts; also returns how many characters they take."""
    try:
        raw = piece.encode("ascii") if isinstance(piece, str) else piece
    except UnicodeEncodeError:
        raise UserError("malformed RLE: its counts hold characters that no RLE has") from None
    digits = np.frombuffer(raw, dtype=np.uint8).astype(np.int64) - 48
    if digits.min() < 0 or digits.max() > 63:
        raise UserError("malformed RLE: its counts hold characters that no RLE has")
    last = np.flatnonzero(digits < 32)  # of each number
    if not len(last):
        return last, 0
    digits = digits[: last[-1] + 1]
    first = np.concatenate([[0], last[:-1] + 1])
    lengths = last - first + 1
    if lengths.max() > _MAX_DIGITS:
        raise UserError("malformed RLE: its counts hold a number beyond any mask")
    place = 5 * (np.arange(len(digits)) - np.repeat(first, lengths))
    numbers = np.add.reduceat((digits & 31) << place, first)
    numbers -= np.where(digits[last] & 16, np.left_shift(1, 5 * lengths), 0)
    return numbers, len(digits)
