"""Edges of an image from the masks of a point grid, by the recipe in SAM's paper; nothing is trained for them.

The paper's code is not published. Where it is silent, we chose:

1. A mask's border is its outline in both senses, outwards and around holes, two pixels wide; a Sobel value counts
   where it lies on that.
2. Thinning compares each pixel with its two neighbours across the ridge, whose direction is that of the strongest
   curvature of the map, smoothed.

>>> edges = find_edges(segmenter, image)                                                   # doctest: +SKIP
>>> edges.shape, edges.max()                                                               # doctest: +SKIP
((480, 640), 1.0)
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segzero.segmenter.everything import EverythingSettings, find_candidates
from segzero.segmenter.protocol import Embeddings, Logits, Segmenter

# Every point is decoded and no mask is dropped for its quality: a weak mask has weak edges.
EDGE_SETTINGS = EverythingSettings(points_per_side=16, pred_iou_thresh=0, stability_thresh=0)
PIXELS = 1 << 24  # of masks that are enlarged at a time
SMOOTH = 2.0  # sigma in pixels, for the direction of ridges

EdgeMap = NDArray[np.float32]  # [H, W], 0 to 1


def find_edges(
    segmenter: Segmenter,
    image: Image.Image,
    settings: EverythingSettings = EDGE_SETTINGS,
    thin: bool = True,
    embeddings: Embeddings | None = None,
) -> EdgeMap:
    """Find the edges of an image: the steepest places of all masks, scaled to 1, one pixel wide if `thin`."""
    embeddings = embeddings or segmenter.embed([image])
    masks = find_candidates(segmenter, embeddings, settings)
    strongest = np.zeros((image.height, image.width), np.float32)
    part = max(1, PIXELS // strongest.size)
    for start in range(0, len(masks), part):
        steep = _steepness(masks.logits[start : start + part], image.size)
        np.maximum(strongest, steep.max(axis=0), out=strongest)
    strongest /= max(float(strongest.max()), 1e-6)
    return thinned(strongest) if thin else strongest


def thinned(edges: EdgeMap) -> EdgeMap:
    """Keep the crests of a map [H, W]: pixels that no neighbour across the ridge exceeds."""
    from scipy.ndimage import gaussian_filter, map_coordinates

    down_down, across, right_right = (gaussian_filter(edges, SMOOTH, order) for order in ((2, 0), (1, 1), (0, 2)))
    along = np.arctan2(2 * across, right_right - down_down) / 2  # least curved direction of a ridge
    dy, dx = np.cos(along), -np.sin(along)
    rows, columns = np.indices(edges.shape, dtype=np.float32)
    sides = [
        map_coordinates(edges, (rows + sign * dy, columns + sign * dx), order=1, mode="nearest") for sign in (-1, 1)
    ]
    return np.where(edges >= np.maximum(*sides), edges, 0).astype(np.float32)


def _steepness(logits: Logits, size: tuple[int, int]) -> EdgeMap:
    """Sobel of each mask's probabilities at a (width, height), [N, H, W]; 0 where it is not on the mask's border."""
    import torch
    from torch.nn.functional import conv2d, interpolate, max_pool2d, pad

    width, height = size
    fine = interpolate(torch.from_numpy(logits)[:, None], size=(height, width), mode="bilinear", align_corners=False)
    smooth, slope = torch.tensor([1.0, 2.0, 1.0]) / 4, torch.tensor([-1.0, 0.0, 1.0])
    kernels = torch.stack([torch.outer(smooth, slope), torch.outer(slope, smooth)])[:, None]
    steep = conv2d(pad(fine.sigmoid(), (1, 1, 1, 1), mode="replicate"), kernels).norm(dim=1)
    inside = (fine > 0).float()
    # The pixels on both sides of the outline; outside the image there is none.
    grown, shrunk = max_pool2d(inside, 3, 1, 1), -max_pool2d(-inside, 3, 1, 1)
    border = (grown > shrunk)[:, 0]
    edges: EdgeMap = (steep * border).numpy()
    return edges
