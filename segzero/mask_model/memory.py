"""Memory of a dialogue: the masks that a question refers to become tokens that the language model reads before it.

Two tokens stand for a mask, as in SegLLM: the mean of the image's own features under it, and its box.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from segzero.mask_model.reader import SeenImage
from segzero.masks import Mask, box_of

TOKENS = 2  # of a mask
DROPPED = 0.5  # how often each token is zero in training


class RegionMemory(nn.Module):
    """Projections of earlier masks to the width of the language model's tokens."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.region = nn.Linear(width, width)
        self.box = nn.Sequential(nn.Linear(4, width), nn.SiLU(), nn.Linear(width, width))
        self.nothing = nn.Parameter(torch.zeros(TOKENS, width))  # of a mask without a pixel

    def forward(self, seen: SeenImage, masks: Sequence[Mask]) -> Tensor:
        """Tokens [TOKENS x masks, width] of masks [H, W] of an image."""
        tokens = torch.cat([self._tokens(seen, mask) for mask in masks] or [self.nothing[:0]])
        if self.training:
            tokens = tokens * (torch.rand(len(tokens), 1, device=tokens.device) >= DROPPED)
        return tokens

    def _tokens(self, seen: SeenImage, mask: Mask) -> Tensor:
        box = box_of(mask)
        if box is None:
            return self.nothing
        height, width = mask.shape
        corners = torch.tensor(box) / torch.tensor([width, height, width, height])
        features = torch.cat([part.flatten(0, -2) for part in seen.features.pooler_output]).float()  # [cells, width]
        pixels = torch.from_numpy(np.ascontiguousarray(mask, dtype=np.float32))
        inside = adaptive_avg_pool2d(pixels[None], seen.grid).flatten()
        share = (inside / inside.sum()).to(features.device)
        return torch.stack([self.region(share @ features), self.box(corners.to(features))])
