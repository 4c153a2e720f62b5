"""The mask model of a prompt head: a vision-language model reads, the head prompts, SAM2's decoder draws."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from segzero.errors import UserError, one_line
from segzero.mask_model.prompt_head import Decoded, PromptHead, decode, end_of_turn
from segzero.mask_model.protocol import AnsweredMask, MaskQuestion
from segzero.mask_model.reader import Reader, SeenImage
from segzero.segmenter.protocol import Embeddings, join
from segzero.segmenter.transformers import TransformersSegmenter

HEAD, CARD = "head.safetensors", "mask_model.json"
POLICY, SEGMENTER = "policy", "segmenter"  # folders of a saved model


class PromptModel(nn.Module):
    """Reader, head and SAM2; the same forward pass serves training, evaluation and inference."""

    def __init__(self, reader: Reader, segmenter: TransformersSegmenter, head: PromptHead, name: str = "") -> None:
        super().__init__()
        self.reader, self.segmenter, self.head, self.name = reader, segmenter, head, name
        self.net, self.sam = reader.net, segmenter.model  # registered, so that their trained parts have gradients
        self.sam.requires_grad_(False)
        self.end_token = reader.processor.tokenizer.convert_tokens_to_ids("<|im_end|>")

    @classmethod
    def start(
        cls, policy: str | Path, segmenter: str | Path, device: str = "auto", dtype: str = "auto"
    ) -> "PromptModel":
        """Make a model with an untrained head from a vision-language model and a SAM2."""
        reader, sam2 = Reader.load(policy, device, dtype), TransformersSegmenter(segmenter, device, "float32")
        head = PromptHead(reader.width, sam2.model.prompt_encoder.hidden_size)
        return cls(reader, sam2, head.to(reader.device))

    @classmethod
    def load(cls, folder: str | Path, device: str = "auto", dtype: str = "auto") -> "PromptModel":
        """Load a model that `save` wrote."""
        folder = Path(folder)
        try:
            card = json.loads((folder / CARD).read_text())
            weights = load_file(folder / HEAD)
        except (OSError, ValueError, RecursionError) as error:
            raise UserError(f"no mask model in {folder}: {one_line(error, 200)}; `segzero tune` writes one") from None
        except Exception as error:  # safetensors has exceptions of its own
            raise UserError(f"{folder / HEAD} can't be read: {one_line(error, 200)}") from None
        if not isinstance(card, dict) or card.get("head") != "prompt":
            raise UserError(f"{folder / CARD} names no head that is known here; there is: prompt")
        model = cls.start(folder / POLICY, folder / SEGMENTER, device, dtype)
        try:
            model.head.load_state_dict(weights)
        except RuntimeError as error:
            raise UserError(f"{folder / HEAD} is not for {folder / POLICY}: {one_line(error, 200)}") from None
        model.name = str(folder)
        return model.eval()

    def save(self, folder: Path, weights: dict[str, Tensor]) -> None:
        """Write the model: head, language model with these weights, SAM2. The folder is there and empty."""
        save_file({name: tensor.contiguous() for name, tensor in self.head.state_dict().items()}, folder / HEAD)
        self.net.save_pretrained(folder / POLICY, state_dict=weights)
        self.reader.processor.save_pretrained(folder / POLICY)
        self.sam.save_pretrained(folder / SEGMENTER)
        self.segmenter.processor.save_pretrained(folder / SEGMENTER)
        (folder / CARD).write_text(json.dumps({"head": "prompt"}) + "\n")

    def fits(self, image: Image.Image) -> None:
        """Refuse images of a shape that the language model can't see."""
        self.reader.frame.model_size(image.size)

    def forward(self, seen: Sequence[SeenImage], embedded: Sequence[Embeddings], questions: Sequence[str]) -> Decoded:
        """Predict a mask for each question about an image that reader and segmenter have encoded."""
        readings = self.reader.read(seen, [self.reader.question(question) for question in questions])
        prompts = [self.head(r.states[r.marked].float(), end_of_turn(r, self.end_token).float()) for r in readings]
        sparse, dense = zip(*prompts, strict=True)
        features: list[Tensor] = [level.to(self.reader.device) for level in join(list(embedded)).features]
        return decode(self.sam, features, sparse, dense)

    @torch.inference_mode()
    def answer(self, questions: Sequence[MaskQuestion]) -> list[AnsweredMask]:
        """Answer each question, in order."""
        if not questions:
            return []
        images = [question.image for question in questions]
        embeddings = self.segmenter.embed(images)
        decoded = self(
            self.reader.see(images), [embeddings[i] for i in range(len(images))], [q.question for q in questions]
        )
        return [
            AnsweredMask(logits.float().cpu().numpy(), float(score), float(presence.sigmoid()), question.image.size)
            for logits, score, presence, question in zip(
                decoded.logits, decoded.scores, decoded.presence, questions, strict=True
            )
        ]

    def close(self) -> None:
        """Release memory; the model can't be used afterwards."""
        del self.net, self.sam, self.reader, self.segmenter
