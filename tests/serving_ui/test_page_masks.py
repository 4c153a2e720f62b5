"""Pure functions of the page's scripts: masks, compared with pycocotools, and answers that are not complete yet."""

import numpy as np
import pytest

from segzero.masks import encode

pytestmark = pytest.mark.slow


def make_masks() -> list[np.ndarray]:
    """Make masks of many shapes and sizes: [H, W], boolean."""
    rng = np.random.default_rng(3)
    rows, columns = np.mgrid[:120, :90]
    blob = (rows - 50) ** 2 / 900 + (columns - 40) ** 2 / 500 < 1
    ring = blob & ((rows - 50) ** 2 + (columns - 40) ** 2 > 100)
    corners = np.zeros((70, 110), bool)
    corners[:20, 90:] = corners[60:, :5] = True
    pixel = np.zeros((5, 7), bool)
    pixel[2, 3] = True
    noise = [rng.random(size) < share for size, share in (((1, 9), 0.5), ((9, 1), 0.5), ((31, 17), 0.3))]
    large = np.zeros((2400, 3100), bool)
    large[300:2200, 500:2900] = rng.random((1900, 2400)) < 0.98
    return [blob, ring, corners, pixel, *noise, np.zeros((8, 6), bool), np.ones((6, 8), bool), large]


def read_bits(digits: str, shape: tuple[int, int]) -> np.ndarray:
    """Read a text of 0 and 1, row by row, as a mask of the shape."""
    return np.frombuffer(digits.encode(), np.uint8).reshape(shape) == ord("1")


def test_masks_are_encoded_and_measured_as_pycocotools_does(page):
    encode_again = """async (rle) => {
        const { decodeMask, encodeMask, maskArea } = await import("/ui/masks.js");
        return [encodeMask(decodeMask(rle)), maskArea(rle)];
    }"""
    for mask in make_masks():
        assert page.evaluate(encode_again, encode(mask)) == [encode(mask), int(mask.sum())]


def test_masks_are_decoded_as_pycocotools_does(page):
    decode = """async ([rle, maxSide]) => {
        const mask = (await import("/ui/masks.js")).decodeMask(rle, maxSide ?? undefined);
        return [mask.width, mask.height, mask.bits.join("")];
    }"""
    for mask in make_masks():
        width, height, digits = page.evaluate(decode, [encode(mask), None])
        assert (height, width) == mask.shape
        assert (read_bits(digits, mask.shape) == mask).all()

        width, height, digits = page.evaluate(decode, [encode(mask), 40])  # sampled down
        assert max(width, height) == min(40, max(mask.shape))
        rows, columns = (
            np.floor((np.arange(sampled) + 0.5) * full / sampled).astype(int)
            for sampled, full in zip((height, width), mask.shape, strict=True)
        )
        assert (read_bits(digits, (height, width)) == mask[rows][:, columns]).all()


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
        const { decodeMask } = await import("/ui/masks.js");
        try { decodeMask(rle); } catch (error) { return error.message; }
    }"""
    assert page.evaluate(decode, rle) == "malformed RLE"


def test_outlines_enclose_the_pixels_of_their_masks(page):
    fill = """async (rle) => {
        const { path, contains } = (await import("/ui/masks.js")).maskShape(rle);
        const [height, width] = rle.size;
        const context = new OffscreenCanvas(width, height).getContext("2d");
        context.fill(path, "evenodd");
        const data = context.getImageData(0, 0, width, height).data;
        const filled = [], contained = [];
        for (let i = 0; i < width * height; i++) {
            filled.push(data[4 * i + 3] > 127 ? 1 : 0);
            contained.push(contains([i % width + 0.5, Math.floor(i / width) + 0.5]) ? 1 : 0);
        }
        return [filled.join(""), contained.join("")];
    }"""
    for mask in make_masks()[:3]:
        filled, contained = (read_bits(digits, mask.shape) for digits in page.evaluate(fill, encode(mask)))
        assert (contained == mask).all()
        assert (filled & mask).sum() / (filled | mask).sum() > 0.98


def test_thinking_is_separated_from_the_answer_wherever_the_text_ends(page):
    parse = "async (texts) => texts.map((await import('/ui/rounds.js')).parsePartialAnswer)"
    texts = ["", "<th", "<think>", "<think>a < b", "<think>a cup</thi", "<think>a cup</think><ans"]
    answers = page.evaluate(parse, texts)
    assert [answer["think"] for answer in answers] == ["", "", "", "a < b", "a cup", "a cup"]
    assert [answer["isAnswering"] for answer in answers] == [False] * 5 + [True]
    assert page.evaluate(parse, ["no tags at all <answer>[]"]) == [{"think": "no tags at all", "isAnswering": True}]
