"""Everything mode: all masks of an image, from a grid of points, as SAM and SAM2 define it.

A point gives three masks. They are filtered by predicted IoU while they are small, at the segmenter's own resolution,
then from the best on by stability and by the boxes of better ones; only what is left is enlarged and encoded, once.
Where this departs from the published code:

1. The grid is decoded from coarse to fine, and a point is skipped if an earlier point's mask tells what is there; see
   `EverythingSettings.skip_covered`.
2. Stability and boxes are measured in pixels only for masks that are no duplicates, each in a window of its own.
3. The whole image is a crop like the others: boxes are compared in the image's coordinates, and all crops count.

>>> found = find_everything(segmenter, image)                                              # doctest: +SKIP
>>> found[0].area, found[0].box, found[0].score                                            # doctest: +SKIP
(5316, (31.0, 12.0, 118.0, 96.0), 0.97)
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segzero.errors import UserError
from segzero.frames import Size
from segzero.masks import RLE, Box, Mask, Point, box_of_rle, decode, encode, pixel_count
from segzero.segmenter.protocol import Embeddings, Logits, MaskPrompt, Segmenter, enlarge

EDGE = 20.0  # pixels: a box so near to a crop's edge belongs to an object that the crop cuts
SLACK = 0.3  # a mask that is less stable by more, counted in cells, is not looked at closely
SURE = 2  # pixels by which a rough box may be too large on each side
MEASURED = 1024  # longest side of an image at which masks are measured in its own pixels
ENLARGED = 1 << 26  # pixels of masks that are enlarged at a time
MOST_PIXELS = 1 << 34  # of all masks of an image together
CROPS_AT_ONCE = 4
HELD = 1 << 29  # bytes of candidates beyond which duplicates go before all points are decoded
KNOWN = 2  # points with a mask over a place, after which it is known
STRIDES = (4, 2, 1)  # every fourth point of a row and column first, then every second, then all

Crop = tuple[int, int, int, int]  # x0, y0, x1, y1
Boxes = NDArray[np.float64]  # [N, 4] x0, y0, x1, y1
Points = NDArray[np.float64]  # [N, 2] x, y


@dataclass(frozen=True)
class EverythingSettings:
    """Settings of everything mode, named as in SAM; the defaults are SAM2's."""

    points_per_side: int = 32
    """Points in a row and in a column of the grid, 1 to 128."""
    points_per_batch: int = 64
    """Points whose three masks are held in memory at once, 1 to 1024."""
    pred_iou_thresh: float = 0.8
    """Masks of which the model expects an IoU of no more than this are dropped."""
    stability_thresh: float = 0.95
    """Masks that change more than this when the cut moves are dropped: IoU of logits above +offset and -offset."""
    stability_offset: float = 1.0
    """Distance by which the cut moves, in logits."""
    box_nms_thresh: float = 0.7
    """IoU of boxes above which the mask of lower predicted IoU is a duplicate, within a crop."""
    crop_layers: int = 0
    """Layers of crops beside the image, 0 to 3: layer i has 4**i of them."""
    crop_overlap: float = 512 / 1500
    """Overlap of the first layer's crops, as a share of the image's shorter side; halved with each layer."""
    crop_downscale: int = 1
    """Divisor of points_per_side with each layer."""
    crop_nms_thresh: float = 0.7
    """IoU of boxes above which a mask of a larger crop is a duplicate of a smaller crop's."""
    min_area: int = 0
    """Holes and islands of fewer pixels are filled and removed."""
    skip_covered: bool = False
    """Skip points that lie in the smallest good mask of an earlier point; else every point is decoded, as in SAM."""

    def __post_init__(self) -> None:
        for name, (low, high) in BOUNDS.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
                raise UserError(f"{name} must be a number from {low:g} to {high:g}, not {value!r}")
            if type(getattr(type(self), name)) is int and value != int(value):
                raise UserError(f"{name} must be a whole number, not {value!r}")


BOUNDS: dict[str, tuple[float, float]] = {
    "points_per_side": (1, 128),
    "points_per_batch": (1, 1024),
    "pred_iou_thresh": (0, 1),
    "stability_thresh": (0, 1),
    "stability_offset": (0, 100),
    "box_nms_thresh": (0, 1),
    "crop_layers": (0, 3),
    "crop_overlap": (0, 0.9),
    "crop_downscale": (1, 128),
    "crop_nms_thresh": (0, 1),
    "min_area": (0, 1 << 28),
}
PRESETS = {
    "sam2": EverythingSettings(),
    "sam": EverythingSettings(pred_iou_thresh=0.88),
    # For the shipped segmenter, which draws on 48x48 cells: its masks are less stable than SAM2's.
    "scenes": EverythingSettings(points_per_side=24, stability_thresh=0.85),
}


