"""Training prompts of the tiny SAM2: boxes and points of a scene's shapes, and the masks that they mean.

A shape with an emblem has three masks: the whole, the emblem (its part), and the body (the whole without the emblem).
A box around the shape means the whole and a box around the emblem the emblem; a point alone may mean any of the
masks it lies in. So for points alone, the model's three masks have fixed roles: the whole, the emblem, the body.
For every other prompt, and for a shape without an emblem, all three learn the one mask that is meant.
"""

from dataclasses import dataclass

import numpy as np
import torch

from segzero.masks import Box, box_of
from segzero.tiny.scenes import Scene, SceneShape

TOP_LEFT, BOTTOM_RIGHT, INSIDE, OUTSIDE = 2, 3, 1, 0  # point labels as SAM2 knows them: a box is two points

# kind of prompt -> (share of the prompts, has a box, points inside, points outside)
KINDS = {
    "box and point": (0.20, True, 1, 0),
    "box": (0.12, True, 0, 0),
    "point": (0.30, False, 1, 0),
    "box and points": (0.12, True, 1, 1),
    "two points": (0.06, False, 2, 0),
    "point against point": (0.20, False, 1, 1),
}


@dataclass(frozen=True)
class PromptBatch:
    """Prompts of B scenes, N each, with target masks at half of the scenes' resolution."""

    points: torch.Tensor  # [B, N, K, 2] x, y in scene pixels; a box is its first two points
    labels: torch.Tensor  # [B, N, K]
    meant: torch.Tensor  # [B, N, h, w] the mask that is meant: how much of each pixel is inside, 0 to 1
    roles: torch.Tensor  # [B, N, 3, h, w] the target of each of the three masks


def draw_kind(rng: np.random.Generator) -> str:
    """Draw a kind of prompt by its share in KINDS."""
    return str(rng.choice(list(KINDS), p=[share for share, *_ in KINDS.values()]))


def draw_batch(rng: np.random.Generator, scenes: list[Scene], kind: str, count: int) -> PromptBatch:
    """Draw `count` prompts of a kind for each scene."""
    rows = [[_draw_prompt(rng, scene.shapes, kind) for _ in range(count)] for scene in scenes]

    def gather(field: int, dtype: torch.dtype) -> torch.Tensor:
        return torch.from_numpy(np.array([[prompt[field] for prompt in row] for row in rows])).to(dtype)

    return PromptBatch(
        gather(0, torch.float32), gather(1, torch.int64), gather(2, torch.float32), gather(3, torch.float32)
    )


def masks_of(shape: SceneShape) -> dict[str, np.ndarray]:
    """Masks of the shape that a prompt may mean, bool [H, W], by name."""
    if shape.part is None:
        return {"whole": shape.mask}
    return {"whole": shape.mask, "part": shape.part, "body": shape.mask & ~shape.part}


def inner_point(rng: np.random.Generator, mask: np.ndarray) -> tuple[float, float]:
    """Draw a pixel x, y of the mask."""
    index = rng.choice(np.flatnonzero(mask))
    return float(index % mask.shape[1]), float(index // mask.shape[1])


def _draw_prompt(
    rng: np.random.Generator, shapes: tuple[SceneShape, ...], kind: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Draw one prompt for one of the shapes: its points, labels, meant mask and roles, as in `PromptBatch`."""
    _, boxed, inside, outside = KINDS[kind]
    chances = np.array([1.0 if shape.part is None else 4.0 for shape in shapes])  # emblems are rare
    shape = shapes[rng.choice(len(shapes), p=chances / chances.sum())]
    masks = masks_of(shape)
    meant = "whole"
    if shape.part is not None:
        # A box can't tell the body from the whole, unless a point outside excludes the emblem.
        shares = (0.75, 0.25, 0.0) if boxed and not outside else (0.60, 0.25, 0.15)
        meant = str(rng.choice(["whole", "part", "body"], p=shares))
    mask = masks[meant]

    points: list[tuple[float, float]] = []
    if boxed:
        box = box_of(mask)
        assert box is not None
        x0, y0, x1, y1 = jitter_box(rng, box, mask.shape[0])
        points += [(x0, y0), (x1, y1)]
    for i in range(inside):
        deepest = i == 0 and meant != "body" and rng.random() < 0.5  # the emblem sits at the shape's deepest point
        points.append(shape.point if deepest and mask[_row_column(shape.point)] else inner_point(rng, mask))
    points += [_outer_point(rng, shape, mask, meant) for _ in range(outside)]
    labels = [TOP_LEFT, BOTTOM_RIGHT] * boxed + [INSIDE] * inside + [OUTSIDE] * outside

    roles = [mask] * 3
    if not boxed and not outside and shape.part is not None:
        roles = [masks["whole"], masks["part"], masks["body"]]
    return np.array(points), np.array(labels), _halved(mask), np.stack([_halved(role) for role in roles])


def _outer_point(rng: np.random.Generator, shape: SceneShape, mask: np.ndarray, meant: str) -> tuple[float, float]:
    """Draw a point that is not meant: on the rest of the shape, or on the ground around it."""
    if meant != "whole":
        return inner_point(rng, shape.mask & ~mask)
    x0, y0, x1, y1 = (int(v) for v in shape.box)
    around = np.zeros_like(mask)
    around[max(y0 - 12, 0) : y1 + 12, max(x0 - 12, 0) : x1 + 12] = True
    return inner_point(rng, around & ~mask)


def jitter_box(rng: np.random.Generator, box: Box, side: int) -> Box:
    """Move the edges of a box by up to some tenths of its size, as a policy's boxes are seldom exact."""
    x0, y0, x1, y1 = box
    off = rng.standard_normal(4) * rng.uniform(0, 0.1) * np.array([x1 - x0, y1 - y0] * 2)
    return tuple(np.clip(np.array(box) + off, 0, side).tolist())


def _row_column(point: tuple[float, float]) -> tuple[int, int]:
    return int(point[1]), int(point[0])


def _halved(mask: np.ndarray) -> np.ndarray:
    """Halve the resolution of a mask: [H, W] -> [H/2, W/2], the share of each 2 x 2 pixels that is inside."""
    ones = mask.view(np.uint8)
    return (ones[::2, ::2] + ones[1::2, ::2] + ones[::2, 1::2] + ones[1::2, 1::2]) * np.float32(0.25)
