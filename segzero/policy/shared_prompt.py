"""Packed rows in which all answers to a prompt share it.

GRPO learns from n answers to each prompt, and on images the prompt is many times longer than an answer. Rows of prompt
and answer would compute it n times; a packed row holds it once, followed by all answers, and then the next prompt:

    tokens        p p p p p  a a a  b b  c c c c   q q q q  d d d  e e
    prompt        0 0 0 0 0  0 0 0  0 0  0 0 0 0   1 1 1 1  1 1 1  1 1
    answer        0 0 0 0 0  1 1 1  2 2  3 3 3 3   0 0 0 0  1 1 1  2 2
    position      0 1 2 3 4  5 6 7  5 6  5 6 7 8   0 1 2 3  4 5 6  4 5

A token attends to earlier tokens of its prompt and of its own answer (`may_attend`), and the positions of each answer
continue from its prompt, so that every token sees what it would see in a row of its own: the values are the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask
from transformers import AttentionInterface
from transformers.integrations.flex_attention import flex_attention_forward

from segzero.errors import UserError

ATTENTION = "shared_prompt"  # its name among transformers' implementations of attention
BLOCK = 128  # tokens per side of a block in flex attention


def may_attend(prompt: Tensor, answer: Tensor, query: Tensor, key: Tensor) -> Tensor:
    """Whether the token at `query` attends to the one at `key`, by the number of prompt and answer of each token."""
    own = (answer[key] == 0) | (answer[key] == answer[query])
    return (key <= query) & (prompt[key] == prompt[query]) & own


@dataclass(frozen=True, eq=False)
class PackedRow:
    """One row of several prompts, each followed by the answers to it.

    The last token of an answer is left out, because nothing is predicted from it.
    """

    source: Tensor  # int64 [L]: the place of each token in the batch's tokens
    prompt: Tensor  # int64 [L]: the number of its prompt
    answer: Tensor  # int64 [L]: 0 in the prompt itself, k in the k-th answer to it
    sizes: list[int]  # tokens of each prompt with its answers
    predicting: Tensor  # int64 [N]: the token in the row that predicts each token of an answer
    predicted: Tensor  # int64 [N]: the place of the predicted token in the batch's tokens
    dense: bool = False  # whether a GPU, too, takes dense masks: flex attention is compiled for new lengths

    def __len__(self) -> int:
        return len(self.source)

    def to(self, device: torch.device) -> "PackedRow":
        """Copy the row to another device."""
        names = ("source", "prompt", "answer", "predicting", "predicted")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})

    @cached_property
    def dense_masks(self) -> list[Tensor]:
        """For each prompt with its answers, float [tokens, tokens]: 0 where a token attends and -inf elsewhere."""
        masks, start = [], 0
        for size in self.sizes:
            places = torch.arange(start, start + size, device=self.source.device)
            allowed = may_attend(self.prompt, self.answer, places[:, None], places[None])
            masks.append(torch.zeros(size, size, device=allowed.device).masked_fill_(~allowed, -torch.inf))
            start += size
        return masks

    @cached_property
    def block_mask(self) -> BlockMask:
        """Mask for flex attention, which skips blocks of the row in which no token attends to another."""
        blocks = -(-len(self) // BLOCK)
        missing = blocks * BLOCK - len(self)  # a row that ends inside a block
        prompt = torch.nn.functional.pad(self.prompt, (0, missing), value=-1)
        answer = torch.nn.functional.pad(self.answer, (0, missing), value=-1)
        places = torch.arange(blocks * BLOCK, device=prompt.device)
        some, every = [], []
        for queries in places.split(BLOCK):  # one after the other, as the whole mask would fill the memory
            allowed = may_attend(prompt, answer, queries[:, None], places[None]).view(BLOCK, blocks, BLOCK)
            some.append(allowed.any(2).any(0))
            every.append(allowed.all(2).all(0))
        full = torch.stack(every)  # [blocks of queries, blocks of keys]
        return BlockMask.from_kv_blocks(
            *_listed(torch.stack(some) & ~full),
            *_listed(full),
            BLOCK_SIZE=BLOCK,
            mask_mod=lambda batch, head, query, key: may_attend(prompt, answer, query, key),
            seq_lengths=(len(self), len(self)),
        )


def _listed(chosen: Tensor) -> tuple[Tensor, Tensor]:
    """bool [queries, keys] -> how many blocks are chosen [1, 1, queries], and which, first [1, 1, queries, keys]."""
    order = torch.argsort(chosen.int(), dim=1, descending=True, stable=True)
    return chosen.sum(1, dtype=torch.int32)[None, None], order.int()[None, None]


def pack(prompts: Sequence[int], prompt_lengths: Sequence[int], answer_lengths: Sequence[int]) -> PackedRow:
    """Pack rows of prompt and answer, given the number of each row's prompt, and the lengths.

    >>> row = pack([0, 0, 1], [2, 2, 1], [2, 3, 1])
    >>> row.source.tolist(), row.answer.tolist()  # the batch's tokens are p p a a, p p b b b, q c
    ([0, 1, 2, 6, 7, 9], [0, 0, 1, 2, 2, 0])
    >>> row.predicting.tolist(), row.predicted.tolist()
    ([1, 2, 1, 3, 4, 5], [2, 3, 6, 7, 8, 10])
    """
    rows_of: dict[int, list[int]] = {}
    for row, number in enumerate(prompts):
        rows_of.setdefault(number, []).append(row)
    lengths = torch.tensor(prompt_lengths) + torch.tensor(answer_lengths)
    starts = (lengths.cumsum(0) - lengths).tolist()  # of each row among the batch's tokens
    source: list[Tensor] = []
    prompt: list[Tensor] = []
    answer: list[Tensor] = []
    predicting: list[Tensor] = []
    predicted: list[Tensor] = []
    sizes: list[int] = []
    length = 0  # of the packed row so far
    for number, rows in enumerate(rows_of.values()):
        begin, shared = length, prompt_lengths[rows[0]]
        source.append(torch.arange(starts[rows[0]], starts[rows[0]] + shared))
        answer.append(torch.zeros(shared, dtype=torch.long))
        length += shared
        for k, row in enumerate(rows, 1):
            first, kept = starts[row] + shared, max(0, answer_lengths[row] - 1)
            source.append(torch.arange(first, first + kept))
            answer.append(torch.full((kept,), k))
            if answer_lengths[row]:
                predicting += [torch.tensor([begin + shared - 1]), torch.arange(length, length + kept)]
                predicted.append(torch.arange(first, first + kept + 1))
            length += kept
        prompt.append(torch.full((length - begin,), number))
        sizes.append(length - begin)
    nothing = [torch.empty(0, dtype=torch.long)]
    return PackedRow(
        source=torch.cat(source),
        prompt=torch.cat(prompt),
        answer=torch.cat(answer),
        sizes=sizes,
        predicting=torch.cat(predicting or nothing),
        predicted=torch.cat(predicted or nothing),
    )


# Attention


def attend(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: None, **options: Any
) -> tuple[Tensor, None]:
    """Attention of a packed row, query [1, heads, L, dim] -> [1, L, heads, dim], as transformers calls it."""
    packed: PackedRow = options["packed"]
    assert options.get("sliding_window") is None, "a sliding window would count the tokens of other answers"
    if query.device.type == "cuda" and not packed.dense:
        output, _ = flex_attention_forward(module, query, key, value, packed.block_mask, scaling=options["scaling"])
        return output, None
    parts = zip(*(states.split(packed.sizes, dim=2) for states in (query, key, value)), strict=True)
    outputs = [
        torch.nn.functional.scaled_dot_product_attention(
            q, k, v, attn_mask=mask.to(q.dtype), scale=options["scaling"], enable_gqa=True
        )
        for (q, k, v), mask in zip(parts, packed.dense_masks, strict=True)
    ]
    return torch.cat(outputs, dim=2).transpose(1, 2), None


AttentionInterface.register(ATTENTION, attend)


def use_packed_rows(model: Any) -> None:
    """Make a Qwen-VL's language model attend within packed rows; its vision tower stays as it is."""
    text = model.get_decoder()
    if text.config.get_text_config().to_dict().get("use_sliding_window"):
        raise UserError("segzero.shared_prompt=true cannot serve a model with a sliding window; set it to false")
    text.set_attn_implementation(ATTENTION)
