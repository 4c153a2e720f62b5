"""Frames against the processors they stand for, and against themselves."""

import itertools
import random

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from segzero.errors import UserError
from segzero.frames import (
    Frame,
    clip_box,
    clip_point,
    frame_for,
    native,
    parse_frame,
    relative,
    settled_size,
    smart_size,
    stretch,
)

LIMITS = [  # factor, min_pixels, max_pixels
    (28, 56 * 56, 12_845_056),  # Qwen2-VL, Qwen2.5-VL
    (28, 256 * 28 * 28, 1280 * 28 * 28),  # as their cards propose
    (28, 56 * 56, 1_003_520),
    (32, 65_536, 16_777_216),  # Qwen3-VL
    (28, 56 * 56, 224 * 224),
]
FRAMES = [stretch(840), stretch(448), relative(1000), relative(1000, 65_536, 16_777_216, 32)] + [
    native(low, high, factor) for factor, low, high in LIMITS
]
quick = settings(max_examples=150, deadline=None, database=None)
sides = st.integers(1, 6000)


def sizes() -> list[tuple[int, int]]:
    rng = random.Random(0)
    free = [(int(2 ** rng.uniform(0, 13)), int(2 ** rng.uniform(0, 13))) for _ in range(4000)]
    ties = [(14 * i, 14 * j) for i, j in itertools.product(range(1, 30), repeat=2)]
    return [size for size in free + ties if max(size) <= 200 * min(size)]


@pytest.mark.parametrize(("factor", "low", "high"), LIMITS)
def test_smart_size_is_the_processors(factor, low, high):
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

    for width, height in sizes():
        assert smart_size((width, height), factor, low, high) == smart_resize(height, width, factor, low, high)[::-1]


@pytest.mark.parametrize(("factor", "low", "high"), LIMITS)
def test_a_processor_leaves_a_fitted_image_alone(factor, low, high):
    for size in sizes():
        try:
            fitted = settled_size(size, factor, low, high)
        except UserError:
            assert max(size) > 100 * min(size)  # so thin that fitting made it thinner still
            continue
        assert smart_size(fitted, factor, low, high) == fitted
        assert fitted[0] % factor == fitted[1] % factor == 0
        assert low <= fitted[0] * fitted[1] <= high


def test_the_first_pass_is_the_last_for_all_but_thin_images():
    for (factor, low, high), size in itertools.product(LIMITS, sizes()):
        if max(size) <= 30 * min(size):
            assert settled_size(size, factor, low, high) == smart_size(size, factor, low, high)


@pytest.mark.parametrize("size", [(201, 1), (1, 201), (6847, 36)])
def test_too_thin_an_image_is_refused(size):
    with pytest.raises(UserError, match=f"image of {size[0]}x{size[1]}: .* 200 times"):
        native().model_size(size)
    assert stretch(840).model_size(size) == (840, 840)


def test_limits_that_no_size_meets_are_refused():
    with pytest.raises(UserError, match="widen the frame's limits"):
        native(100_000, 100_000).model_size((640, 480))


@quick
@given(st.sampled_from(FRAMES), sides, sides, st.lists(st.floats(0, 1), min_size=4, max_size=4))
def test_round_trip_within_half_a_frame_pixel(frame, width, height, fractions):
    assume(max(width, height) <= 60 * min(width, height))
    size = (width, height)
    xy = [f * size[i % 2] for i, f in enumerate(fractions)]
    written = frame.to_frame(xy, size)
    step = [s / e for s, e in zip(size, frame.extent(size), strict=True)]  # a frame pixel in original pixels
    for i, (there, back) in enumerate(zip(xy, frame.to_pixels(written, size), strict=True)):
        assert abs(there - back) <= step[i % 2] * (0.5 + 1e-9)
    assert frame.to_frame(frame.to_pixels(written, size), size) == written


@quick
@given(st.sampled_from(FRAMES), st.integers(1, 300), st.integers(1, 300))
def test_fit_gives_the_models_size(frame, width, height):
    image = Image.new("RGB", (width, height))
    try:
        assert frame.fit(image).size == frame.model_size(image.size)
    except UserError:
        assert max(width, height) > 100 * min(width, height)


def test_fit_does_not_touch_what_fits():
    image = Image.new("RGB", (56, 84))
    assert native().fit(image) is image


