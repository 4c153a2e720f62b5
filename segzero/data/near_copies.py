"""Copies of an image that were stretched, resized or compressed again, found by thumbnails.

>>> near_copies([thumbnail(photo), thumbnail(photo.resize((840, 840)))], [0, 1])                 # doctest: +SKIP
[(0, 1)]

A thumbnail is the image in 16x16 colours, whatever its shape. Two images are near copies if their thumbnails differ by
little, measured by the root of the mean square difference, and by little of their own contrast; plain ones never are.
On photos and scenes this tells copies from other pictures where hashes of 64 bits confuse them (measured by
`benchmarks/near_copies.py`). Mirrored images, grey ones and narrow crops are not found.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 16  # of a thumbnail
COARSE = 4  # side of the thumbnails that are compared first
FARTHEST = 10.0  # difference of near copies, of 255
CONTRAST = 0.2  # ... and of the standard deviation of the calmer one's colours
BLOCK = 2048  # images that are compared with as many others at once


def thumbnail(image: Image.Image) -> NDArray[np.uint8]:
    """Average an RGB image's colours in a grid: uint8 [16, 16, 3]."""
    return np.asarray(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX))


def near_copies(thumbnails: Sequence[NDArray[np.uint8]], groups: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield the places (i, j), i < j, of near copies in different groups, such as splits.

    Averages of the thumbnails are compared first: they never differ by more than the thumbnails themselves.
    """
    if not len(thumbnails):
        return
    step = SIDE // COARSE
    all = np.stack(thumbnails).astype(np.float32)  # [N, 16, 16, 3]
    spread = all.reshape(len(all), -1).std(axis=1)  # [N]
    coarse = all.reshape(len(all), COARSE, step, COARSE, step, 3).mean(axis=(2, 4)).reshape(len(all), -1)  # [N, 48]
    squares, group = (coarse**2).mean(axis=1), np.asarray(groups)
    for first in range(0, len(all), BLOCK):
        for second in range(first, len(all), BLOCK):
            a, b = slice(first, first + BLOCK), slice(second, second + BLOCK)
            apart = squares[a, None] + squares[None, b] - 2 / coarse.shape[1] * coarse[a] @ coarse[b].T
            least = np.minimum(spread[a, None], spread[None, b])
            possible = (apart <= np.minimum(FARTHEST, CONTRAST * least) ** 2 + 0.1) & (group[a, None] != group[None, b])
            for i, j in np.argwhere(possible) + np.array([first, second]):
                limit = min(FARTHEST, CONTRAST * min(spread[i], spread[j]))
                if i < j and np.sqrt(((all[i] - all[j]) ** 2).mean()) < limit:
                    yield int(i), int(j)
