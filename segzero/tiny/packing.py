"""Packing of several questions about one image into one training row, behind the prefix that they share.

All prompts of an image begin alike (system turn, image), so a row holds that prefix once and then the rest of each
prompt with its answer: a branch. A branch attends to the prefix and to itself, and its positions continue those of the
prefix, so that the model computes the same as for each question alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import apply_rotary_pos_emb_vision

from segzero.prompts import get_prompt, render_messages
from segzero.tiny.policy import CELLS, MERGE, PATCH

IGNORED = -100  # label of a token that is not to be predicted


@dataclass(frozen=True)
class QuestionAnswer:
    """A question with its notes about earlier rounds, and the text of the answer to learn."""

    question: str
    answer: str
    notes: str = ""


@dataclass(frozen=True)
class Packed:
    """Rows of tokens, one per image."""

    tokens: Tensor  # [B, L]
    labels: Tensor  # [B, L], IGNORED outside of answers
    positions: Tensor  # [3, B, L]: time, height, width
    mask: Tensor  # [B, 1, L, L], added to attention logits: 0 where a token may attend, -1e9 elsewhere


class Packer:
    """Packer of questions and answers into rows; all images are squares of CELLS x CELLS tokens."""

    def __init__(self, processor: Qwen2_5_VLProcessor, prompt: str = "multi"):
        self.tokenizer = processor.tokenizer
        self.prompt = prompt
        self.shared_text, _, _ = self._render("x").partition(get_prompt(prompt).before + "x")
        head, tail = self.shared_text.split("<|image_pad|>")
        self.image_start = len(self._encode(head))
        image = [self.tokenizer.convert_tokens_to_ids("<|image_pad|>")] * CELLS**2
        self.prefix = self._encode(head) + image + self._encode(tail)
        self.prefix_positions = self._prefix_positions()

    def pack(self, rows: Sequence[Sequence[QuestionAnswer]]) -> Packed:
        """Pack the questions of each image into a row, padded to the longest."""
        branches = [[self._branch(question) for question in row] for row in rows]
        length = len(self.prefix) + max(sum(len(tokens) for tokens, _ in row) for row in branches)
        tokens = torch.zeros(len(rows), length, dtype=torch.long)
        labels = torch.full((len(rows), length), IGNORED)
        positions = torch.zeros(3, len(rows), length, dtype=torch.long)
        branch_of = torch.full((len(rows), length), -1)  # 0 prefix, 1.. the branches, -1 padding
        start_position = int(self.prefix_positions.max()) + 1
        for b, row in enumerate(branches):
            end = len(self.prefix)
            tokens[b, :end] = torch.tensor(self.prefix)
            positions[:, b, :end] = self.prefix_positions
            branch_of[b, :end] = 0
            for number, (branch, answer_start) in enumerate(row, start=1):
                start, end = end, end + len(branch)
                tokens[b, start:end] = torch.tensor(branch)
                labels[b, start + answer_start : end] = tokens[b, start + answer_start : end]
                positions[:, b, start:end] = start_position + torch.arange(len(branch))
                branch_of[b, start:end] = number
        related = (branch_of[:, :, None] == branch_of[:, None, :]) | (branch_of[:, None, :] == 0)
        visible = related & torch.ones(length, length, dtype=torch.bool).tril()
        mask = torch.zeros(visible.shape).masked_fill(~visible, -1e9)[:, None]
        return Packed(tokens, labels, positions, mask)

    def _branch(self, item: QuestionAnswer) -> tuple[list[int], int]:
        """The tokens after the shared prefix, and the index among them at which the answer starts."""
        rest = self._encode(self._render(item.question, item.notes).removeprefix(self.shared_text))
        return rest + self._encode(item.answer + "<|im_end|>"), len(rest)

    def _render(self, question: str, notes: str = "") -> str:
        messages = render_messages(question, self.prompt, notes)
        return self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)

    def _encode(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False).input_ids

    def _prefix_positions(self) -> Tensor:
        """Positions [3, P] of the prefix: text counts up; image tokens share a time and have rows and columns."""
        start, after = self.image_start, len(self.prefix) - self.image_start - CELLS**2
        grid = torch.arange(CELLS)
        image = torch.stack([torch.zeros(CELLS**2), grid.repeat_interleave(CELLS), grid.repeat(CELLS)]) + start
        head = torch.arange(start).expand(3, -1)
        tail = torch.arange(after).expand(3, -1) + start + CELLS
        return torch.cat([head, image, tail], dim=1).long()


def answer_logits(
    model: Qwen2_5_VLForConditionalGeneration, packed: Packed, image_features: Tensor, image_start: int
) -> tuple[Tensor, Tensor]:
    """Compute the logits [N, V] of every answer token and list those tokens [N]; features are [B, CELLS², hidden]."""
    text = model.get_input_embeddings()(packed.tokens)
    image_end = image_start + image_features.shape[1]
    inputs = torch.cat([text[:, :image_start], image_features, text[:, image_end:]], dim=1)
    hidden = model.model.language_model(
        inputs_embeds=inputs, position_ids=packed.positions, attention_mask=packed.mask, use_cache=False
    ).last_hidden_state
    targets = packed.labels[:, 1:]
    wanted = targets != IGNORED
    return model.lm_head(hidden[:, :-1][wanted]), targets[wanted]


def image_features(model: Qwen2_5_VLForConditionalGeneration, pixels: Tensor) -> Tensor:
    """Compute the vision tower's features [B, CELLS², hidden] of images [B, 3, SIDE, SIDE].

    It equals the tower's own forward pass for images of one size, and is two to three times faster on a CPU: a
    convolution whose stride is its kernel is a matrix product, and the attention of all images is one batch instead of
    a loop over them.
    """
    visual = model.model.visual
    patches = to_patches(pixels)  # [B, N, C * 2 * PATCH * PATCH]
    hidden = F.linear(patches, visual.patch_embed.proj.weight.flatten(1))
    angles = visual.rotary_pos_emb(_patch_positions())
    cos, sin = torch.cat([angles, angles], dim=-1).cos(), torch.cat([angles, angles], dim=-1).sin()
    for block in visual.blocks:
        attention = block.attn
        qkv = attention.qkv(block.norm1(hidden)).unflatten(-1, (3, attention.num_heads, -1))
        query, key, value = qkv.unbind(2)  # each [B, N, heads, head]
        query, key = apply_rotary_pos_emb_vision(query, key, cos, sin)
        mixed = F.scaled_dot_product_attention(*(t.transpose(1, 2) for t in (query, key, value)))
        hidden = hidden + attention.proj(mixed.transpose(1, 2).flatten(2))
        hidden = hidden + block.mlp(block.norm2(hidden))
    return visual.merger(hidden).unflatten(0, (len(pixels), -1))


def to_patches(pixels: Tensor) -> Tensor:
    """Cut images [B, 3, H, W] into patches [B, N, 3 * 2 * PATCH²] in the order of Qwen's processors.

    Patches of one merged cell follow each other.
    """
    cells = pixels.unflatten(3, (-1, MERGE, PATCH)).unflatten(2, (-1, MERGE, PATCH))  # [B, C, gh, m, p, gw, m, p]
    cells = cells.permute(0, 2, 5, 3, 6, 1, 4, 7).flatten(1, 4)  # [B, N, C, p, p]
    return cells.unsqueeze(3).expand(-1, -1, -1, 2, -1, -1).flatten(2)  # a still image is two equal frames


def _patch_positions() -> Tensor:
    """Row and column of every patch, [N, 2], in the order of `to_patches`."""
    side = CELLS * MERGE
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    positions = torch.stack([rows, columns], dim=-1)  # [side, side, 2]
    return positions.view(CELLS, MERGE, CELLS, MERGE, 2).transpose(1, 2).reshape(-1, 2)
