"""Samples for judging masks: true ones, damaged ones, those of other objects, and those that a policy really drew.

A sample gets a mask to look at (`Sample.current_mask`); its question and its truth stay what they are. Without damaged
masks a policy that is trained on its own never learns when to stop (SAM-Veteran).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from scipy.ndimage import binary_dilation, binary_erosion, gaussian_filter

from rewards.refinement import BORDER, good_enough
from segzero.images import image_key
from segzero.masks import RLE, Mask, decode, encode, from_polygons, mask_iou, union
from segzero.sample import Sample

BAD = 0.9  # a damaged mask has a lower IoU; what lies between it and "good enough" is not asked about
TRIES = 8  # to damage a mask enough
CORNERS = 7  # of a random polygon


@dataclass
class CorruptionCounts:
    """Number of samples by the kind of their mask, and of those without any."""

    kinds: dict[str, int] = field(default_factory=dict)
    left_out: int = 0
    plain: int = 0  # questions without a mask
    met: int = 0  # samples of which there is a mask that a policy drew

    def __str__(self) -> str:
        parts = [f"{self.plain} without a mask"] if self.plain else []
        parts += [f"{count} {kind}" for kind, count in sorted(self.kinds.items())]
        return ", ".join(parts) + (f"; {self.left_out} left out: no clear mask to judge" if self.left_out else "")


def judging_samples(
    samples: Sequence[Sample],
    seed: tuple[int, ...],
    counts: CorruptionCounts,
    drawn: Mapping[str, RLE] | None = None,
    share: float = 0.5,
    plain: Sequence[bool] = (),
) -> Iterator[Sample]:
    """Give each sample two masks to judge, a good and a bad one, but those for which `plain` is true.

    So the question alone does not tell which decision is right. `drawn` are masks of a policy by the sample's id; they
    stand for the good or the bad one, as they are, in a `share` of the samples that have one. Samples about one image
    lend each other the masks of objects. `counts` is filled in.
    """
    drawn = drawn or {}
    others: dict[str, list[tuple[str, RLE]]] = {}  # true masks of an image's questions, by image
    for sample in samples:
        true = sample.mask()
        if true is not None and sample.objects:
            others.setdefault(image_key(sample.image), []).append((sample.id, true))
    for place, sample in enumerate(samples):
        if plain and plain[place]:
            counts.plain += 1
            yield sample
            continue
        counts.met += sample.id in drawn
        rng = np.random.default_rng((*seed, place))
        beside = [rle for id, rle in others.get(image_key(sample.image), []) if id != sample.id]
        pair = _pair(rng, sample, beside, drawn.get(sample.id) if rng.random() < share else None)
        counts.left_out += not pair
        for name, (kind, mask) in pair.items():
            counts.kinds[kind] = counts.kinds.get(kind, 0) + 1
            meta = {**sample.meta, "corruption": kind}
            yield replace(sample, id=f"{sample.id}-{name}", current_mask=encode(mask), meta=meta)


def _pair(
    rng: np.random.Generator, sample: Sample, beside: Sequence[RLE], drawn: RLE | None
) -> dict[str, tuple[str, Mask]]:
    """Choose a good and a bad mask [H, W] for a sample, each with its kind; none where the true mask is not known."""
    rle = sample.mask()
    if rle is None:
        return {}
    true = decode(rle, sample.size)
    kind, mask = _damaged(rng, sample, true, _pick(rng, beside, sample, true))
    # Both have clean borders as often: a border must not tell which decision is right.
    bad = _maybe_shaken(rng, mask)
    pair = {
        "good": ("good", _maybe_shaken(rng, true)),
        "bad": (kind, bad if mask_iou(bad, true) < BAD and not good_enough(bad, true) else mask),
    }
    if drawn is not None:
        mask = decode(drawn, sample.size)
        if not _unclear(mask, true):
            pair["good" if good_enough(mask, true) else "bad"] = ("drawn", mask)
    return pair


def _damaged(rng: np.random.Generator, sample: Sample, true: Mask, other: Mask | None) -> tuple[str, Mask]:
    """A bad mask and its kind; where nothing is there, any mask is bad."""
    other = blob(rng, sample) if other is None else other
    if not true.any():
        return "wrong", other
    names, weights = list(DAMAGES), [weight for _, weight in DAMAGES.values()]
    for name in rng.choice(names, len(names), replace=False, p=weights):
        for _ in range(TRIES):
            mask = DAMAGES[name][0](rng, true, other)
            if not _unclear(mask, true) and mask_iou(mask, true) < BAD:
                return str(name), mask
    return "nothing", np.zeros_like(true)


def _unclear(mask: Mask, true: Mask) -> bool:
    """True for a mask that is neither good enough nor bad."""
    return not good_enough(mask, true) and mask_iou(mask, true) >= BAD


def _pick(rng: np.random.Generator, beside: Sequence[RLE], sample: Sample, true: Mask) -> Mask | None:
    """Choose the mask of another question about the image, of which little belongs to this one's answer."""
    for place in rng.permutation(len(beside)):
        mask = decode(beside[place], sample.size)
        if mask_iou(mask, true) < 0.1:
            return mask
    return None


