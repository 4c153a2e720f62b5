"""ConverSeg-Net as it was published, from its own checkpoints, along the path of its evaluation.

It differs from our prompt head in what is read and in which mask answers; `PROTOCOL` says all of it. One question is
decoded without the company of others, as there.

>>> model = ConverSegModel.from_files(RawFiles.of_folder(Path("ConverSeg-Net-3B")))        # doctest: +SKIP
>>> [answer] = model.answer([MaskQuestion(image, "the left-most person")])                 # doctest: +SKIP
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.transforms.functional import normalize, to_tensor
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from segzero.device import find_device
from segzero.errors import UserError, one_line
from segzero.mask_model.converseg_files import RawFiles, RawLanguage, read_adapters, read_language
from segzero.mask_model.network import Decoded
from segzero.mask_model.prompt_head import PromptHead
from segzero.mask_model.prompt_model import PromptImage, PromptModel
from segzero.mask_model.reader import Reader, Reading, Text
from segzero.masks import Mask
from segzero.policy.checkpoint import Checkpoint, read_checkpoint
from segzero.segmenter.meta_weights import architecture, check_shapes, find_architecture, make_sam2, read_tensors
from segzero.segmenter.protocol import Embeddings
from segzero.segmenter.transformers import IMAGES_AT_ONCE, TransformersSegmenter

BASE = "Qwen/Qwen2.5-VL-3B-Instruct"
NO_PROMPT = "segment"  # question in place of an empty one
MOST_WORDS = 256  # tokens of a question
NOT_TEXT = ("image", "vision", "<img", "picture", "video")  # in the names of added tokens that are no words
SURE = 10.0  # logit of presence: an image where nothing is there has an empty mask, and no other sign
PROTOCOL = (
    "ConverSeg's eval.py: the language model sees the image at its own size within its processor's limits (the "
    "256x256 that the published code asks for is ignored by its transformers 4.57.1) and the question as written, cut "
    f"to {MOST_WORDS} tokens; every word of the chat template is a prompt; SAM2 sees the image stretched to a square; "
    "{mask}; logit > 0"
)
MASKS = {
    "best": "of mask tokens 1 to 3 the one with the highest expected IoU answers",
    "trained": "mask token 0, which training uses, answers (published: the best of tokens 1 to 3)",
}


class ConverSegReader(Reader):
    """A language model that reads a question as written, and an image at its own size."""

    def __init__(self, net: Any, processor: Any, checkpoint: Checkpoint, device: torch.device) -> None:
        super().__init__(net, processor, checkpoint, device)
        added = processor.tokenizer.added_tokens_decoder
        none = [i for i, token in added.items() if token.special or any(n in token.content.lower() for n in NOT_TEXT)]
        self.no_words = torch.tensor(sorted({*none, *processor.tokenizer.all_special_ids}), device=device)

    def question(self, question: str) -> Text:
        """Render a question as the user's turn of a chat; special tokens in it are left out."""
        tokenizer = self.processor.tokenizer
        tokens = tokenizer(question or NO_PROMPT, add_special_tokens=False, truncation=True, max_length=MOST_WORDS)
        words = tokenizer.decode(tokens["input_ids"], skip_special_tokens=True)
        content = [{"type": "image"}, {"type": "text", "text": words}]
        return Text(self.processor.apply_chat_template([{"role": "user", "content": content}], tokenize=False), "")

    def fit(self, image: Image.Image) -> Image.Image:
        """Leave the image to the processor, which resizes it within its limits."""
        return image


