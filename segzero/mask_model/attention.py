"""Attention of SAM2's decoder: where in the image the prompts looked.

>>> with recorded_attention(sam.mask_decoder) as maps:                                     # doctest: +SKIP
...     model.answer([question])
>>> looked_at(maps, sam.mask_decoder)  # [h * w], over the decoder's grid                  # doctest: +SKIP
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

OWN_TOKENS = 2  # for presence and expected IoU, before those of the masks


@contextmanager
def recorded_attention(decoder: nn.Module) -> Iterator[list[Tensor]]:
    """Keep the attention [B, heads, tokens, h * w] from tokens to the image of each layer, the last one included."""
    maps: list[Tensor] = []

    def keep(module: nn.Module, inputs: Any, output: tuple[Tensor, Tensor]) -> None:
        maps.append(output[1].detach())

    layers = [layer.cross_attn_token_to_image for layer in decoder.transformer.layers]
    hooks = [module.register_forward_hook(keep) for module in (*layers, decoder.transformer.final_attn_token_to_image)]
    usual = decoder.config._attn_implementation
    decoder.config._attn_implementation = "eager"  # the faster ways do not compute it
    try:
        yield maps
    finally:
        decoder.config._attn_implementation = usual
        for hook in hooks:
            hook.remove()


def looked_at(maps: Sequence[Tensor], decoder: nn.Module) -> Tensor:
    """Mean attention of one question's prompts [h * w], over layers, heads and prompts."""
    prompts = torch.stack(list(maps))[
        :, 0, :, OWN_TOKENS + decoder.num_mask_tokens :
    ]  # [layers, heads, prompts, h * w]
    return prompts.float().mean(dim=(0, 1, 2))
