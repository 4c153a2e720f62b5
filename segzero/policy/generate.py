"""Tokens, one by one, become text for somebody who reads along: only whole characters, and no token decoded often.

>>> heard = []
>>> speaking = Speaking(lambda tokens: bytes(tokens).decode(errors="replace"), heard.append)
>>> for byte in "aé".encode():
...     speaking.add(byte)
>>> heard
['a', 'aé']
"""

from collections.abc import Callable, Sequence

import torch
from transformers import BatchFeature, PreTrainedModel
from transformers.cache_utils import Cache, DynamicLayer


class Speaking:
    """`text` decodes tokens; `on_text` is told all that is whole so far."""

    def __init__(self, text: Callable[[list[int]], str], on_text: Callable[[str], object]) -> None:
        self._text, self._hear = text, on_text
        self._said = ""
        self._known: list[int] = []  # the tokens that were said last: how a token reads depends on those before it
        self._new: list[int] = []

    def add(self, token: int) -> None:
        """The next one."""
        self._new.append(token)
        before, now = self._text(self._known), self._text([*self._known, *self._new])
        if len(now) > len(before) and not now.endswith("\ufffd"):
            self._said += now[len(before) :]
            self._known, self._new = self._new, []
            self._hear(self._said)


ROOM = 64  # tokens by which the cache grows

Choose = Callable[[torch.Tensor, list[int]], torch.Tensor]  # logits [B, vocabulary], rows' places -> tokens [B]
Written = Callable[[int, int], None]  # a row's place and its next token


def write_answers(
    model: PreTrainedModel,
    inputs: BatchFeature,
    stops: Sequence[int],
    limit: int,
    choose: Choose,
    written: Written = lambda row, token: None,
) -> list[list[int]]:
    """At most `limit` tokens for each row of `inputs`, padded on the left; the last is a stop token if one came.

    `written` is told each of them at once.
    """
    cache = Cache(layer_class_to_replicate=RoomyLayer)
    positions, _ = model.model.get_rope_index(**inputs)  # [3, B, T]
    logits = model(**inputs, position_ids=positions, past_key_values=cache, logits_to_keep=1).logits[:, -1]
    following = positions.amax(dim=(0, 2))  # [B], the position of each row's latest token
    mask = inputs["attention_mask"]
    mask = torch.cat([mask, mask.new_ones(len(mask), limit)], 1)  # [B, T + limit]

    answers: list[list[int]] = [[] for _ in range(len(mask))]
    rows = list(range(len(mask)))  # whose answer each row of the batch is
    while True:
        tokens = choose(logits, rows)
        for row, token in zip(rows, tokens.tolist(), strict=True):
            if not _ended(answers[row], stops):
                answers[row].append(token)
                written(row, token)
        alive = [i for i, row in enumerate(rows) if len(answers[row]) < limit and not _ended(answers[row], stops)]
        if not alive:
            return answers
        if len(alive) <= len(rows) / 2:  # so that all rows together are copied less than once
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


class RoomyLayer(DynamicLayer):
    """Keys and values of one layer, with room behind them: views of what is filled, until the room is used up."""

    room: torch.Tensor  # [2, B, heads, tokens, head_dim]
    keys: torch.Tensor  # [B, heads, tokens, head_dim]
    values: torch.Tensor

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args, **kwargs
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append [B, heads, n, head_dim] and return all of them."""
        start = self.get_seq_length()
        end = start + key_states.shape[2]
        batch, heads, _, width = key_states.shape
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.room = key_states.new_empty(2, batch, heads, 0, width)
        if end > self.room.shape[3]:
            more = key_states.new_empty(2, batch, heads, end - start + ROOM, width)
            self.room = torch.cat([self.room[:, :, :, :start], more], 3)
        self.room[0, :, :, start:end] = key_states
        self.room[1, :, :, start:end] = value_states
        self.keys, self.values = self.room[:, :, :, :end]
        return self.keys, self.values

    def keep(self, rows: torch.Tensor) -> None:
        """Drop all rows but these."""
        self.room = self.room[:, rows]
        self.keys, self.values = self.room[:, :, :, : self.get_seq_length()]