@dataclass(frozen=True, eq=False)
class FoundMask:
    """A mask that everything mode found."""

    rle: RLE
    area: int  # pixels
    box: Box  # x0, y0, x1, y1 around the mask
    score: float  # IoU that the segmenter expects
    stability: float
    point: Point  # x, y that gave the mask
    crop: Crop  # in which the point was decoded; the whole image without crops

    @property
    def mask(self) -> Mask:
        """Mask [H, W] of the image's size; decoded at each access, so that hundreds of masks stay small."""
        return decode(self.rle)

    def to_dict(self) -> dict[str, Any]:
        """Convert into plain types for JSON."""
        return {
            "box": list(self.box),
            "area": self.area,
            "score": self.score,
            "stability": self.stability,
            "point": list(self.point),
            "crop": list(self.crop),
            "rle": self.rle,
        }


@dataclass(frozen=True, eq=False)
class Candidates:
    """Masks of one crop at the segmenter's resolution; coordinates are pixels of the crop."""

    logits: Logits  # [N, h, w]
    scores: NDArray[np.float32]  # [N]
    stability: NDArray[np.float64]  # [N]
    boxes: Boxes
    points: Points

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, chosen: NDArray[np.intp] | NDArray[np.bool_]) -> "Candidates":
        return Candidates(*(getattr(self, field.name)[chosen] for field in fields(self)))


def find_everything(
    segmenter: Segmenter,
    image: Image.Image,
    settings: EverythingSettings = PRESETS["sam2"],
    embeddings: Embeddings | None = None,
    most_pixels: int = MOST_PIXELS,
) -> list[FoundMask]:
    """Find all masks of an image, best first; `embeddings` are the image's, if it is encoded already.

    Settings that leave more masks than `most_pixels` together are refused: all of them would be enlarged and encoded.
    """
    found: list[FoundMask] = []
    for crop, per_side, encoded in _encoded_crops(segmenter, image, settings, embeddings):
        kept = find_candidates(segmenter, encoded, replace(settings, points_per_side=per_side), crop, image.size)
        if (len(found) + len(kept)) * image.width * image.height > most_pixels:
            count = f"{len(found) + len(kept)} masks of {image.width}x{image.height} pixels"
            raise UserError(f"{count} are left, too many; raise pred_iou_thresh, or lower box_nms_thresh")
        found += _in_full_size(kept, crop, image.size)
    found.sort(key=lambda each: -each.score)
    if settings.crop_layers:
        found = _without_duplicates(found, [-_pixels(each.crop) for each in found], settings.crop_nms_thresh)
    if settings.min_area:
        found = _without_specks(found, settings)
    return sorted(found, key=lambda each: -each.score)


def find_candidates(
    segmenter: Segmenter,
    embeddings: Embeddings,
    settings: EverythingSettings,
    crop: Crop | None = None,
    size: Size | None = None,
) -> Candidates:
    """Decode the grid's points in one encoded image; return the masks that pass the filters, without duplicates.

    If it is the `crop` of an image of that (width, height), masks that the crop cuts are dropped too.
    """
    width, height = embeddings.sizes[0]
    grid = embeddings.features[0].shape[-2:]  # logits have the finest features' grid
    held: list[Candidates] = []
    covered = np.zeros(grid, int)  # by how many points' masks
    for points in _from_coarse_to_fine(settings.points_per_side, (width, height)):
        if settings.skip_covered:
            cells = (points / (width, height) * (grid[1], grid[0])).astype(int)  # the logit at each point
            points = points[covered[cells[:, 1], cells[:, 0]] < KNOWN]
        for start in range(0, len(points), settings.points_per_batch):
            batch = points[start : start + settings.points_per_batch]
            masks, owners = _decode(segmenter, embeddings, batch, settings)
            if settings.skip_covered:
                stable = masks.stability >= settings.stability_thresh
                covered += _smallest(masks.logits[stable], owners[stable]).sum(axis=0)
            if crop is not None and size is not None:
                masks = masks[~_cut_off(masks.boxes, crop, size)]
            held.append(masks)
            if sum(each.logits.nbytes for each in held) > HELD:
                held = [_best(held, settings, (width, height))]
    return _best(held, settings, (width, height))


