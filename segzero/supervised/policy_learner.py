"""A policy that learns answers by heart, in rows packed without padding."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from segzero.lru import LRUCache
from segzero.policy.shared_prompt import ATTENTION, pack, use_packed_rows
from segzero.policy.transformers import ATTENTION as GENERATING
from segzero.policy.transformers import TransformersPolicy
from segzero.sample import Sample
from segzero.supervised.answers import answer_text
from segzero.supervised.loop import Learner
from segzero.training.answer_head import AnswerHead
from segzero.training.passes import split_groups
from segzero.training.tokenization import Encoder, Picture, open_picture, picture_key, picture_of

PIXEL_BYTES = 1 << 30  # of images as the model takes them, kept for the next epoch


@dataclass(frozen=True, eq=False)
class AnsweredPrompt:
    """Tokens of a prompt and of the answer to learn."""

    prompt: list[int]
    answer: list[int]
    positions: Tensor  # int64 [4, prompt + answer]
    picture: Picture


class PolicyLearner(Learner):
    """A policy whose forward pass returns the negative log-probability of answers, summed over their tokens."""

    def __init__(self, net: Any, encoder: Encoder, most_tokens: int) -> None:
        super().__init__()
        self.net, self.encoder, self.most_tokens = net, encoder, most_tokens
        self.pixels: LRUCache = LRUCache(PIXEL_BYTES, _bytes)
        use_packed_rows(net)
        self.head = AnswerHead(net)

    def encode(self, sample: Sample) -> AnsweredPrompt:
        """Tokenize a sample's prompt and answer; the answer ends with the model's own end token."""
        prompt = self.encoder.encode(sample)
        tokenizer = self.encoder.processor.tokenizer
        text = answer_text(sample, self.encoder.checkpoint.frame, self.encoder.format)
        answer = [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        return AnsweredPrompt(prompt.ids, answer, self.encoder.positions(prompt, len(answer)), picture_of(sample))

    def passes(self, samples: Sequence[Sample], count: int | None = None) -> list[list[AnsweredPrompt]]:
        """Divide samples into passes of at most `most_tokens` tokens, as few as possible or a given number."""
        rows = [self.encode(sample) for sample in samples]
        lengths = [len(row.prompt) for row in rows], [len(row.answer) for row in rows]
        return [[rows[i] for i in part] for part in split_groups(range(len(rows)), *lengths, self.most_tokens, count)]

    def weight(self, rows: Sequence[AnsweredPrompt]) -> int:
        """Number of tokens that rows teach."""
        return sum(len(row.answer) for row in rows)

    def forward(self, rows: Sequence[AnsweredPrompt]) -> Tensor:
        """Negative log-probability of all answers' tokens."""
        device = self.head.linear.weight.device
        tokens = torch.tensor([token for row in rows for token in (*row.prompt, *row.answer)])
        positions = torch.cat([row.positions for row in rows], dim=1)
        packed = pack(range(len(rows)), [len(row.prompt) for row in rows], [len(row.answer) for row in rows])
        self.head.expect(packed.predicting.to(device), tokens[packed.predicted].to(device), 1.0)
        images = [self._pixels(row.picture) for row in rows]
        output = self.net(
            input_ids=tokens[None, packed.source].to(device),
            position_ids=positions[:, None, packed.source].to(device),
            attention_mask=None,
            packed=packed.to(device),
            use_cache=False,
            **{name: torch.cat([image[name] for image in images]).to(device) for name in images[0]},
        )
        return -output.logits[0].sum()

    def _pixels(self, picture: Picture) -> dict[str, Tensor]:
        key = picture_key(picture) or ""
        pixels = self.pixels.get(key)
        if pixels is None:
            opened = open_picture(picture, self.encoder.checkpoint)
            processed = self.encoder.processor.image_processor(images=[opened], return_tensors="pt")
            pixels = {name: processed[name] for name in ("pixel_values", "image_grid_thw")}
            self.pixels.put(key, pixels)
        return pixels

    @contextmanager
    def generating(self) -> Iterator[TransformersPolicy]:
        """The model as it is now, as a policy that answers; training goes on afterwards."""
        text, head = self.net.get_decoder(), self.head.linear
        score = head.__dict__.pop("forward")
        text.set_attn_implementation(GENERATING)
        self.net.eval()
        try:
            yield TransformersPolicy(self.encoder.checkpoint, model=self.net)
        finally:
            self.net.train()
            text.set_attn_implementation(ATTENTION)
            head.forward = score


def _bytes(pixels: dict[str, Tensor]) -> int:
    return sum(tensor.nbytes for tensor in pixels.values())
