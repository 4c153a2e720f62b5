"""The mask model of a prompt head: a vision-language model reads, the head prompts, SAM2's decoder draws."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image
from torch import Tensor

from segzero.mask_model.memory import RegionMemory
from segzero.mask_model.network import Decoded, MaskNetwork, language_model_of, load_head, read_card, save_head
from segzero.mask_model.prompt_head import PromptHead, decode, end_of_turn
from segzero.mask_model.reader import Reader, Reading, SeenImage
from segzero.masks import Mask
from segzero.segmenter.protocol import Embeddings, join
from segzero.segmenter.transformers import TransformersSegmenter

SEGMENTER = "segmenter"  # folder of a saved model


@dataclass(frozen=True, eq=False)
class PromptImage:
    """One image as the vision tower and SAM2's encoder see it."""

    seen: SeenImage
    embedded: Embeddings

    @property
    def nbytes(self) -> int:
        """Bytes of both."""
        return self.seen.nbytes + self.embedded.nbytes


class PromptModel(MaskNetwork):
    """Reader, prompt head and SAM2."""

    best_of_three = False  # the mask token that is trained answers
    trained = "the head, SAM2's mask decoder"

    def __init__(self, reader: Reader, segmenter: TransformersSegmenter, head: PromptHead, name: str = "") -> None:
        super().__init__(reader, head, name)
        self.segmenter, self.sam = segmenter, segmenter.model
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
    def load(cls, folder: Path, device: str = "auto", dtype: str = "auto") -> "PromptModel":
        """Load a model that `save` wrote."""
        model = cls.start(language_model_of(folder), folder / SEGMENTER, device, dtype)
        if read_card(folder).get("memory"):
            model.add_memory()
        load_head(folder, model.head)
        return model

    def add_memory(self) -> None:
        """Give the head a memory of earlier masks, which has learnt nothing."""
        self.head.memory, self.memory = RegionMemory(self.reader.width).to(self.reader.device), True

    def save(self, folder: Path, weights: dict[str, Tensor] | None) -> None:
        """Write the model: head, SAM2, language model with these weights. The folder is there and empty."""
        save_head(folder, self, weights, "prompt", memory=self.memory)
        self.sam.save_pretrained(folder / SEGMENTER)
        self.segmenter.processor.save_pretrained(folder / SEGMENTER)

    def train_with(self) -> None:
        """Let SAM2's mask decoder learn, but for what belongs to the frozen encoder's features."""
        self.sam.mask_decoder.requires_grad_(True)
        for unused in (self.sam.mask_decoder.conv_s0, self.sam.mask_decoder.conv_s1):
            unused.requires_grad_(False)

    @property
    def encoders(self) -> str:
        """The frozen parts, in words."""
        return f"{super().encoders}; {self.segmenter.name}"

    def see(self, images: Sequence[Image.Image]) -> list[PromptImage]:
        """Encode images by the vision tower and by SAM2's encoder."""
        embeddings = self.segmenter.embed(images)
        seen = self.reader.see(images)
        return [PromptImage(one, embeddings[place].copy()) for place, one in enumerate(seen)]

    def forward(
        self, encoded: Sequence[PromptImage], questions: Sequence[str], earlier: Sequence[Sequence[Mask]] = ()
    ) -> Decoded:
        """Predict a mask for each question about the image beside it; `earlier` are the masks that it refers to."""
        texts = [self.reader.question(question) for question in questions]
        if (memory := self.head.memory) is not None and earlier:
            told = zip(texts, encoded, earlier, strict=True)
            texts = [replace(text, given=memory(image.seen, masks)) for text, image, masks in told]
        readings = self.reader.read([image.seen for image in encoded], texts)
        ends = [end_of_turn(reading, self.end_token) for reading in readings]
        if memory is not None and self.training:  # processes that share a step expect a gradient of every weight
            ends[0] = ends[0] + 0 * sum(weight.sum() for weight in memory.parameters())
        prompts = [self.head(r.at(self.words(r)).float(), end.float()) for r, end in zip(readings, ends, strict=True)]
        sparse, dense = zip(*prompts, strict=True)
        joined = join([image.embedded for image in encoded])
        features: list[Tensor] = [level.to(self.reader.device) for level in joined.features]
        return decode(self.sam, features, sparse, dense, self.best_of_three)

    def words(self, reading: Reading) -> Tensor:
        """Tokens, bool [tokens], of which each becomes a sparse prompt: the question's own."""
        return reading.marked

    def close(self) -> None:
        """Release memory; the model can't be used afterwards."""
        super().close()
        del self.segmenter