def nms(boxes: Boxes, scores: NDArray[np.floating] | list[int], threshold: float) -> NDArray[np.intp]:
    """Places of boxes that no better box overlaps by more than `threshold`, best first; of equals the first is best."""
    import torch
    from torchvision.ops import nms as suppress

    kept = suppress(torch.tensor(boxes, dtype=torch.float64), torch.tensor(scores, dtype=torch.float64), threshold)
    places: NDArray[np.intp] = kept.numpy()
    return places


def crop_boxes(size: Size, layers: int, overlap: float) -> list[list[Crop]]:
    """Crops of an image of that (width, height) as x0, y0, x1, y1, a list for each layer: the image, 2x2, 4x4, ...

    >>> crop_boxes((300, 200), 1, 0.1)
    [[(0, 0, 300, 200)], [(0, 0, 160, 110), (140, 0, 300, 110), (0, 90, 160, 200), (140, 90, 300, 200)]]
    """
    layered = [[(0, 0, *size)]]
    for layer in range(1, layers + 1):
        count = 2**layer
        shared = int(overlap * min(size) * 2 / count)
        spans = []
        for side in size:
            length = math.ceil((side + shared * (count - 1)) / count)
            starts = [i * (length - shared) for i in range(count)]
            spans.append([(start, min(start + length, side)) for start in starts if start < side])
        layered.append([(x0, y0, x1, y1) for y0, y1 in spans[1] for x0, x1 in spans[0]])
    return layered


