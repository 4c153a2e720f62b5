"""Copies of an image that were stretched, resized or compressed again, found by thumbnails.

>>> near_copies([thumbnail(photo), thumbnail(photo.resize((840, 840)))], [0, 1])                 # doctest: +SKIP
[(0, 1)]

A thumbnail is the image in 16x16 colours, whatever its shape. Two images are near copies if their thumbnails differ by
little, measured by the root of the mean square difference, and by little of their own contrast; plain ones never are.
On photos and scenes this tells copies from other pictures where hashes of 64 bits confuse them (measured by
`benchmarks/near_copies.py`). Mirrored images, grey ones and narrow crops are not found.
"""

from collections.abc import Iterator, Sequence
from itertools import combinations_with_replacement

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 16  # of a thumbnail
COARSE = 4  # side of the thumbnails that are compared first
FARTHEST = 10.0  # difference of near copies, of 255
CONTRAST = 0.2  # ... and of the standard deviation of the calmer one's colours
BLOCK = 2048  # images that are compared with as many others at once
ROUNDING = 0.1  # error of a mean square difference in float32


def thumbnail(image: Image.Image) -> NDArray[np.uint8]:
    """Average an RGB image's colours in a grid: uint8 [16, 16, 3]."""
    return np.asarray(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX))


def near_copies(thumbnails: Sequence[NDArray[np.uint8]], groups: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield places (i, j), i < j, of near copies in different groups, such as splits.

    Each image that has a copy in another group is in one pair at least; not all pairs of many copies are listed.
    Averages of the thumbnails are compared first: they never differ by more than the thumbnails themselves.
    """
    coarse, contrast = _coarse(thumbnails)
    squares, group = (coarse**2).mean(axis=1), np.asarray(groups)
    limits = np.minimum(FARTHEST, CONTRAST * contrast)  # [N]
    listed = np.zeros(len(coarse), bool)
    for first, second in combinations_with_replacement(range(0, len(coarse), BLOCK), 2):
        a, b = slice(first, first + BLOCK), slice(second, second + BLOCK)
        apart = squares[a, None] + squares[None, b] - 2 / coarse.shape[1] * coarse[a] @ coarse[b].T
        bound = np.minimum(limits[a, None], limits[None, b])
        possible = (apart <= bound**2 + ROUNDING) & (group[a, None] != group[None, b])
        for i in first + np.flatnonzero(possible.any(axis=1)):
            others = second + np.flatnonzero(possible[i - first])
            others = others[(others > i) & ~(listed[i] & listed[others])]
            copies = np.stack([thumbnails[j] for j in others]) if len(others) else np.zeros((0, SIDE, SIDE, 3))
            differences = np.sqrt(((copies - np.float32(thumbnails[i])) ** 2).mean(axis=(1, 2, 3)))
            for j in others[differences < np.minimum(limits[i], limits[others])]:
                if not (listed[i] and listed[j]):
                    listed[[i, j]] = True
                    yield int(i), int(j)


def _coarse(thumbnails: Sequence[NDArray[np.uint8]]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Averages of the thumbnails in a coarser grid, [N, 48], and the standard deviation of their colours, [N]."""
    step = SIDE // COARSE
    coarse = np.zeros((len(thumbnails), COARSE * COARSE * 3), np.float32)
    contrast = np.zeros(len(thumbnails), np.float32)
    for place, one in enumerate(thumbnails):
        coarse[place] = one.reshape(COARSE, step, COARSE, step, 3).mean(axis=(1, 3)).ravel()
        contrast[place] = one.std()
    return coarse, contrast
