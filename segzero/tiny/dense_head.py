"""An auxiliary head that trains the vision tower densely and is discarded after training.

From language alone a tiny vision tower learns very slowly. With this head each image token also predicts what lies in
its cell: kind and colour, the box and point of that shape, and which pixels are foreground.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segzero.tiny.policy import CELLS, FRAME, SIDE
from segzero.tiny.scenes import COLOURS, KINDS, Scene

CELL = SIDE // CELLS  # side of a cell in pixels
DOTS = CELL // 2  # foreground is predicted on a grid of DOTS x DOTS per cell
MIN_PIXELS = 6  # pixels of a shape in a cell from which on the cell belongs to it
TENS = SIDE // 10 + 1  # classes for the leading digits of a coordinate
_WIDTHS = (len(KINDS) + 1, len(COLOURS) + 1, 6 * TENS, 6, DOTS**2)  # outputs for kind, colour, tens, place, foreground


@dataclass(frozen=True)
class DenseTargets:
    """Targets for the cells of one image, in reading order, as the image tokens are."""

    kind: np.ndarray  # int [CELLS²], 0 for background
    colour: np.ndarray  # int [CELLS²], 0 for background
    place: np.ndarray  # float [CELLS², 6]: box and point of the cell's shape, frame pixels
    foreground: np.ndarray  # float [CELLS², DOTS²]


def dense_targets(scene: Scene) -> DenseTargets:
    """Compute the targets for a scene's cells."""
    step = scene.size // SIDE
    label = np.zeros((SIDE, SIDE), np.int64)
    for number, shape in enumerate(scene.shapes, start=1):
        label[shape.mask[::step, ::step]] = number
    cells = label.reshape(CELLS, CELL, CELLS, CELL).swapaxes(1, 2).reshape(CELLS**2, CELL, CELL)
    counts = np.stack([(cells == n + 1).sum(axis=(1, 2)) for n in range(len(scene.shapes))], axis=1)
    owner = np.where(counts.max(axis=1) >= MIN_PIXELS, counts.argmax(axis=1) + 1, 0)
    size = (scene.size, scene.size)
    kinds = np.array([0] + [KINDS.index(s.kind) + 1 for s in scene.shapes])
    colours = np.array([0] + [list(COLOURS).index(s.colour) + 1 for s in scene.shapes])
    places = np.array([[0] * 6] + [FRAME.to_frame([*s.box, *s.point], size) for s in scene.shapes])
    dots = (cells > 0).reshape(CELLS**2, DOTS, 2, DOTS, 2).mean(axis=(2, 4))
    return DenseTargets(kinds[owner], colours[owner], places[owner].astype(np.float32), dots.reshape(CELLS**2, -1))


class DenseHead(nn.Module):
    """Linear layer on the features of the image tokens."""

    def __init__(self, hidden: int):
        super().__init__()
        self.read = nn.Linear(hidden, sum(_WIDTHS))

    def loss(self, features: Tensor, targets: list[DenseTargets]) -> Tensor:
        """Compute the loss of the predictions from the features [B, CELLS², hidden]."""
        kind, colour, tens, place, foreground = self.read(features.flatten(0, 1)).split(_WIDTHS, dim=1)
        true_kind, true_colour, true_place, true_foreground = (
            torch.from_numpy(np.concatenate([getattr(t, name) for t in targets]))
            for name in ("kind", "colour", "place", "foreground")
        )
        owned = true_kind > 0
        true_tens = (true_place[owned] / 10).long()
        return (
            2 * F.cross_entropy(kind, true_kind)
            + F.cross_entropy(colour, true_colour)
            + 0.5 * F.cross_entropy(tens[owned].view(-1, TENS), true_tens.view(-1))
            + 5 * F.l1_loss(place[owned], true_place[owned] / SIDE)
            + 2 * F.binary_cross_entropy_with_logits(foreground, true_foreground.float())
        )
