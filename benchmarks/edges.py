"""Edges of held-out scenes by ODS-F against the true outlines of their shapes and emblems.

The published recipe on the shipped tiny SAM2, and for comparison the same thinning of the picture's own gradient
(Sobel of each colour, the strongest). A pixel of an edge and one of an outline can be a pair if they are at most 0.0075
of the image's diagonal apart, as in BSDS; the largest one-to-one matching counts (BSDS' own code looks for the one of
least total distance, among outliers). ODS: one threshold for all images, the best of those tried.

    OMP_NUM_THREADS=1 python -m benchmarks.edges [--scenes 40] [--device cpu]
"""

import argparse

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import binary_erosion, sobel
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import maximum_bipartite_matching
from scipy.spatial import cKDTree

from segzero import shipped
from segzero.segmenter import load_segmenter
from segzero.segmenter.edges import find_edges, thinned
from segzero.tiny.questions import HELD_OUT_SEED
from segzero.tiny.scenes import Scene, make_scene

MAX_DISTANCE = 0.0075  # of the diagonal
THRESHOLDS = np.linspace(0.02, 0.98, 25)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=40)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()

    segmenter = load_segmenter(shipped.segmenter_path(), device=args.device)
    rng = np.random.default_rng(HELD_OUT_SEED + 16)
    counts: dict[str, list[NDArray[np.int64]]] = {"masks": [], "gradient of the picture": []}
    for _ in range(args.scenes):
        scene = make_scene(rng)
        truth = outlines(scene)
        counts["masks"].append(matches(find_edges(segmenter, Image.fromarray(scene.image)), truth))
        counts["gradient of the picture"].append(matches(thinned(gradient(scene.image)), truth))
    print(f"{args.scenes} held-out scenes, {len(THRESHOLDS)} thresholds")
    for name, rows in counts.items():
        report(name, np.array(rows), np.random.default_rng(0))


def outlines(scene: Scene) -> NDArray[np.bool_]:
    """The pixels of shapes and emblems that touch what is outside of them, [H, W]."""
    masks = [mask for shape in scene.shapes for mask in (shape.mask, shape.part) if mask is not None]
    return np.any([mask & ~binary_erosion(mask) for mask in masks], axis=0)


def gradient(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Strength of the gradient of an image [H, W, 3], the strongest colour's, 0 to 1."""
    colours = image.astype(np.float32)
    strength = np.hypot(sobel(colours, axis=0), sobel(colours, axis=1)).max(axis=2)
    return strength / max(float(strength.max()), 1e-6)


def matches(edges: NDArray[np.float32], truth: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Matched pairs, pixels of edges and pixels of outlines at each threshold, [T, 3]."""
    reach = MAX_DISTANCE * np.hypot(*truth.shape)
    true_places = np.argwhere(truth)
    rows = []
    for threshold in THRESHOLDS:
        places = np.argwhere(edges >= threshold)
        rows.append((matched(places, true_places, reach), len(places), len(true_places)))
    return np.array(rows)


def matched(places: NDArray[np.intp], true_places: NDArray[np.intp], reach: float) -> int:
    """Size of the largest one-to-one matching of places [N, 2] and [M, 2] that are at most `reach` apart."""
    if not len(places) or not len(true_places):
        return 0
    near = cKDTree(places).query_ball_point(true_places, reach)
    rows = np.repeat(np.arange(len(near)), [len(each) for each in near])
    columns = np.concatenate([np.asarray(each, int) for each in near])
    pairs = coo_matrix((np.ones(len(rows), bool), (rows, columns)), (len(true_places), len(places)))
    return int((maximum_bipartite_matching(pairs.tocsr()) >= 0).sum())


def ods(rows: NDArray[np.int64]) -> tuple[float, float, float, float]:
    """The best F over thresholds of the counts [N, T, 3] of all images together, its precision, recall, threshold."""
    pairs, found, true = rows.sum(axis=0).T
    precision, recall = pairs / np.maximum(found, 1), pairs / np.maximum(true, 1)
    f = 2 * precision * recall / np.maximum(precision + recall, 1e-9)
    best = int(f.argmax())
    return float(f[best]), float(precision[best]), float(recall[best]), float(THRESHOLDS[best])


def report(name: str, rows: NDArray[np.int64], rng: np.random.Generator) -> None:
    """Print the figures of one method, with an interval of 95 % over scenes."""
    f, precision, recall, threshold = ods(rows)
    again = [ods(rows[rng.integers(len(rows), size=len(rows))])[0] for _ in range(500)]
    low, high = np.percentile(again, (2.5, 97.5))
    print(
        f"{name:24} ODS-F {f:.3f} ({low:.3f} to {high:.3f})   precision {precision:.3f}   recall {recall:.3f}   "
        f"threshold {threshold:.2f}"
    )


if __name__ == "__main__":
    main()
