"""RLEs in and out, hostile ones refused; boxes, points and overlaps against slow but obvious ways."""

import io
import json
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image

from segzero.errors import UserError
from segzero.masks import (
    MAX_PIXELS,
    area,
    box_iou,
    box_mask,
    box_of,
    box_rle,
    check_rle,
    coco_annotation,
    decode,
    encode,
    from_polygons,
    mask_iou,
    mask_png,
    points_of,
    union,
)  # fmt: skip

MASKS = arrays(bool, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=40))
quick = settings(max_examples=100, deadline=None, database=None)


def rectangle(height: int, width: int, x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    mask = np.zeros((height, width), bool)
    mask[y0:y1, x0:x1] = True
    return mask


def disc(size: int, x: float, y: float, radius: float) -> np.ndarray:
    rows, columns = np.mgrid[:size, :size]
    return np.hypot(rows - y, columns - x) <= radius


def runs_of(mask: np.ndarray) -> list[int]:
    """COCO's uncompressed counts, the slow way."""
    flat = [False, *mask.T.ravel().tolist()]
    changes = [i for i in range(1, len(flat)) if flat[i] != flat[i - 1]]
    return np.diff([0, *(i - 1 for i in changes), len(flat) - 1]).tolist()


@quick
@given(MASKS)
def test_a_mask_survives_its_rle(mask):
    rle = json.loads(json.dumps(encode(mask)))
    assert (decode(rle) == mask).all()
    assert decode(rle).dtype == bool
    assert area(rle) == mask.sum()
    assert check_rle(rle) == rle
    assert check_rle({"size": list(mask.shape), "counts": runs_of(mask)}) == rle
    assert check_rle({"size": mask.shape, "counts": rle["counts"].encode()}) == rle


def test_a_large_mask_survives_its_rle():
    mask = np.random.default_rng(0).random((1500, 2000)) < 0.5
    mask[:700] = True
    assert (decode(encode(mask)) == mask).all()


@pytest.mark.parametrize(
    ("rle", "why"),
    [
        (None, "must be"),
        ("121", "must be"),
        ({"counts": "121"}, "must be"),
        ({"size": [2, 2]}, "must be"),
        ({"size": 4, "counts": "121"}, "two integers"),
        ({"size": [2, 2, 1], "counts": "121"}, "two integers"),
        ({"size": [2.0, 2], "counts": "121"}, "two integers"),
        ({"size": [True, 4], "counts": "121"}, "two integers"),
        ({"size": ["2", "2"], "counts": "121"}, "two integers"),
        ({"size": [0, 4], "counts": ""}, "1 to"),
        ({"size": [-2, -2], "counts": "121"}, "1 to"),
        ({"size": [1 << 15, 1 << 15], "counts": [1 << 30]}, "1 to"),
        ({"size": [10**30, 1], "counts": [10**30]}, "1 to"),
        ({"size": [2, 2], "counts": 4}, "text, or a list"),
        ({"size": [2, 2], "counts": None}, "text, or a list"),
        ({"size": [2, 2], "counts": []}, "text, or a list"),
        ({"size": [2, 2], "counts": [0] * 100}, "text, or a list"),
        ({"size": [2, 2], "counts": [1, -2, 5]}, "integers of 0"),
        ({"size": [2, 2], "counts": [1, 1.0, 2]}, "integers of 0"),
        ({"size": [2, 2], "counts": [10**40]}, "integers of 0"),
        ({"size": [2, 2], "counts": [1, 2]}, "cover 3 pixels"),
        ({"size": [2, 2], "counts": ""}, "0 characters"),
        ({"size": [2, 2], "counts": "0" * 1000}, "1000 characters"),
        ({"size": [2, 2], "counts": "12 "}, "characters that no RLE has"),
        ({"size": [2, 2], "counts": "12\u20ac"}, "characters that no RLE has"),
        ({"size": [2, 2], "counts": "12\ud800"}, "characters that no RLE has"),
        ({"size": [2, 2], "counts": b"12\xff"}, "characters that no RLE has"),
        ({"size": [2, 2], "counts": "12P"}, "end inside a number"),
        ({"size": [2, 2], "counts": "ooooooooo1"}, "beyond any mask"),
        ({"size": [2, 2], "counts": "1O4"}, "negative or longer"),
        ({"size": [2, 2], "counts": "9"}, "negative or longer"),
        ({"size": [2, 2], "counts": "122"}, "cover 5 pixels"),
        ({"size": [2, 2], "counts": "11"}, "cover 2 pixels"),
    ],
)
@pytest.mark.parametrize("reader", [check_rle, decode, area, lambda rle: union([rle], (2, 2))])
def test_a_malformed_rle_is_refused(rle, why, reader):
    with pytest.raises(UserError, match=why) as raised:
        reader(rle)
    assert "\n" not in str(raised.value)


def test_runs_whose_sum_would_wrap_around_are_refused():
    """2 ** 20 runs that each grow by 2 ** 29: their sum leaves 64 bits on its way to any number at all."""
    with pytest.raises(UserError, match="negative or longer"):
        check_rle({"size": [1 << 14, 1 << 14], "counts": "ooooo?" * (1 << 20)})


def test_a_mask_of_another_size_is_refused_before_its_counts_are_looked_at():
    claims = {"size": [1 << 14, 1 << 14], "counts": "11" * 14_000_000}
    tracemalloc.start()
    try:
        for read in (
            lambda: decode(claims, (16, 16)),
            lambda: check_rle(claims, (16, 16)),
            lambda: union([claims], (16, 16)),
        ):
            with pytest.raises(UserError, match="a mask of 16384x16384 pixels for an image of 16x16"):
                read()
        assert tracemalloc.get_traced_memory()[1] < 1e6
    finally:
        tracemalloc.stop()
    assert decode(encode(np.ones((4, 6), bool)), (6, 4)).all()


def test_long_counts_are_read_in_little_memory():
    rle = encode(np.random.default_rng(0).random((1500, 1500)) < 0.5)
    tracemalloc.start()
    try:
        check_rle(rle)
        with pytest.raises(UserError, match="malformed RLE"):
            check_rle(rle | {"counts": rle["counts"] + "1"})
        assert tracemalloc.get_traced_memory()[1] < 12e6
    finally:
        tracemalloc.stop()


@quick
@given(MASKS, st.integers(12, 40))
def test_counts_are_read_alike_in_pieces_of_any_length(mask, piece):
    rle = encode(mask)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("segzero.masks._PIECE", piece)
        assert check_rle(rle) == rle
        for damaged in (rle["counts"][:-1], rle["counts"] + "1", rle["counts"] + "P"):
            with pytest.raises(UserError, match="malformed RLE"):
                check_rle(rle | {"counts": damaged})


@settings(max_examples=1000, deadline=None, database=None)
@given(st.text(st.characters(min_codepoint=44, max_codepoint=114), max_size=12), st.integers(1, 6), st.integers(1, 6))
def test_any_counts_are_refused_or_cover_the_mask(counts, height, width):
    try:
        rle = check_rle({"size": [height, width], "counts": counts})
    except UserError:
        return
    assert decode(rle).shape == (height, width)
    assert area(rle) == decode(rle).sum()


@pytest.mark.parametrize("mask", [np.zeros(4), np.zeros((0, 4)), np.zeros((2, 2, 1)), True])
def test_what_is_no_mask_has_no_rle(mask):
    with pytest.raises(UserError, match="must be an array"):
        encode(mask)


def test_a_mask_may_have_as_many_pixels_as_declared():
    side = 1 << 14
    assert side * side == MAX_PIXELS
    assert area({"size": [side, side], "counts": [5, MAX_PIXELS - 5]}) == MAX_PIXELS - 5


def test_union():
    a, b = rectangle(8, 10, 1, 1, 4, 4), rectangle(8, 10, 3, 2, 9, 7)
    assert (decode(union([encode(a), encode(b)], (10, 8))) == (a | b)).all()
    assert area(union([], (10, 8))) == 0
    assert decode(union([], (10, 8))).shape == (8, 10)
    with pytest.raises(UserError, match="a mask of 10x8 pixels for an image of 8x10"):
        union([encode(a)], (8, 10))


def test_polygons():
    rle = from_polygons([[1, 1, 5, 1, 5, 4, 1, 4], [7, 0, 9, 0, 9, 2, 7, 2], [1, 1, 2, 2]], (10, 8))
    assert (decode(rle) == rectangle(8, 10, 1, 1, 5, 4) | rectangle(8, 10, 7, 0, 9, 2)).all()
    assert area(from_polygons([[1, 1, 2, 2]], (10, 8))) == area(from_polygons([], (10, 8))) == 0
    over_the_edge = from_polygons([[-2, -2, 12, -2, 12, 9, -2, 9]], (10, 8))
    assert area(over_the_edge) == 80


@pytest.mark.parametrize(
    ("polygons", "size", "why"),
    [
        ([[1, 1, 5, 1, 5, 4, 1]], (10, 8), "flat list"),
        ([["a"] * 6], (10, 8), "flat list"),
        ([[None] * 6], (10, 8), "far outside"),
        ([3], (10, 8), "flat list"),
        ([[1, 1, 5, 1, float("nan"), 4]], (10, 8), "far outside"),
        ([[1, 1, 5, 1, 1e9, 4]], (10, 8), "far outside"),
        ([[1, 1, 5, 1, 5, -100]], (10, 8), "far outside"),
        ([[0, 0, 9999, 9999, 0, 9999] * 1000], (10_000, 10_000), "too long"),
        ([], (0, 8), "1 to"),
        ([], (1 << 20, 1 << 20), "1 to"),
    ],
)
def test_malformed_polygons_are_refused(polygons, size, why):
    with pytest.raises(UserError, match=why):
        from_polygons(polygons, size)


def test_the_box_of_a_mask():
    mask = rectangle(8, 10, 2, 1, 6, 5) | rectangle(8, 10, 7, 6, 8, 8)
    assert box_of(mask) == (2.0, 1.0, 8.0, 8.0)
    assert box_of(mask, inclusive=True) == (2.0, 1.0, 7.0, 7.0)
    assert box_of(np.ones((3, 4))) == (0.0, 0.0, 4.0, 3.0)
    assert box_of(np.zeros((3, 4))) is None


def test_the_point_of_a_disc_is_its_centre():
    assert points_of(disc(60, 25, 31, 12)) == ((25.0, 31.0),)
    assert points_of(disc(60, 25, 31, 12) | disc(60, 50, 10, 6)) == ((25.0, 31.0),)


def test_the_second_point_is_in_the_farther_half():
    two_discs = disc(80, 20, 40, 15) | disc(80, 60, 40, 10)
    first, second = points_of(two_discs, 2)
    assert first == (20.0, 40.0)
    assert np.hypot(second[0] - 60, second[1] - 40) <= 1


def test_the_images_border_is_an_edge():
    assert points_of(np.ones((9, 31)))[0][1] == 4.0
    assert points_of(np.ones((9, 9))) == ((4.0, 4.0),)


def test_points_of_the_smallest_masks():
    assert points_of(np.zeros((5, 5)), 2) == ()
    assert points_of(rectangle(5, 5, 3, 2, 4, 3), 2) == ((3.0, 2.0), (3.0, 2.0))
    assert points_of(rectangle(5, 5, 3, 2, 4, 4), 2) == ((3.0, 2.0), (3.0, 3.0))


@quick
@given(MASKS.filter(np.any))
def test_points_against_the_obvious_way(mask):
    padded = np.pad(mask, 1)
    inside, outside = np.argwhere(padded), np.argwhere(~padded)
    depth = np.sqrt(((inside[:, None] - outside[None]) ** 2).sum(-1)).min(1)  # of each pixel inside
    (x, y), (x2, y2) = points_of(mask, 2)
    assert mask[int(y), int(x)] and mask[int(y2), int(x2)]
    index = (inside == (y + 1, x + 1)).all(1).argmax()
    assert np.isclose(depth[index], depth.max())
    away = np.sqrt(((inside - inside[index]) ** 2).sum(-1))
    far = away > np.median(away)
    second = (inside == (y2 + 1, x2 + 1)).all(1).argmax()
    assert (x2, y2) == (x, y) if not far.any() else far[second] and np.isclose(depth[second], depth[far].max())


def test_mask_iou():
    a, b = rectangle(8, 10, 0, 0, 4, 4), rectangle(8, 10, 2, 0, 6, 4)
    assert mask_iou(a, b) == 8 / 24
    assert mask_iou(a, b, ignore=rectangle(8, 10, 0, 0, 2, 8)) == 8 / 16
    assert mask_iou(a, b, ignore=np.ones((8, 10))) == 1.0
    assert mask_iou(np.zeros((8, 10)), np.zeros((8, 10))) == 1.0
    assert mask_iou(a, np.zeros((8, 10))) == 0.0
    with pytest.raises(UserError, match="different sizes"):
        mask_iou(a, b.T)


def test_box_iou_in_both_area_conventions():
    a, b = [0, 0, 10, 10], [5, 0, 15, 10]
    assert box_iou(a, b) == 50 / 150
    assert box_iou(a, b, plus_one=True) == 66 / 176
    assert box_iou(a, [10, 0, 20, 10]) == 0
    assert box_iou(a, [10, 0, 20, 10], plus_one=True) == 11 / 231


def test_box_iou_of_boxes_without_area():
    assert box_iou([5, 5, 5, 5], [5, 5, 5, 5]) == 0
    assert box_iou([5, 5, 5, 5], [5, 5, 5, 5], plus_one=True) == 1
    assert box_iou([9, 9, 1, 1], [0, 0, 10, 10]) == 0


def test_box_iou_of_lists():
    a = np.array([[0, 0, 10, 10], [0, 0, 5, 5], [20, 20, 30, 30]])
    b = np.array([[0, 0, 10, 10], [20, 20, 25, 30]])
    assert np.allclose(box_iou(a, b), [[1, 0], [0.25, 0], [0, 0.5]])
    assert np.allclose(box_iou(a[0], b), [1, 0])
    assert np.allclose(box_iou(a, b[0]), [1, 0.25, 0])
    assert box_iou(np.zeros((0, 4)), b).shape == (0, 2)
    assert box_iou(a, []).shape == (3, 0)
    assert box_iou([], []).shape == (0, 0)


@quick
@given(st.tuples(*[st.integers(-3, 25)] * 4))
def test_a_box_of_whole_numbers_covers_its_pixels(box):
    x0, y0, x1, y1 = box
    mask = np.zeros((15, 20), bool)
    mask[max(y0, 0) : max(y1, 0), max(x0, 0) : max(x1, 0)] = True
    assert (box_mask(box, (20, 15)) == mask).all() and decode(box_rle(box, (20, 15))).tolist() == mask.tolist()


def test_a_box_covers_the_pixels_whose_centres_it_holds():
    assert box_mask((0.6, 0, 2.4, 1), (4, 1)).tolist() == [[False, True, False, False]]


def test_a_mask_as_png_is_black_and_white():
    mask = np.eye(5, 7, dtype=bool)
    png = Image.open(io.BytesIO(mask_png(mask)))
    assert png.mode == "L" and (np.asarray(png) == mask * 255).all()


def test_annotations_as_coco_writes_them():
    mask = encode(np.eye(6, dtype=bool))
    place = {"bbox": [1.0, 2.0, 3.0, 4.0], "area": 6, "segmentation": mask, "iscrowd": 0}
    assert coco_annotation((1, 2, 4, 6), mask) == place
    assert coco_annotation((1, 2, 4, 6)) == place | {"area": 12.0, "segmentation": []}
    assert coco_annotation(None, mask, crowd=True) == {"area": 6, "segmentation": mask, "iscrowd": 1}
    assert type(coco_annotation((np.float32(1), 2, 4, 6))["bbox"][0]) is float
    with pytest.raises(UserError, match="malformed RLE"):
        coco_annotation((1, 2, 4, 6), {"size": [6, 6], "counts": "zz"})