def test_what_is_written_stays_within_the_extent_and_rounds_half_up():
    frame = stretch(840)
    assert frame.to_frame([-5, 0, 1680, 2000], (1680, 1680)) == [0, 0, 840, 840]
    assert frame.to_frame([1, 3, 5, 7], (1680, 1680)) == [1, 2, 3, 4]
    assert frame.to_pixels([-10, 420, 900, 840], (1680, 840)) == [-20.0, 420.0, 1800.0, 840.0]


def test_the_three_frames_write_the_same_place_in_their_own_way():
    size = (640, 480)
    assert stretch(840).to_frame([320, 240], size) == [420, 420]
    assert relative(1000).to_frame([320, 240], size) == [500, 500]
    assert native().model_size(size) == (644, 476)
    assert native().to_frame([320, 240], size) == [322, 238]
    assert [f.extent(size) for f in (stretch(840), relative(1000), native())] == [(840, 840), (1000, 1000), (644, 476)]


def test_frames_of_the_families():
    assert frame_for("qwen2_vl", 3136, 50_000, 28) == relative(1000, 3136, 50_000, 28)
    assert frame_for("qwen2_5_vl", 3136, 50_000, 28) == native(3136, 50_000, 28)
    assert frame_for("qwen3_vl", 3136, 50_000, 32) == relative(1000, 3136, 50_000, 32)
    with pytest.raises(UserError, match=r"'llava'.*pass frame="):
        frame_for("llava", 3136, 50_000, 28)


DEFAULT = native(784, 50_176, 14)


@pytest.mark.parametrize(
    ("text", "frame"),
    [
        ("stretch(840)", stretch(840)),
        ("stretch(448)", stretch(448)),
        (" stretch ", stretch(840)),
        ("native", DEFAULT),
        ("native()", DEFAULT),
        ("native(1000)", native(1000, 50_176, 14)),
        ("native(1000, 2000)", native(1000, 2000, 14)),
        ("native(1000,2000,28)", native(1000, 2000, 28)),
        ("relative", relative(1000, 784, 50_176, 14)),
        ("relative(999)", relative(999, 784, 50_176, 14)),
    ],
)
def test_parse_frame(text, frame):
    assert parse_frame(text, DEFAULT) == frame


@pytest.mark.parametrize("frame", FRAMES)
def test_a_frame_is_written_as_it_is_parsed(frame: Frame):
    assert parse_frame(str(frame), frame) == frame


@pytest.mark.parametrize(
    "text", ["", "square(840)", "stretch(a)", "stretch(1,2)", "native(1,2,3,4)", "relative(1.5)", "native(1)2"]
)
def test_an_unknown_frame_is_refused(text):
    with pytest.raises(UserError, match="unknown frame"):
        parse_frame(text, DEFAULT)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("stretch(0)", "0 must be above 0"),
        ("relative(-1)", "-1 must be above 0"),
        ("native(0)", "must be above 0"),
        ("native(2000,1000)", "at most max_pixels"),
        ("native(1000,2000,0)", "0 must be above 0"),
    ],
)
def test_impossible_numbers_are_refused(text, why):
    with pytest.raises(UserError, match=why):
        parse_frame(text, DEFAULT)


def test_the_largest_image_of_a_frame():
    assert stretch(840).most_pixels == 840 * 840
    assert native(factor=28, min_pixels=56 * 56, max_pixels=1_000_000).most_pixels == 1_000_000


@given(st.lists(st.floats(-1e9, 1e9), min_size=4, max_size=4), st.tuples(st.integers(1, 50), st.integers(1, 50)))
def test_clipped_boxes_and_points_lie_in_the_image(box, size):
    width, height = size
    x0, y0, x1, y1 = clip_box(box, size)
    assert 0 <= x0 <= width and 0 <= y0 <= height and 0 <= x1 <= width and 0 <= y1 <= height
    x, y = clip_point(box[:2], size)
    assert 0 <= x <= width - 1 and 0 <= y <= height - 1
    assert clip_box((x0, y0, x1, y1), size) == (x0, y0, x1, y1) and clip_point((x, y), size) == (x, y)
    if 0 <= box[0] <= width - 1 and 0 <= box[1] <= height - 1:
        assert (x0, y0) == (x, y) == tuple(box[:2])
