"""A prompt head: a question's text states become SAM2's prompts, in place of boxes and points (ConverSeg-Net).

The language model's state of each word of the question is one sparse prompt; the state at the end of the turn, which
has seen all of them, is added to the image's features everywhere. Questions of different length are decoded apart, so
that an answer does not depend on which others share its batch.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from segzero.mask_model.memory import RegionMemory
from segzero.mask_model.network import Decoded
from segzero.mask_model.reader import Reading


class PromptHead(nn.Module):
    """Projections of text states to sparse and dense prompts."""

    def __init__(self, states: int, prompts: int = 256) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(states)
        self.sparse = nn.Linear(states, prompts)
        self.dense = nn.Sequential(nn.Linear(states, prompts), nn.SiLU(), nn.Linear(prompts, prompts))
        self.sparse_scale = nn.Parameter(torch.ones(()))
        self.dense_scale = nn.Parameter(torch.ones(()))
        self.memory: RegionMemory | None = None  # of earlier masks, if the head has one
        for layer in (self.sparse, self.dense[0], self.dense[2]):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, words: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
        """States of words [N, states] and of the turn's end [states] -> sparse [N, prompts] and dense [prompts]."""
        sparse = self.sparse(self.norm(words)) * self.sparse_scale
        return sparse, self.dense(self.norm(end)) * self.dense_scale.clamp(min=0.01)


def end_of_turn(reading: Reading, end_token: int) -> Tensor:
    """State [width] at the last token that ends a turn."""
    places = (reading.tokens == end_token).nonzero()[:, 0]
    assert len(places), "a rendered turn has an end"
    return reading.at(places[-1])


def decode(
    sam: nn.Module,
    features: Sequence[Tensor],
    sparse: Sequence[Tensor],
    dense: Sequence[Tensor],
    best_of_three: bool = False,
) -> Decoded:
    """Predict a mask for each row of image features, levels [B, C, h, w] with the finest first, from its prompts.

    SAM2's decoder has three mask tokens for ambiguous prompts and one for clear ones, which is used here, in training
    as in inference. `best_of_three` takes the one of the three with the highest expected IoU instead.
    """
    by_length = defaultdict(list)
    for row, prompts in enumerate(sparse):
        by_length[len(prompts)].append(row)
    positions = sam.get_image_wide_positional_embeddings()
    order: list[int] = []
    parts = []
    with _no_exchange(sam.mask_decoder):
        for rows in by_length.values():
            fine, middle, coarse = (level[rows] for level in features)
            masks, scores, _, presence = sam.mask_decoder(
                image_embeddings=coarse,
                image_positional_embeddings=positions.expand(len(rows), -1, -1, -1),
                sparse_prompt_embeddings=torch.stack([sparse[row] for row in rows])[:, None],
                dense_prompt_embeddings=torch.stack([dense[row] for row in rows])[:, :, None, None].expand_as(coarse),
                multimask_output=best_of_three,
                high_resolution_features=[fine, middle],
            )
            each, best = torch.arange(len(rows), device=scores.device), scores[:, 0].argmax(dim=1)
            parts.append((masks[each, 0, best], scores[each, 0, best], presence[:, 0, 0]))
            order += rows
    back = torch.tensor(order, device=features[0].device).argsort()
    return Decoded(*(torch.cat(of_kind)[back] for of_kind in zip(*parts, strict=True)))


@contextmanager
def _no_exchange(decoder: nn.Module) -> Iterator[None]:
    """Keep the decoder from exchanging the clear prompts' mask for another token's where it looks unstable."""
    usual = decoder.dynamic_multimask_via_stability
    decoder.dynamic_multimask_via_stability = False
    try:
        yield
    finally:
        decoder.dynamic_multimask_via_stability = usual
