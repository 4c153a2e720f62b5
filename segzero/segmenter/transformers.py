"""SAM2, and SAM3's tracker alone, through the transformers library: the default backend."""

import re
from collections.abc import Sequence
from pathlib import Path
from types import MethodType

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import scaled_dot_product_attention
from transformers import AutoConfig, AutoImageProcessor, AutoModelForMaskGeneration, PreTrainedModel, ProcessorMixin
from transformers.models.sam2.modeling_sam2 import Sam2MultiScaleAttention, Sam2VisionNeck, do_pool

from segzero.device import find_device
from segzero.errors import UserError, one_line
from segzero.segmenter.batching import MAX_ROWS, Rows, decode_in_batches
from segzero.segmenter.protocol import Embeddings, Logits, MaskPrediction, MaskPrompt

# Checkpoints of the video models contain the image model; most names on the hub are theirs.
MODEL_TYPES = ("sam2", "sam2_video", "sam3_tracker", "sam3_video")
WITH_TEXT = "sam3_video"  # the model type of a whole SAM3, which reads phrases too (segzero.segmenter.sam3)
IMAGES_AT_ONCE = 4
ROWS_ON_CPU = 32  # prompts in a batch; more of them no longer fit into its caches


class TransformersSegmenter:
    """A checkpoint loaded by `from_pretrained`, with weights in float32: coordinates need its precision."""

    reads_text = False

    def __init__(
        self,
        path: str | Path,
        device: str = "auto",
        dtype: str = "auto",
        loaded: tuple[PreTrainedModel, ProcessorMixin] | None = None,
    ) -> None:
        """Load a checkpoint; of a model and a processor that are `loaded` already, `path` is only the name."""
        self.name = str(path)
        self.device = find_device(device)
        self.model, self.processor = loaded or _load(path)
        skip_unused_computations(self.model)
        self.model.to(self.device)
        self.half = dtype == "bfloat16" or (dtype == "auto" and self.device.type == "cuda")

    @torch.inference_mode()
    def embed(self, images: Sequence[Image.Image]) -> Embeddings:
        """Encode images; the features are on the model's device."""
        batches = [self._encode(images[i : i + IMAGES_AT_ONCE]) for i in range(0, len(images), IMAGES_AT_ONCE)]
        features = tuple(torch.cat(level) for level in zip(*batches, strict=True))
        return Embeddings(features, tuple(image.size for image in images))

    def decode(
        self, embeddings: Embeddings, prompts: Sequence[Sequence[MaskPrompt]], all_masks: bool = False
    ) -> list[list[MaskPrediction]]:
        """Predict three masks for each prompt and keep the best by its own score, as in Seg-Zero, or all of them."""
        most = MAX_ROWS if self.device.type == "cuda" else ROWS_ON_CPU
        return decode_in_batches(lambda rows: self._predict(embeddings, rows), embeddings, prompts, all_masks, most)

    def _encode(self, images: Sequence[Image.Image]) -> list[torch.Tensor]:
        arrays = [np.array(image if image.mode == "RGB" else image.convert("RGB")) for image in images]
        pixels = self.processor(arrays, input_data_format="channels_last", return_tensors="pt")["pixel_values"]
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
            return [level.float() for level in self.model.get_image_embeddings(pixels.to(self.device))]

    @torch.inference_mode()
    def _predict(self, embeddings: Embeddings, rows: Rows) -> tuple[Logits, Logits]:
        one = bool((rows.images == rows.images[0]).all())  # prompts of one image share its features without a copy
        where = torch.from_numpy(rows.images[:1] if one else rows.images).to(embeddings.features[0].device)
        features = [level[where].to(self.device) for level in embeddings.features]
        masks = None if rows.masks is None else torch.from_numpy(rows.masks)[:, None].to(self.device)
        output = self.model(
            image_embeddings=[level.expand(len(rows.images), -1, -1, -1) for level in features],
            # Boxes are among the points, as two corners; the model's own box argument does the same.
            input_points=torch.from_numpy(rows.points)[:, None].to(self.device) * self._side,
            input_labels=torch.from_numpy(rows.labels)[:, None].to(self.device),
            input_masks=masks,
            multimask_output=True,
        )
        return output.pred_masks[:, 0].float().cpu().numpy(), output.iou_scores[:, 0].float().cpu().numpy()

    @property
    def _side(self) -> int:
        return self.model.prompt_encoder.input_image_size


def model_type(path: str | Path) -> str:
    """Read which of MODEL_TYPES a checkpoint is; anything else is the user's mistake."""
    if not Path(path).is_dir() and not re.fullmatch(r"[\w.-]+/[\w.-]+", str(path)):
        raise UserError(
            f"no such segmenter: {path} is neither a folder here nor a hub name like facebook/sam2.1-hiera-large"
        )
    try:
        kind = AutoConfig.from_pretrained(path, trust_remote_code=False).model_type
    except Exception as error:  # a folder can be broken in many ways, and each has its own exception
        raise UserError(f"can't load the segmenter {path}: {one_line(error)}") from error
    if kind == "sam3":
        raise UserError(
            f"{path} is SAM3's detector alone, without the half that takes boxes; take the whole facebook/sam3"
        )
    if kind not in MODEL_TYPES:
        raise UserError(f"{path} is a {kind!r} model, not a segmenter (one of {', '.join(MODEL_TYPES)})")
    return kind


def _load(path: str | Path):
    """Load model and image processor; anything wrong with the checkpoint becomes one line."""
    model_type(path)
    try:
        model, report = AutoModelForMaskGeneration.from_pretrained(
            path, dtype="float32", output_loading_info=True, trust_remote_code=False
        )
        processor = AutoImageProcessor.from_pretrained(path, trust_remote_code=False)
    except Exception as error:
        raise UserError(f"can't load the segmenter {path}: {one_line(error)}") from error
    if missing := sorted(report["missing_keys"]):
        raise UserError(f"can't load the segmenter {path}: its weights lack {missing[0]} and {len(missing) - 1} more")
    return model.eval(), processor


def skip_unused_computations(model: PreTrainedModel) -> None:
    """Remove computations of SAM2's encoder whose results are unused; features stay bit-identical.

    The encoder is changed in place. Models built of other parts (SAM3's tracker) stay as they are.
    """
    for module in model.modules():
        if isinstance(module, Sam2VisionNeck):
            module.position_encoding = _NoPositions()
        elif isinstance(module, Sam2MultiScaleAttention):
            module.forward = MethodType(_attend, module)


class _NoPositions(torch.nn.Module):
    """Stands for position encodings, as large as the features, which only the memory of videos uses."""

    def forward(self, shape: torch.Size, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
        return torch.empty(shape[0], 0, *shape[2:], device=device, dtype=dtype)


def _attend(self: Sam2MultiScaleAttention, hidden_states: torch.Tensor, **_) -> torch.Tensor:
    """Attention as in the library's forward, without its first product of queries and keys, which is unused."""
    batch, height, width, _ = hidden_states.shape
    heads = self.num_attention_heads
    query, key, value = self.qkv(hidden_states).view(batch, height * width, 3, heads, -1).unbind(2)
    if self.query_stride:
        query = do_pool(query.reshape(batch, height, width, -1), self.query_stride)
        height, width = query.shape[1:3]
        query = query.reshape(batch, height * width, heads, -1)
    attended = scaled_dot_product_attention(
        query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), scale=self.scale
    )  # [B, heads, height * width, head_dim]
    return self.proj(attended.transpose(1, 2).reshape(batch, height, width, -1))