class ConverSegModel(PromptModel):
    """ConverSeg-Net: reader, head and SAM2 of a published checkpoint."""

    best_of_three = True

    @classmethod
    def from_files(
        cls, files: RawFiles, device: str = "auto", dtype: str = "auto", mask_token: str = "best"
    ) -> "ConverSegModel":
        """Load a checkpoint for answers, its adapters merged; `mask_token` is `best` as published, or `trained`."""
        adapters = read_adapters(files.lora)
        language = read_language(files.plm, adapters)
        base = files.base or adapters.base or BASE
        target = find_device(device)
        segmenter = load_sam2(files.sam, files.model_cfg, target)
        reader = build_reader(base, language.merged(), target, dtype, files.plm)
        head = build_head(language, reader.width, segmenter.model.prompt_encoder.hidden_size, files.plm)
        model = cls(reader, segmenter, head.to(target), files.plm.stem)
        model.best_of_three = mask_token == "best"
        return model.eval()

    @classmethod
    def load(cls, folder: Path, device: str = "auto", dtype: str = "auto") -> "ConverSegModel":
        """Load the published files of one step from a folder."""
        return cls.from_files(RawFiles.of_folder(folder), device, dtype)

    @property
    def protocol(self) -> str:  # type: ignore[override]
        """The path from a question to a mask, in words, for reports."""
        return PROTOCOL.format(mask=MASKS["best" if self.best_of_three else "trained"])

    def see(self, images: Sequence[Image.Image]) -> list[PromptImage]:
        """Encode images by the vision tower, and stretched as Meta's predictor stretches them by SAM2's encoder."""
        embedded: list[Embeddings] = []
        for start in range(0, len(images), IMAGES_AT_ONCE):
            some = images[start : start + IMAGES_AT_ONCE]
            with torch.no_grad():
                levels = self.sam.get_image_embeddings(torch.cat([self._square(image) for image in some]))
            whole = Embeddings(tuple(levels), tuple(image.size for image in some))
            embedded += [whole[place].copy() for place in range(len(some))]
        return [PromptImage(seen, one) for seen, one in zip(self.reader.see(images), embedded, strict=True)]

    def forward(
        self, encoded: Sequence[PromptImage], questions: Sequence[str], earlier: Sequence[Sequence[Mask]] = ()
    ) -> Decoded:
        """Predict a mask for each question about the image beside it; something is always there."""
        decoded = super().forward(encoded, questions, earlier)
        return replace(decoded, presence=torch.full_like(decoded.scores, SURE))

    def train_with(self) -> None:
        """Let all of SAM2's decoder learn that leads to the mask of the first token, and nothing else."""
        super().train_with()
        decoder = self.sam.mask_decoder
        for unused in (decoder.output_hypernetworks_mlps[1:], decoder.iou_prediction_head, decoder.pred_obj_score_head):
            unused.requires_grad_(False)

    def words(self, reading: Reading) -> Tensor:
        """Tokens that become sparse prompts: all but special ones, those of the chat template, too."""
        reader = self.reader
        assert isinstance(reader, ConverSegReader)
        return ~torch.isin(reading.tokens, reader.no_words)

    def _square(self, image: Image.Image) -> Tensor:
        side = self.sam.prompt_encoder.input_image_size
        pixels = to_tensor(image.convert("RGB"))[None].to(self.reader.device)
        pixels = interpolate(pixels, (side, side), mode="bilinear", antialias=True, align_corners=False)
        usual = self.segmenter.processor.image_processor
        return normalize(pixels, usual.image_mean, usual.image_std)


def load_sam2(file: Path, config: str | None, device: torch.device) -> TransformersSegmenter:
    """Load a SAM2 from a file in Meta's names; without the name of its architecture, by the shapes of its weights."""
    weights = read_tensors(file, "model")
    hiera = architecture(config) if config else find_architecture(weights, file)
    return TransformersSegmenter(file, str(device), "float32", make_sam2(hiera, weights, file))


def build_reader(
    base: str, weights: dict[str, Tensor], device: torch.device, dtype: str, file: str | Path
) -> ConverSegReader:
    """Build a language model of its base's configuration and these weights, once names and shapes are checked."""
    checkpoint = read_checkpoint(base)
    kind = dtype if dtype != "auto" else "bfloat16" if device.type == "cuda" else "float32"
    try:
        config = AutoConfig.from_pretrained(base, trust_remote_code=False)
        with torch.device("meta"):
            wanted = AutoModelForImageTextToText.from_config(config, trust_remote_code=False).state_dict()
        check_shapes(weights, wanted, file, f"for the language model {base}")
        processor = AutoProcessor.from_pretrained(base, trust_remote_code=False)
    except UserError:
        raise
    except Exception as error:  # files can be broken in many ways, and each has its own exception
        raise UserError(f"the vision-language model {base} does not load: {one_line(error)}") from error
    net = AutoModelForImageTextToText.from_config(
        config, dtype=getattr(torch, kind), attn_implementation="sdpa", trust_remote_code=False
    )
    net.load_state_dict(weights)
    return ConverSegReader(net.to(device).eval(), processor, checkpoint, device)


def build_head(language: RawLanguage, width: int, channels: int, file: str | Path) -> PromptHead:
    """Build the head of a checkpoint for a language model and a SAM2 of these widths."""
    head = PromptHead(width, channels)
    what = f"a head for a language model of width {width} and a SAM2 of {channels}"
    check_shapes(language.head, head.state_dict(), file, what)
    head.load_state_dict(language.head)
    return head
