"""What the page's scripts make of masks and of half a text, against pycocotools."""

import numpy as np
import pytest

from segzero.masks import encode

pytestmark = pytest.mark.slow


def masks() -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    rows, columns = np.mgrid[:120, :90]
    blob = (rows - 50) ** 2 / 900 + (columns - 40) ** 2 / 500 < 1
    ring = blob & ((rows - 50) ** 2 + (columns - 40) ** 2 > 100)
    corner = np.zeros((70, 110), bool)
    corner[:20, 90:] = corner[60:, :5] = True
    dot = np.zeros((5, 7), bool)
    dot[2, 3] = True
    noise = [rng.random(size) < share for size, share in (((1, 9), 0.5), ((9, 1), 0.5), ((31, 17), 0.3))]
    large = np.zeros((2400, 3100), bool)
    large[300:2200, 500:2900] = rng.random((1900, 2400)) < 0.98
    return [blob, ring, corner, dot, *noise, np.zeros((8, 6), bool), np.ones((6, 8), bool), large]


def test_masks_are_decoded_as_pycocotools_does(page):
    decode = """async ([rle, most]) => {
        const mask = (await import("/ui/masks.js")).decode(rle, most ?? undefined);
        return [mask.width, mask.height, mask.bits.join("")];
    }"""
    for mask in masks():
        width, height, bits = page.evaluate(decode, [encode(mask), None])
        assert (height, width) == mask.shape
        assert (np.frombuffer(bits.encode(), np.uint8).reshape(mask.shape) - 48 == mask).all()
        width, height, bits = page.evaluate(decode, [encode(mask), 40])  # sampled down
        rows, columns = (
            np.floor((np.arange(few) + 0.5) * many / few).astype(int)
            for few, many in zip((height, width), mask.shape, strict=True)
        )
        assert max(width, height) == min(40, max(mask.shape))
        assert (np.frombuffer(bits.encode(), np.uint8).reshape(height, width) - 48 == mask[rows][:, columns]).all()


@pytest.mark.parametrize(
    "rle",
    [
        {"size": [4, 4], "counts": "zz"},
        {"size": [4, 4], "counts": "1"},
        {"size": [2, 2], "counts": "0o"},
        {"size": [4, 4], "counts": "ooooooooo1"},
        {"size": [4, 4], "counts": "0€"},
        {"size": [4, 4], "counts": "@j2"},
    ],
)
def test_a_malformed_mask_is_refused(page, rle):
    decode = """async (rle) => {
        const { decode } = await import("/ui/masks.js");
        try { decode(rle); } catch (error) { return error.message; }
    }"""
    assert page.evaluate(decode, rle) == "malformed RLE"


def test_outlines_hold_the_masks_pixels(page):
    fill = """async (rle) => {
        const { path, has } = (await import("/ui/masks.js")).shapeOf(rle);
        const [height, width] = rle.size;
        const pen = new OffscreenCanvas(width, height).getContext("2d");
        pen.fill(path, "evenodd");
        const data = pen.getImageData(0, 0, width, height).data;
        const filled = [], told = [];
        for (let i = 0; i < width * height; i++) {
            filled.push(data[4 * i + 3] > 127 ? 1 : 0);
            told.push(has([i % width + 0.5, Math.floor(i / width) + 0.5]) ? 1 : 0);
        }
        return [filled.join(""), told.join("")];
    }"""
    for mask in masks()[:3]:
        filled, told = (
            np.frombuffer(text.encode(), np.uint8).reshape(mask.shape) - 48
            for text in page.evaluate(fill, encode(mask))
        )
        assert (told == mask).all()
        assert (filled & mask).sum() / (filled | mask).sum() > 0.98


def test_thinking_is_told_apart_from_the_answer_wherever_the_text_ends(page):
    read = "async (texts) => texts.map((await import('/ui/rounds.js')).readSoFar)"
    told = page.evaluate(read, ["", "<th", "<think>", "<think>a < b", "<think>a cup</thi", "<think>a cup</think><ans"])
    assert [each["think"] for each in told] == ["", "", "", "a < b", "a cup", "a cup"]
    assert [each["answering"] for each in told] == [False] * 5 + [True]
    assert page.evaluate(read, ["no tags at all <answer>[]"]) == [{"think": "no tags at all", "answering": True}]
