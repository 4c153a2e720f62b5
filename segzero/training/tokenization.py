"""Token ids of prompts and answers, and the positions that mRoPE gives them.

The image is not opened here. The number of its visual tokens follows from its size alone, because `Frame.fit` leaves
nothing for the checkpoint's own processor to resize. An image is decoded only where pixels are needed: once by vLLM
for all answers to a prompt, and once by the trainer.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from PIL import Image

from segzero.dialogue.prompting import PolicyPrompt, sample_prompt
from segzero.errors import UserError
from segzero.images import image_key, load_image
from segzero.masks import decode
from segzero.policy.checkpoint import Checkpoint
from segzero.prompts import get_prompt
from segzero.refinement.observation import mark
from segzero.sample import Sample

# {"image": path or bytes, and maybe "mask": RLE}; crosses processes, and is opened where it is needed.
Picture = dict[str, Any]


@dataclass(frozen=True, eq=False)
class EncodedPrompt:
    """Token ids of a prompt about one image."""

    unexpanded: list[int]  # the image is a single placeholder: vLLM takes this and expands it
    ids: list[int]  # a placeholder for each visual token: the trainer takes this
    grid: tuple[int, int, int]  # frames, rows and columns of the image's patches

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, eq=False)
class GeneratedAnswer:
    """Tokens of one answer as the rollout engine generated them."""

    ids: list[int]
    log_probs: list[float]  # one per token
    truncated: bool  # the limit came before the end token
    weights_step: int | None  # the step whose weights generated it


@dataclass(frozen=True, eq=False)
class Encoder:
    """Tokenizes the prompts of samples for one checkpoint; `processor` is the checkpoint's, as verl loads it."""

    checkpoint: Checkpoint
    processor: Any

    @property
    def format(self) -> str:
        """The answer format that the prompt asks for."""
        return get_prompt(self.checkpoint.prompt).format

    def encode(self, sample: Sample, prompt: PolicyPrompt | None = None) -> EncodedPrompt:
        """Tokenize a sample's prompt; without a `prompt`, the one after its true history."""
        prompt = prompt or sample_prompt(sample, self.checkpoint.frame)
        messages = prompt.messages(self.checkpoint.prompt)
        text = self.processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        unexpanded = self.processor.tokenizer(text, add_special_tokens=False)["input_ids"]
        placeholder = self.processor.image_token_id
        assert unexpanded.count(placeholder) == 1, "prompts.normalise lets no special token through"
        width, height = self.checkpoint.frame.model_size(sample.size)
        at = unexpanded.index(placeholder)
        visual = [placeholder] * self.checkpoint.image_tokens((width, height))
        patch = self.processor.image_processor.patch_size
        return EncodedPrompt(
            unexpanded, unexpanded[:at] + visual + unexpanded[at + 1 :], (1, height // patch, width // patch)
        )

    def decode(self, ids: list[int]) -> str:
        """The text of an answer, without end and padding tokens."""
        return self.processor.tokenizer.decode(ids, skip_special_tokens=True)

    def positions(self, prompt: EncodedPrompt, answer_length: int) -> torch.Tensor:
        """Position ids int64 [4, prompt + answer]: plain, then time, row and column as mRoPE counts them."""
        mrope = _prompt_positions(self.processor, prompt)
        following = mrope.max() + 1 + torch.arange(answer_length)  # text moves all three at once
        vision = torch.cat([mrope, following.expand(3, -1)], dim=1)
        return torch.cat([torch.arange(vision.shape[1])[None], vision]).long()


@lru_cache(maxsize=128)  # all answers to a prompt ask for the same
def _prompt_positions(processor: Any, prompt: EncodedPrompt) -> torch.Tensor:
    """mRoPE's positions of a prompt [3, prompt]."""
    ids = torch.tensor([prompt.ids])
    mrope, _ = processor.get_rope_index(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        image_grid_thw=torch.tensor([prompt.grid]),
        mm_token_type_ids=(ids == processor.image_token_id).long(),
    )  # [3, 1, prompt]
    return mrope[:, 0]


def picture_of(sample: Sample) -> Picture:
    """Refer to the picture that the policy sees of a sample: its image, and the mask drawn on it."""
    mask = sample.current_mask
    return {"image": sample.image} | ({} if mask is None else {"mask": dict(mask)})


def picture_key(picture: Picture) -> str | None:
    """A key that two references to the same picture share; None for what refers to no picture."""
    if "image" not in picture:
        return None
    key, mask = image_key(picture["image"]), picture.get("mask")
    return key if mask is None else f"{key} {mask['counts']}"


def open_picture(picture: Picture, checkpoint: Checkpoint) -> Image.Image:
    """Open a picture at the size in which the policy sees it."""
    image, mask = load_image(picture["image"]), picture.get("mask")
    return checkpoint.frame.fit(image) if mask is None else mark(image, decode(mask, image.size), checkpoint.frame)


@lru_cache(maxsize=4)
def load_processor(path: str) -> Any:
    """Load a checkpoint's processor, with the mRoPE of its family bound to it."""
    from verl.utils.tokenizer import hf_processor

    processor = hf_processor(path, trust_remote_code=False)
    if processor is None:
        raise UserError(f"the processor of {path} can't be loaded; save it beside the weights")
    return processor
