"""How a sample becomes what the policy reads: token ids, and the positions that mRoPE gives them.

The image is not touched here. Its visual tokens follow from its size alone, because `Frame.fit` leaves nothing
for the checkpoint's own processor to resize, so an image is decoded only where pixels are needed: once by vLLM
for all rollouts of a prompt, and once by the trainer.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from PIL import Image

from segzero.dialogue.prompting import PolicyPrompt, sample_prompt
from segzero.errors import UserError
from segzero.images import load_image
from segzero.policy.checkpoint import Checkpoint
from segzero.prompts import get_prompt
from segzero.sample import Sample


@dataclass(frozen=True, eq=False)
class Encoded:
    """A prompt with its image still a single placeholder (`short`, what vLLM takes) and expanded (`ids`)."""

    short: list[int]
    ids: list[int]
    grid: tuple[int, int, int]  # frames, rows and columns of the image's patches

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, eq=False)
class Encoder:
    """Renders samples for one checkpoint; `processor` is the checkpoint's, as verl loads it."""

    checkpoint: Checkpoint
    processor: Any

    @property
    def format(self) -> str:
        """The answer format that the prompt asks for."""
        return get_prompt(self.checkpoint.prompt).format

    def encode(self, sample: Sample, prompt: PolicyPrompt | None = None) -> Encoded:
        """Tokenize a sample's prompt; without a `prompt`, the one after its true history."""
        prompt = prompt or sample_prompt(sample, self.checkpoint.frame)
        text = _chat(self.processor, prompt.messages(self.checkpoint.prompt))
        short = self.processor.tokenizer(text, add_special_tokens=False)["input_ids"]
        placeholder = self.processor.image_token_id
        assert short.count(placeholder) == 1, "prompts.normalise lets no special token through"
        width, height = self.checkpoint.frame.model_size(sample.size)
        at = short.index(placeholder)
        tokens = self.checkpoint.image_tokens((width, height))
        ids = short[:at] + [placeholder] * tokens + short[at + 1 :]
        patch = self.processor.image_processor.patch_size
        return Encoded(short, ids, (1, height // patch, width // patch))

    def read(self, ids: list[int]) -> str:
        """The text of an answer, without end and padding tokens."""
        return self.processor.tokenizer.decode(ids, skip_special_tokens=True)

    def positions(self, encoded: Encoded, answer_length: int) -> torch.Tensor:
        """Position ids int64 [4, prompt + answer]: plain, then time, row and column as mRoPE counts them."""
        ids = torch.tensor([encoded.ids])
        seen, _ = self.processor.get_rope_index(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            image_grid_thw=torch.tensor([encoded.grid]),
            mm_token_type_ids=(ids == self.processor.image_token_id).long(),
        )  # [3, 1, prompt]
        following = seen.max() + 1 + torch.arange(answer_length)  # text moves all three at once
        vision = torch.cat([seen[:, 0], following.expand(3, -1)], dim=1)
        return torch.cat([torch.arange(vision.shape[1])[None], vision]).long()


def open_fitted(path: str, checkpoint: Checkpoint) -> Image.Image:
    """An image as the policy sees it."""
    return checkpoint.frame.fit(load_image(path))


def _chat(processor: Any, messages: list[dict]) -> str:
    return processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)


@lru_cache(maxsize=4)
def processor_of(path: str) -> Any:
    """A checkpoint's processor with the mRoPE of its family bound to it."""
    from verl.utils.tokenizer import hf_processor

    processor = hf_processor(path, trust_remote_code=False)
    if processor is None:
        raise UserError(f"the processor of {path} can't be loaded; save it beside the weights")
    return processor
