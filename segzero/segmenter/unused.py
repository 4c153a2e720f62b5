"""What transformers' SAM2 computes for an image and nobody reads, left out: the features stay the same to the bit."""

from types import MethodType

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import PreTrainedModel
from transformers.models.sam2.modeling_sam2 import Sam2MultiScaleAttention, Sam2VisionNeck, do_pool


def leave_out_unused(model: PreTrainedModel) -> None:
    """Change the encoder in place; models built of other parts (SAM3's tracker) stay as they are."""
    for module in model.modules():
        if isinstance(module, Sam2VisionNeck):
            module.position_encoding = _NoPositions()
        elif isinstance(module, Sam2MultiScaleAttention):
            module.forward = MethodType(_attend, module)


class _NoPositions(torch.nn.Module):
    """Position encodings as large as the features are for the memory of videos; images are drawn without."""

    def forward(self, shape: torch.Size, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
        return torch.empty(shape[0], 0, *shape[2:], device=device, dtype=dtype)


def _attend(self: Sam2MultiScaleAttention, hidden_states: torch.Tensor, **_) -> torch.Tensor:
    """The library's forward without its first product of queries and keys, which it throws away."""
    batch, height, width, _ = hidden_states.shape
    heads = self.num_attention_heads
    query, key, value = self.qkv(hidden_states).view(batch, height * width, 3, heads, -1).unbind(2)
    if self.query_stride:
        query = do_pool(query.reshape(batch, height, width, -1), self.query_stride)
        height, width = query.shape[1:3]
        query = query.reshape(batch, height * width, heads, -1)
    attended = scaled_dot_product_attention(
        query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), scale=self.scale
    )  # [B, heads, height * width, head_dim]
    return self.proj(attended.transpose(1, 2).reshape(batch, height, width, -1))
