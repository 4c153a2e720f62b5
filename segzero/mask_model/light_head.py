"""A light mask head: the vision tower's details and the language model's states become a mask, without SAM2 (MLLMSeg).

The tower's patches say where edges are, the language model's states at the image's tokens say what is there, and its
state before a [SEG] token says what is asked for. All three meet at the grid of the patches; each cell of that grid
then becomes as many pixels as a patch has. Nothing is shared between the masks of a batch.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import grid_sample, interpolate, pixel_shuffle
from torch.nn.utils.rnn import pad_sequence

HEADS, NARROWEST = 8, 32  # of attention: as many as published, but none narrower than this
PIXELS = 4  # channels of a pixel before the last convolution


class LightHead(nn.Module):
    """Mask decoder over images' features, for any number of [SEG] states about each."""

    def __init__(self, detail: int, states: int, patch: int) -> None:
        super().__init__()
        self.patch = patch
        self.details = nn.LayerNorm(detail)
        self.image = nn.Sequential(nn.LayerNorm(states), nn.Linear(states, detail))
        self.text = nn.Sequential(nn.LayerNorm(states), nn.Linear(states, detail))
        heads = max(count for count in (1, 2, 4, HEADS) if count == 1 or detail >= count * NARROWEST)
        self.look = nn.TransformerDecoderLayer(detail, heads, detail, 0.0, batch_first=True)
        self.enlarge = DynamicUpsample(detail)
        self.fuse = nn.Linear(3 * detail, detail)
        self.modulate = nn.Linear(detail, 2 * detail)
        self.match = Match(detail)
        self.ask = nn.TransformerDecoderLayer(detail, heads, detail, 0.0, batch_first=True)
        self.coarse = nn.Linear(detail, 1)
        self.cells = nn.Conv2d(detail, PIXELS * patch * patch, 3, padding=1)
        self.smooth = nn.Conv2d(PIXELS, 1, 5, padding=2)

    def forward(self, detail: Tensor, image: Tensor, words: Sequence[Tensor], owners: Tensor) -> Tensor:
        """Predict a mask for each question.

        detail [B, rows, columns, width], image [B, rows / m, columns / m, states], states [N, states] of the words of M
        answers up to [SEG], and the image [M] that each is about -> mask logits [M, rows * patch, columns * patch].
        """
        shape = detail.shape[1:3]
        image, written = self.image(image), self.text(pad_sequence(list(words), batch_first=True))  # [M, N, width]
        lengths = torch.tensor([len(each) for each in words], device=owners.device)
        absent = torch.arange(written.shape[1], device=owners.device) >= lengths[:, None]
        text = written[torch.arange(len(written), device=owners.device), lengths - 1][:, None]  # [M, 1, width]
        flat = (self.details(detail) + places(detail)).flatten(1, 2)  # [B, cells, width]
        seen = self.look(flat, image.flatten(1, 2))
        large = self.enlarge(image.permute(0, 3, 1, 2), shape).flatten(2).transpose(1, 2)
        fused = self.fuse(torch.cat([seen, flat, large], dim=-1))[owners]  # [M, cells, width]
        scale, shift = self.modulate(text).chunk(2, dim=-1)
        each = fused * (1 + scale) + shift + self.match(fused, text)
        each = self.ask(each, written, memory_key_padding_mask=absent)
        grid = each.transpose(1, 2).unflatten(2, shape)
        pixels = nn.functional.gelu(pixel_shuffle(self.cells(grid), self.patch))
        coarse = self.coarse(each).transpose(1, 2).unflatten(2, shape)
        return self.smooth(pixels)[:, 0] + interpolate(coarse, scale_factor=self.patch, mode="bilinear")[:, 0]


class Match(nn.Module):
    """Similarity of each cell to a text, in several subspaces."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.cell, self.text, self.out = nn.Linear(width, width), nn.Linear(width, width), nn.Linear(HEADS, width)

    def forward(self, cells: Tensor, text: Tensor) -> Tensor:
        """Cells [M, cells, width] and texts [M, 1, width] -> [M, cells, width]."""
        products = (self.cell(cells) * self.text(text)).unflatten(-1, (HEADS, -1))
        return self.out(products.sum(-1) / math.sqrt(products.shape[-1]))


class DynamicUpsample(nn.Module):
    """Enlargement whose sampling points are learnt, in groups of channels (DySample)."""

    def __init__(self, channels: int, groups: int = 4) -> None:
        super().__init__()
        self.groups = groups
        self.offsets = nn.Conv2d(channels, 2 * groups, 1)
        nn.init.normal_(self.offsets.weight, std=0.001)
        nn.init.zeros_(self.offsets.bias)

    def forward(self, states: Tensor, size: tuple[int, int]) -> Tensor:
        """Enlarge states [B, C, h, w] to [B, C, *size]; offsets are in cells of the coarse grid."""
        height, width = states.shape[-2:]
        offsets = interpolate(self.offsets(states), size, mode="bilinear", align_corners=False)
        step = torch.tensor([2 / width, 2 / height], device=states.device, dtype=states.dtype)
        moved = centres(size, states) + offsets.unflatten(1, (self.groups, 2)).movedim(2, -1) * step
        parts = states.unflatten(1, (self.groups, -1)).flatten(0, 1)  # [B * groups, C / groups, h, w]
        found = grid_sample(parts, moved.flatten(0, 1), padding_mode="border", align_corners=False)
        return found.unflatten(0, (-1, self.groups)).flatten(1, 2)


def centres(size: tuple[int, int], like: Tensor) -> Tensor:
    """Centres x, y of a grid's cells, from -1 to 1 over the whole image, [*size, 2]."""
    ys, xs = ((torch.arange(n, device=like.device, dtype=like.dtype) * 2 + 1) / n - 1 for n in size)
    return torch.stack(torch.meshgrid(ys, xs, indexing="ij")[::-1], dim=-1)


def places(detail: Tensor) -> Tensor:
    """Sines of each cell's place [rows, columns, width], of x and y with waves of different length."""
    width = detail.shape[-1]
    waves = 2.0 ** torch.linspace(-1, 5, width // 4, device=detail.device, dtype=detail.dtype)
    angles = (centres(detail.shape[1:3], detail)[..., None] * waves * math.pi / 2).flatten(-2)
    found = torch.cat([angles.sin(), angles.cos()], dim=-1)
    return nn.functional.pad(found, (0, width - found.shape[-1]))
