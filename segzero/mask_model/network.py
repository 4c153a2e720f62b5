"""The base of mask models: encode images once, predict masks for questions about them, answer, save.

A network registers its trained parts as modules, so that a training loop finds their parameters. Images are encoded by
frozen towers, and what they compute is kept and shared by all questions about an image.
"""

import json
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from segzero.errors import UserError, one_line
from segzero.mask_model.protocol import AnsweredMask, MaskQuestion
from segzero.mask_model.reader import Reader
from segzero.policy.checkpoint import write_card

HEAD, CARD = "head.safetensors", "mask_model.json"  # files of a saved model
POLICY, ADAPTERS = "policy", "adapters"  # its language model is in one of these folders: whole, or what was learnt


class EncodedImage(Protocol):
    """Features of one image by the frozen towers, for any number of questions."""

    @property
    def nbytes(self) -> int:
        """Bytes that it takes."""
        ...


@dataclass(frozen=True, eq=False)
class Decoded:
    """Masks of B questions as a decoder predicts them."""

    logits: Sequence[Tensor]  # [h, w] each, over the whole image
    scores: Tensor  # [B], the IoU that the decoder expects
    presence: Tensor  # [B], logit of anything being there
    answer_loss: Tensor | None = None  # [B], in training, of a model that also learns to write


class MaskNetwork(nn.Module):
    """A mask model as it is trained; the same forward pass serves training, evaluation and inference."""

    kind = ""  # of its head, once it is loaded
    memory = False  # whether the forward pass takes `earlier`, masks that each question refers to
    protocol = ""
    own_tokens: Sequence[int] = ()  # that the model added to the language model's, and learns
    expressions = 1  # most questions about an image that share an answer in training
    trained = "the head"  # in words, beside the language model

    def __init__(self, reader: Reader, head: nn.Module, name: str = "") -> None:
        super().__init__()
        self.reader, self.head, self.name = reader, head, name
        self.net = reader.net

    @abstractmethod
    def see(self, images: Sequence[Image.Image]) -> list[Any]:
        """Encode images by the frozen towers; each result is an `EncodedImage`."""

    @abstractmethod
    def forward(self, encoded: Sequence[Any], questions: Sequence[str]) -> Decoded:
        """Predict a mask for each question about the encoded image beside it."""

    def learn(self, encoded: Sequence[Any], questions: Sequence[str], there: Sequence[bool], **told: Any) -> Decoded:
        """Predict masks in training, when it is known whether anything is there."""
        return self(encoded, questions, **told)

    def train_with(self) -> None:
        """Let what is trained beside head and language model learn."""

    @property
    def encoders(self) -> str:
        """The frozen parts, in words."""
        return f"{self.reader.checkpoint.path}, frame {self.reader.frame}"

    @abstractmethod
    def save(self, folder: Path, weights: dict[str, Tensor] | None) -> None:
        """Write the model with these weights of the language model, or without it. The folder is there and empty."""

    @torch.inference_mode()
    def answer(self, questions: Sequence[MaskQuestion]) -> list[AnsweredMask]:
        """Answer each question, in order; an image that several ask about is encoded once."""
        if not questions:
            return []
        images = {id(question.image): question.image for question in questions}
        encoded = dict(zip(images, self.see(list(images.values())), strict=True))
        told = {"earlier": [q.earlier for q in questions]} if self.memory else {}
        decoded = self([encoded[id(q.image)] for q in questions], [q.question for q in questions], **told)
        return [
            AnsweredMask(logits.float().cpu().numpy(), float(score), float(presence.sigmoid()), question.image.size)
            for logits, score, presence, question in zip(
                decoded.logits, decoded.scores, decoded.presence, questions, strict=True
            )
        ]

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.reader.device

    def fits(self, image: Image.Image) -> None:
        """Refuse images of a shape that the language model can't see."""
        self.reader.frame.model_size(image.size)

    def close(self) -> None:
        """Release memory; the model can't be used afterwards."""
        for name in list(self._modules):
            delattr(self, name)
        del self.reader


def save_head(folder: Path, model: MaskNetwork, weights: dict[str, Tensor] | None, kind: str, **settings: Any) -> None:
    """Write a model's head, the card that names its kind, and the language model with these weights.

    Without weights the caller writes what was learnt into ADAPTERS.
    """
    save_file({name: tensor.contiguous() for name, tensor in model.head.state_dict().items()}, folder / HEAD)
    language_model = folder / (ADAPTERS if weights is None else POLICY)
    if weights is not None:
        model.net.save_pretrained(language_model, state_dict=weights)
    model.reader.processor.save_pretrained(language_model)
    write_card(language_model, model.reader.checkpoint.prompt, model.reader.frame)
    (folder / CARD).write_text(json.dumps({"head": kind, **settings}) + "\n")


def language_model_of(folder: Path) -> Path:
    """The folder of a saved model's language model, or of the adapters that stand for it."""
    return folder / POLICY if (folder / POLICY).is_dir() else folder / ADAPTERS


def read_card(folder: Path) -> dict[str, Any]:
    """The card of a saved model: the kind of its head, and the head's settings."""
    try:
        card = json.loads((folder / CARD).read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"no mask model in {folder}: {one_line(error, 200)}; `segzero tune` writes one") from None
    if not isinstance(card, dict) or not isinstance(card.get("head"), str):
        raise UserError(f"{folder / CARD} names no head; `segzero tune` writes one that does")
    return card


def load_head(folder: Path, head: nn.Module) -> None:
    """Set a head to the weights of a saved model."""
    try:
        weights = load_file(folder / HEAD)
    except Exception as error:  # safetensors has exceptions of its own
        raise UserError(f"{folder / HEAD} can't be read: {one_line(error, 200)}") from None
    try:
        head.load_state_dict(weights)
    except RuntimeError as error:
        raise UserError(f"{folder / HEAD} is not for {language_model_of(folder)}: {one_line(error, 200)}") from None
