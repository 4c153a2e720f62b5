"""Token generation with transformers: a batch whose finished rows drop out, and text while tokens come.

>>> texts = []
>>> detokenizer = IncrementalDetokenizer(lambda tokens: bytes(tokens).decode(errors="replace"), texts.append)
>>> for byte in "aé".encode():
...     detokenizer.add(byte)
>>> texts
['a', 'aé']
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import BatchFeature, PreTrainedModel
from transformers.cache_utils import Cache, DynamicLayer

from segzero.policy.protocol import OnText

GROWTH = 64  # tokens by which the cache grows

Choose = Callable[[torch.Tensor, list[int]], torch.Tensor]  # logits [B, vocabulary], places of the rows -> tokens [B]
OnToken = Callable[[int, int], None]  # place of a row, and its next token


class IncrementalDetokenizer:
    """Turns tokens into text one by one: whole characters only, and no token decoded more than a few times.

    `decode` turns tokens into text; `on_text` is called with the whole text so far.
    """

    def __init__(self, decode: Callable[[list[int]], str], on_text: OnText) -> None:
        self._decode, self._on_text = decode, on_text
        self._text = ""
        self._context: list[int] = []  # tokens emitted last: a token's text depends on those before it
        self._pending: list[int] = []

    def add(self, token: int) -> None:
        """Append a token, and call `on_text` if it completes a character."""
        self._pending.append(token)
        before, now = self._decode(self._context), self._decode([*self._context, *self._pending])
        if len(now) > len(before) and not now.endswith("\ufffd"):
            self._text += now[len(before) :]
            self._context, self._pending = self._pending, []
            self._on_text(self._text)


def generate_tokens(
    model: PreTrainedModel,
    inputs: BatchFeature,
    stops: Sequence[int],
    limit: int,
    choose: Choose,
    on_token: OnToken = lambda row, token: None,
) -> list[list[int]]:
    """Generate at most `limit` tokens for each row of `inputs`, which are padded on the left.

    The last token is a stop token unless the limit came first. `on_token` is called with each token at once.
    """
    cache = Cache(layer_class_to_replicate=PreallocatedLayer)
    positions, _ = model.model.get_rope_index(**inputs)  # [3, B, T]
    logits = model(**inputs, position_ids=positions, past_key_values=cache, logits_to_keep=1).logits[:, -1]
    following = positions.amax(dim=(0, 2))  # [B], position of each row's latest token
    mask = inputs["attention_mask"]
    mask = torch.cat([mask, mask.new_ones(len(mask), limit)], 1)  # [B, T + limit]

    answers: list[list[int]] = [[] for _ in range(len(mask))]
    rows = list(range(len(mask)))  # the answer that each row of the batch belongs to
    while True:
        tokens = choose(logits, rows)
        for row, token in zip(rows, tokens.tolist(), strict=True):
            if not _ended(answers[row], stops):
                answers[row].append(token)
                on_token(row, token)
        alive = [i for i, row in enumerate(rows) if len(answers[row]) < limit and not _ended(answers[row], stops)]
        if not alive:
            return answers
        if len(alive) <= len(rows) / 2:  # each copy halves the batch, so that in total less than one batch is copied
            kept = torch.tensor(alive, device=tokens.device)
            rows = [rows[i] for i in alive]
            tokens, following, mask = tokens[kept], following[kept], mask[kept]
            for layer in cache.layers:
                layer.keep(kept)
        following = following + 1
        logits = model(
            input_ids=tokens[:, None],
            position_ids=following.expand(3, 1, -1).mT,  # [3, B, 1]
            attention_mask=mask[:, : cache.get_seq_length() + 1],
            past_key_values=cache,
        ).logits[:, -1]


def _ended(answer: list[int], stops: Sequence[int]) -> bool:
    return bool(answer) and answer[-1] in stops


class PreallocatedLayer(DynamicLayer):
    """Cached keys and values of one layer: views of a buffer that grows by steps, so that few tokens are copied."""

    buffer: torch.Tensor  # [2, B, heads, tokens, head_dim]
    keys: torch.Tensor  # [B, heads, tokens, head_dim]
    values: torch.Tensor

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append keys and values [B, heads, n, head_dim], and return those of all tokens."""
        start = self.get_seq_length()
        end = start + key_states.shape[2]
        batch, heads, _, width = key_states.shape
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.buffer = key_states.new_empty(2, batch, heads, 0, width)
        if end > self.buffer.shape[3]:
            more = key_states.new_empty(2, batch, heads, end - start + GROWTH, width)
            self.buffer = torch.cat([self.buffer[:, :, :, :start], more], 3)
        self.buffer[0, :, :, start:end] = key_states
        self.buffer[1, :, :, start:end] = value_states
        self.keys, self.values = self.buffer[:, :, :, :end]
        return self.keys, self.values

    def keep(self, rows: torch.Tensor) -> None:
        """Drop all rows of the batch but these."""
        self.buffer = self.buffer[:, rows]
        self.keys, self.values = self.buffer[:, :, :, : self.get_seq_length()]
