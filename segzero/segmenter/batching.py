"""Batching of prompts: unequal numbers of objects per image and of points per object become even arrays.

SAM2 has no exact padding (a padded point still takes part in attention), so only prompts with the same number of
points share a batch. Each prompt is a row of its own with its image's features: only then can a batch hold prompts of
several images, and an earlier mask for each.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segzero.errors import UserError
from segzero.segmenter.protocol import Embeddings, Logits, MaskPrediction, MaskPrompt

MASK_LIMIT = 32.0  # earlier masks are clipped to it, as in Meta's predictor
ROW_BYTES = 1 << 28  # image features that one batch may copy
MAX_ROWS = 64
BOX_LABELS = (2, 3)  # SAM2 takes a box as two points, top left and bottom right


@dataclass(frozen=True, eq=False)
class Rows:
    """A batch of n prompts with K points each."""

    images: NDArray[np.int64]  # [n], index of each prompt's image
    points: NDArray[np.float32]  # [n, K, 2] x, y as shares of the image's width and height
    labels: NDArray[np.int64]  # [n, K]
    masks: Logits | None  # [n, h, w]


Decoder = Callable[[Rows], tuple[Logits, Logits]]  # -> logits [n, 3, h, w], scores [n, 3]


def decode_in_batches(
    decoder: Decoder,
    embeddings: Embeddings,
    prompts: Sequence[Sequence[MaskPrompt]],
    all_masks: bool,
    most_rows: int = MAX_ROWS,
) -> list[list[MaskPrediction]]:
    """Predict masks for all prompts in few even batches; the predictions come in the order of the prompts."""
    if len(prompts) != len(embeddings):
        raise UserError(f"prompts for {len(prompts)} images, but {len(embeddings)} embeddings; give one list each")
    for listed, size in zip(prompts, embeddings.sizes, strict=True):
        for prompt in listed:
            check(prompt, size, tuple(embeddings.features[0].shape[-2:]))  # logits have the finest features' grid
    predictions: dict[tuple[int, int], MaskPrediction] = {}
    for places in _batches(embeddings, prompts, most_rows):
        logits, scores = decoder(_rows(embeddings, prompts, places))
        for place, each_logits, each_scores in zip(places, logits, scores, strict=True):
            kept = slice(None) if all_masks else slice(best := int(each_scores.argmax()), best + 1)
            # A copy, or one mask would keep the other two alive.
            predictions[place] = MaskPrediction(
                each_logits[kept].copy(), each_scores[kept].copy(), embeddings.sizes[place[0]]
            )
    return [[predictions[i, j] for j in range(len(listed))] for i, listed in enumerate(prompts)]


def check(prompt: MaskPrompt, size: tuple[int, int], grid: tuple[int, ...]) -> None:
    """Refuse a prompt for which SAM2 would silently return nonsense."""
    width, height = size
    if prompt.box is None and len(prompt.points) == 0:
        raise UserError("a prompt needs a box or at least one point")
    if len(prompt.labels) not in (0, len(prompt.points)):
        raise UserError(f"{len(prompt.points)} points but {len(prompt.labels)} labels; give one for each, or none")
    if not set(prompt.labels) <= {0, 1}:
        raise UserError(f"point labels are 1 (inside) or 0 (outside), not {list(prompt.labels)}")
    for x, y in prompt.points:
        if not (0 <= x <= width and 0 <= y <= height):
            raise UserError(f"the point {x:g},{y:g} lies outside the image of {width}x{height} pixels")
    if prompt.box is not None:
        x0, y0, x1, y1 = prompt.box
        if not (x0 <= x1 and y0 <= y1):
            raise UserError(f"the box {x0:g},{y0:g},{x1:g},{y1:g} is not x0,y0,x1,y1 with x0 <= x1 and y0 <= y1")
        if not (-np.inf < x0 <= width and -np.inf < y0 <= height and 0 <= x1 < np.inf and 0 <= y1 < np.inf):
            raise UserError(f"the box {x0:g},{y0:g},{x1:g},{y1:g} lies outside the image of {width}x{height} pixels")
    if prompt.mask is not None and (np.shape(prompt.mask) != grid or not np.isfinite(prompt.mask).all()):
        raise UserError(
            f"an earlier mask is finite logits {list(grid)}, from MaskPrediction.logits; not {np.shape(prompt.mask)}"
        )


def _batches(
    embeddings: Embeddings, prompts: Sequence[Sequence[MaskPrompt]], most_rows: int
) -> Iterator[list[tuple[int, int]]]:
    """Places (image, prompt) of prompts that can share a batch, as many as memory allows."""
    alike: dict[tuple, list[tuple[int, int]]] = {}
    for i, listed in enumerate(prompts):
        for j, prompt in enumerate(listed):
            key = (prompt.box is not None, len(prompt.points), prompt.mask is not None)
            alike.setdefault(key, []).append((i, j))
    if not alike:
        return
    limit = min(max(ROW_BYTES * len(embeddings) // embeddings.nbytes, 1), most_rows)
    for places in alike.values():
        for start in range(0, len(places), limit):
            yield places[start : start + limit]


def _rows(embeddings: Embeddings, prompts: Sequence[Sequence[MaskPrompt]], places: list[tuple[int, int]]) -> Rows:
    """Arrays of the prompts at these places."""
    chosen = [prompts[i][j] for i, j in places]
    points, labels = [], []
    for prompt in chosen:
        corners = [] if prompt.box is None else [prompt.box[:2], prompt.box[2:]]
        points.append([*corners, *prompt.points])
        labels.append([*BOX_LABELS[: len(corners)], *(list(prompt.labels) or [1] * len(prompt.points))])
    sizes = np.array([embeddings.sizes[i] for i, _ in places], dtype=np.float64)  # [n, 2]
    masks = [prompt.mask for prompt in chosen if prompt.mask is not None]  # all or none of them
    return Rows(
        images=np.array([i for i, _ in places]),
        points=(np.array(points, dtype=np.float64) / sizes[:, None]).astype(np.float32),
        labels=np.array(labels),
        masks=np.stack(masks).astype(np.float32).clip(-MASK_LIMIT, MASK_LIMIT) if masks else None,
    )
