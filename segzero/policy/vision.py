"""The vision tower of Qwen's models, computed with fewer and larger operations.

The library attends to each image, or window of an image, in a call of its own, and turns queries and keys in ten
operations. Results differ by rounding alone. The three families have the same layers under different names.
"""

from collections.abc import Iterator
from itertools import groupby
from types import MethodType

import torch
from torch.nn.functional import linear, scaled_dot_product_attention
from transformers import PreTrainedModel


def enlarge_operations(model: PreTrainedModel) -> None:
    """Replace the vision tower's attention and patch embedding by the functions below, in place."""
    tower = model.model.visual
    tower.patch_embed.forward = MethodType(_embed_patches, tower.patch_embed)
    for block in tower.blocks:
        block.attn.forward = MethodType(_attend, block.attn)


def _embed_patches(self: torch.nn.Module, patches: torch.Tensor) -> torch.Tensor:
    """Embed flattened patches [N, pixels]: a convolution whose stride is its kernel's size is a matrix product."""
    weight = self.proj.weight
    return linear(patches.to(weight.dtype), weight.flatten(1), self.proj.bias)


def _attend(
    self: torch.nn.Module,
    hidden_states: torch.Tensor,
    cu_seqlens: torch.Tensor,
    position_embeddings: tuple[torch.Tensor, torch.Tensor],
    **_,
) -> torch.Tensor:
    """Attention [N, C] within each of the chunks that `cu_seqlens` bounds; neighbours of one length share a call."""
    count, width = hidden_states.shape
    qkv = self.qkv(hidden_states).view(count, 3, self.num_heads, -1)
    turned = _rotate(qkv[:, :2], *position_embeddings)
    attended = torch.empty(count, width, dtype=qkv.dtype, device=qkv.device)
    for start, end, chunks in _runs(cu_seqlens.diff().tolist()):
        query, key, value = (
            each[start:end].unflatten(0, (chunks, -1)).transpose(1, 2)  # [chunks, heads, length, head_dim]
            for each in (turned[:, 0], turned[:, 1], qkv[:, 2])
        )
        mixed = scaled_dot_product_attention(query, key, value, scale=self.scaling)
        attended[start:end] = mixed.transpose(1, 2).reshape(end - start, width)
    return self.proj(attended)


def _rotate(vectors: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Turn vectors [N, 2, heads, head_dim] by the angles of their places [N, head_dim], in float32 as the library."""
    floats = vectors.float()
    cos, sin = cos.float()[:, None, None], sin.float()[:, None, None]
    half = cos.shape[-1] // 2
    turned = floats * cos
    turned[..., :half].addcmul_(floats[..., half:], sin[..., :half], value=-1)
    turned[..., half:].addcmul_(floats[..., :half], sin[..., half:])
    return turned.to(vectors.dtype)


def _runs(lengths: list[int]) -> Iterator[tuple[int, int, int]]:
    """Start, end and number of chunks of each run of equal lengths.

    >>> list(_runs([4, 4, 6]))
    [(0, 8, 2), (8, 14, 1)]
    """
    start = 0
    for length, run in groupby(lengths):
        chunks = len(list(run))
        yield start, start + chunks * length, chunks
        start += chunks * length