def _encoded_crops(
    segmenter: Segmenter, image: Image.Image, settings: EverythingSettings, embeddings: Embeddings | None
) -> Iterator[tuple[Crop, int, Embeddings]]:
    """Each crop, the points of a side of its grid, and the crop as the segmenter encodes it."""
    [_, *layers] = crop_boxes(image.size, settings.crop_layers, settings.crop_overlap)
    yield (0, 0, *image.size), settings.points_per_side, embeddings or segmenter.embed([image])
    for layer, crops in enumerate(layers, 1):
        per_side = max(1, settings.points_per_side // settings.crop_downscale**layer)
        for start in range(0, len(crops), CROPS_AT_ONCE):
            several = crops[start : start + CROPS_AT_ONCE]
            encoded = segmenter.embed([image.crop(crop) for crop in several])
            for place, crop in enumerate(several):
                yield crop, per_side, encoded[place]


def _from_coarse_to_fine(per_side: int, size: Size) -> Iterator[Points]:
    """The points of an even grid, in turns: with every stride those that the strides before have left."""
    index = np.arange(per_side)
    done = np.zeros((per_side, per_side), bool)
    for stride in STRIDES:
        chosen = index % stride == stride // 2
        turn = chosen[:, None] & chosen[None, :] & ~done
        done |= turn
        rows, columns = np.nonzero(turn)
        yield (np.stack([columns, rows], axis=1) + 0.5) / per_side * size


def _decode(
    segmenter: Segmenter, embeddings: Embeddings, points: Points, settings: EverythingSettings
) -> tuple[Candidates, NDArray[np.intp]]:
    """The masks of these points that may pass the filters, measured roughly in cells, and the place of each point."""
    prompts = [MaskPrompt(points=[(float(x), float(y))]) for x, y in points]
    [predictions] = segmenter.decode(embeddings, [prompts], all_masks=True)
    every = np.stack([each.scores for each in predictions])  # [n, 3]
    least = settings.pred_iou_thresh
    owners, ranks = np.nonzero(every > least if least > 0 else ~np.isnan(every))
    scores = every[owners, ranks]
    grid = predictions[0].logits.shape[1:]
    logits = np.array([predictions[i].logits[j] for i, j in zip(owners, ranks, strict=True)], np.float32)
    logits = logits.reshape(-1, *grid)
    stability = _overlap(logits, settings.stability_offset)
    kept = (stability >= settings.stability_thresh - SLACK) & (logits > 0).any(axis=(1, 2))
    owners, logits = owners[kept], logits[kept]
    boxes = _boxes(logits, embeddings.sizes[0])
    return Candidates(logits, scores[kept], stability[kept], boxes, points[owners]), owners


def _overlap(logits: Logits, offset: float) -> NDArray[np.float64]:
    surely, perhaps = (np.count_nonzero(logits > cut, axis=(1, 2)) for cut in (offset, -offset))
    overlap: NDArray[np.float64] = surely / np.maximum(perhaps, 1)
    return overlap


def _smallest(logits: Logits, owners: NDArray[np.intp]) -> NDArray[np.bool_]:
    """The smallest of the masks of each point, [P, h, w]."""
    masks = logits > 0
    order = np.lexsort((np.count_nonzero(masks, axis=(1, 2)), owners))
    _, first = np.unique(owners[order], return_index=True)
    smallest: NDArray[np.bool_] = masks[order[first]]
    return smallest


def _best(several: list[Candidates], settings: EverythingSettings, size: Size) -> Candidates:
    """Stable candidates without duplicates, best first.

    Stability and boxes are measured in pixels, from the best mask on, unless a better one is sure to rule a mask out.
    """
    joined = Candidates(*(np.concatenate([getattr(c, field.name) for c in several]) for field in fields(Candidates)))
    joined = joined[np.argsort(-joined.scores, kind="stable")]
    limit = settings.box_nms_thresh
    rough = joined.boxes - (0, 0, 1, 1)  # first and last pixels, as SAM compares them
    surely = rough + np.array([SURE, SURE, -SURE, -SURE])
    kept: list[int] = []
    measured = np.zeros((0, 4))
    for place, logits in enumerate(joined.logits):
        if np.any(_shared(surely[place], measured, rough[place]) > limit):
            continue
        stability, box = measure(logits, size, settings.stability_offset)
        if box is None or stability < settings.stability_thresh:
            continue
        inner = np.array(box) - (0, 0, 1, 1)
        if np.any(_shared(inner, measured, inner) > limit):
            continue
        kept.append(place)
        measured = np.concatenate([measured, inner[None]])
        joined.stability[place], joined.boxes[place] = stability, box
    return joined[np.array(kept, np.intp)]


def _shared(box: NDArray[np.float64], others: Boxes, around: NDArray[np.float64]) -> NDArray[np.float64]:
    """IoU of a box with others [N, 4], where the union counts a box around it."""
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    both = np.maximum(sides, 0).prod(axis=1)
    areas = (others[:, 2:] - others[:, :2]).prod(axis=1) + (around[2:] - around[:2]).prod()
    shared: NDArray[np.float64] = both / np.maximum(areas - both, 1e-9)
    return shared


def measure(logits: Logits, size: Size, offset: float) -> tuple[float, Box | None]:
    """Stability and box of a mask [h, w] that is enlarged to a (width, height); no box if no pixel is inside.

    Stability is the IoU of the mask cut at +offset with itself cut at -offset. Only a window around the mask is
    enlarged, and images of more than 1,024 pixels a side are measured at that.
    """
    scale = min(1.0, MEASURED / max(size))
    width, height = (max(1, round(side * scale)) for side in size)
    perhaps = logits > -offset
    rows, top, down = _window(np.any(perhaps, axis=1), height)
    columns, left, across = _window(np.any(perhaps, axis=0), width)
    fine = down @ logits[rows, columns] @ across.T
    mask = fine > 0
    ys, xs = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(ys):
        return 0.0, None
    stability = np.count_nonzero(fine > offset) / np.count_nonzero(fine > -offset)
    x0, x1, y0, y1 = (
        float(place / scale) for place in (left + xs[0], left + xs[-1] + 1, top + ys[0], top + ys[-1] + 1)
    )
    return stability, (x0, y0, x1, y1)


def _window(inside: NDArray[np.bool_], pixels: int) -> tuple[slice, int, NDArray[np.float32]]:
    """The cells of a side that a mask takes and one more at each end, the first pixel there, weights for them."""
    cells = len(inside)
    touched = np.flatnonzero(inside)
    first, last = (int(touched[0]) - 1, int(touched[-1]) + 1) if len(touched) else (0, cells - 1)
    begin = max(0, math.ceil((first + 0.5) * pixels / cells - 0.5))
    end = min(pixels, math.floor((last + 0.5) * pixels / cells - 0.5) + 1)
    taken = slice(max(first, 0), last + 1)
    return taken, begin, _linear_weights(cells, pixels)[begin:end, taken]


@lru_cache(maxsize=16)
def _linear_weights(cells: int, pixels: int) -> NDArray[np.float32]:
    """Weights [pixels, cells] by which cells become pixels, linear between the middles of cells."""
    middles = np.clip((np.arange(pixels) + 0.5) * cells / pixels - 0.5, 0, cells - 1)
    weights: NDArray[np.float32] = np.maximum(0, 1 - abs(middles[:, None] - np.arange(cells))).astype(np.float32)
    return weights


def _boxes(logits: Logits, size: Size) -> Boxes:
    """Boxes that masks have when they are enlarged to a (width, height), from logits between which they are linear."""
    sides = []
    for values, length in zip((logits, logits.transpose(0, 2, 1)), size, strict=True):
        cells = values.shape[2]
        first, last = _crossing(values), cells - 1 - _crossing(values[:, :, ::-1])
        low, high = ((edge + 0.5) * length / cells - 0.5 for edge in (first, last))  # in centres of pixels
        sides += [np.ceil(low), np.maximum(np.floor(high), np.ceil(low)) + 1]
    return np.stack([sides[0], sides[2], sides[1], sides[3]], axis=1)


def _crossing(values: Logits) -> NDArray[np.float64]:
    """The place along the last axis of [N, a, b] where any row first becomes positive; -0.5 is the border."""
    first = (values > 0).any(axis=1).argmax(axis=1)
    rows = np.arange(len(values))
    here = values[rows, :, first].astype(np.float64)  # [N, a]
    before = values[rows, :, np.maximum(first - 1, 0)]
    share = np.divide(here, here - before, out=np.zeros_like(here), where=(here > 0) & (before <= 0))
    return np.where(first > 0, first - share.max(axis=1, initial=0), -0.5)


def _cut_off(boxes: Boxes, crop: Crop, size: Size) -> NDArray[np.bool_]:
    """True for boxes [N, 4] of a crop that touch its edge where it is not the image's."""
    placed = boxes + np.array([*crop[:2], *crop[:2]])
    at_crop, at_image = (np.abs(placed - np.array(frame)) <= EDGE for frame in (crop, (0, 0, *size)))
    cut: NDArray[np.bool_] = np.any(at_crop & ~at_image, axis=1)
    return cut


def _in_full_size(kept: Candidates, crop: Crop, size: Size) -> Iterator[FoundMask]:
    """Enlarge a crop's masks, a part at a time, and encode each where it lies in the image."""
    x0, y0, x1, y1 = crop
    part = max(1, ENLARGED // _pixels(crop))
    for start in range(0, len(kept), part):
        for place, mask in enumerate(enlarge(kept.logits[start : start + part], (x1 - x0, y1 - y0)), start):
            whole = np.zeros((size[1], size[0]), bool)
            whole[y0:y1, x0:x1] = mask
            rle = encode(whole)
            if (box := box_of_rle(rle)) is None:  # it fell between the pixels of a small image
                continue
            x, y = kept.points[place] + (x0, y0)
            score, stability = float(kept.scores[place]), float(kept.stability[place])
            yield FoundMask(rle, pixel_count(rle), box, score, stability, (float(x), float(y)), (x0, y0, x1, y1))


def _without_duplicates(found: list[FoundMask], ranks: list[int], threshold: float) -> list[FoundMask]:
    """Masks whose boxes no mask of higher rank overlaps; of equal ranks the first counts."""
    boxes = np.array([each.box for each in found]).reshape(-1, 4)
    return [found[place] for place in nms(boxes, ranks, threshold)]


def _without_specks(found: list[FoundMask], settings: EverythingSettings) -> list[FoundMask]:
    """Masks without small holes and islands; of duplicates those that had none before are kept."""
    cleaned, unchanged = [], []
    for each in found:
        mask = each.mask
        whole = remove_specks(mask, settings.min_area)
        unchanged.append(int(whole is mask))
        if whole is not mask:
            rle = encode(whole)
            each = replace(each, rle=rle, area=pixel_count(rle), box=box_of_rle(rle) or each.box)
        cleaned.append(each)
    return _without_duplicates(cleaned, unchanged, max(settings.box_nms_thresh, settings.crop_nms_thresh))


def remove_specks(mask: Mask, least: int) -> Mask:
    """Fill the holes of a mask and remove its islands of fewer than `least` pixels; the largest island stays.

    Pixels that touch at a corner are connected. The mask itself is returned if there are none.
    """
    from scipy.ndimage import label

    for inside in (False, True):
        pieces, _ = label(mask == inside, np.ones((3, 3)))
        sizes = np.bincount(pieces.ravel())[1:]
        small = sizes < least
        if inside and small.all() and len(sizes):
            small[sizes.argmax()] = False
        if small.any():
            mask = mask ^ np.concatenate([[False], small])[pieces]
    return mask


def _pixels(box: Crop) -> int:
    return (box[2] - box[0]) * (box[3] - box[1])