def _maybe_shaken(rng: np.random.Generator, mask: Mask) -> Mask:
    return shaken(rng, mask) if rng.random() < 0.5 else mask


def shaken(rng: np.random.Generator, true: Mask) -> Mask:
    """A mask that differs from the true one along its border alone, in a band as wide as `good_enough` forgives."""
    if not true.any():
        return true
    width = max(1, round(BORDER * float(np.hypot(*true.shape))))
    noise = gaussian_filter(rng.standard_normal(true.shape), 2.0 * width)
    grown = binary_dilation(true, iterations=int(rng.integers(1, width + 1)))
    shrunk = binary_erosion(true, iterations=int(rng.integers(1, width + 1)))
    mask = np.where(noise > 0, grown, shrunk)
    return mask if good_enough(mask, true) else true


def blob(rng: np.random.Generator, sample: Sample) -> Mask:
    """A random polygon somewhere, a tenth to a third of the image wide."""
    width, height = sample.size
    centre, radius = (rng.uniform(0, width), rng.uniform(0, height)), rng.uniform(0.05, 0.17) * min(width, height)
    return polygon(rng, centre, radius, (height, width))


def polygon(rng: np.random.Generator, centre: tuple[float, float], radius: float, shape: tuple[int, ...]) -> Mask:
    """A random star-shaped polygon [H, W] about a centre."""
    angles = np.sort(rng.uniform(0, 2 * np.pi, CORNERS))
    reach = radius * rng.uniform(0.6, 1.3, CORNERS)
    corners = np.stack([centre[0] + reach * np.cos(angles), centre[1] + reach * np.sin(angles)], axis=1)
    corners = corners.clip(0, [shape[1], shape[0]])
    return decode(from_polygons([corners.ravel().tolist()], (shape[1], shape[0])))


def added(rng: np.random.Generator, true: Mask, other: Mask) -> Mask:
    """The true mask with a polygon at its edge."""
    return true | polygon(rng, _place(rng, _edge(true)), _radius(true) * rng.uniform(0.6, 1.2), true.shape)


def cut(rng: np.random.Generator, true: Mask, other: Mask) -> Mask:
    """The true mask without a polygon at its edge."""
    return true & ~polygon(rng, _place(rng, _edge(true)), _radius(true) * rng.uniform(0.6, 1.2), true.shape)


def halved(rng: np.random.Generator, true: Mask, other: Mask) -> Mask:
    """One side of the true mask, beyond a line through it."""
    angle = rng.uniform(0, 2 * np.pi)
    rows, columns = np.nonzero(true)
    along = columns * np.cos(angle) + rows * np.sin(angle)
    kept = along < np.quantile(along, rng.uniform(0.3, 0.7))
    mask = np.zeros_like(true)
    mask[rows[kept], columns[kept]] = True
    return mask


def merged(rng: np.random.Generator, true: Mask, other: Mask) -> Mask:
    """The true mask together with another object's."""
    return true | other


def wrong(rng: np.random.Generator, true: Mask, other: Mask) -> Mask:
    """Another object's mask."""
    return other & ~true


# Ways to damage a mask, and how often each is tried first: policies mostly err by whole objects.
DAMAGES: dict[str, tuple[Callable[[np.random.Generator, Mask, Mask], Mask], float]] = {
    "added": (added, 0.15),
    "cut": (cut, 0.15),
    "halved": (halved, 0.15),
    "merged": (merged, 0.2),
    "wrong": (wrong, 0.35),
}


def drawn_masks(predictions: Iterable[tuple[str, Sequence[RLE | None]]]) -> dict[str, RLE]:
    """Unite the masks of each prediction, by the sample's id; those without a mask are left out."""
    found = {}
    for id, rles in predictions:
        masks = [rle for rle in rles if rle is not None]
        if masks:
            height, width = masks[0]["size"]
            found[id] = union(masks, (width, height))
    return found


def _edge(mask: Mask) -> Mask:
    return mask & ~binary_erosion(mask)


def _place(rng: np.random.Generator, mask: Mask) -> tuple[float, float]:
    """A random pixel x, y of a mask."""
    index = int(rng.choice(np.flatnonzero(mask)))
    return float(index % mask.shape[1]), float(index // mask.shape[1])


def _radius(mask: Mask) -> float:
    """Radius of the circle of a mask's area."""
    return float(np.sqrt(mask.sum() / np.pi))
