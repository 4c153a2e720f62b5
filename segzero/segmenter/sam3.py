"""SAM3 through the transformers library: phrases by its detector, points and boxes by its tracker.

Both come from one checkpoint and share the image encoder, which runs once for an image. `Embeddings` of this
segmenter hold the tracker's three levels, then the detector's three.
"""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import AutoConfig, Sam3Model, Sam3Processor, Sam3TrackerModel
from transformers.models.sam3.modeling_sam3 import Sam3VisionEncoderOutput

from segzero.errors import UserError, one_line
from segzero.segmenter.protocol import Embeddings, MaskPrediction, MaskPrompt
from segzero.segmenter.transformers import TransformersSegmenter
from segzero.segmenter.words import BOX_THRESHOLD, PhrasePrediction, PhrasePrompt, check_exemplars

LEVELS = 3  # of each half's features
PHRASES_AT_ONCE = 4  # each has its own copy of what the detector computes at the finest level


class Sam3Segmenter(TransformersSegmenter):
    """Detector and tracker of one checkpoint, with weights in float32."""

    reads_text = True

    def __init__(self, path: str | Path, device: str = "auto", dtype: str = "auto") -> None:
        detector, tracker, words = _load(path)
        # The same weights twice: of the two encoders one is kept, and the tracker has only a neck of its own.
        tracker.vision_encoder.backbone = detector.vision_encoder.backbone
        super().__init__(path, device, dtype, (tracker, words.image_processor))
        self.detector = detector.to(self.device)
        self.words = words
        self.longest = detector.config.text_config.max_position_embeddings  # tokens of a phrase

    def decode(
        self, embeddings: Embeddings, prompts: Sequence[Sequence[MaskPrompt]], all_masks: bool = False
    ) -> list[list[MaskPrediction]]:
        """Predict masks from points and boxes, with the tracker."""
        return super().decode(Embeddings(embeddings.features[:LEVELS], embeddings.sizes), prompts, all_masks)

    @torch.inference_mode()
    def find(
        self, embeddings: Embeddings, phrases: Sequence[Sequence[PhrasePrompt]], threshold: float = BOX_THRESHOLD
    ) -> list[list[PhrasePrediction]]:
        """Find the instances of each phrase of each image whose score is at least `threshold`, with the detector.

        A score is the detector's for the instance, times that for the phrase's presence in the picture.
        """
        if len(phrases) != len(embeddings):
            raise UserError(
                f"phrases for {len(phrases)} images, but {len(embeddings)} embeddings; give a list for each"
            )
        for listed, size in zip(phrases, embeddings.sizes, strict=True):
            for prompt in listed:
                check_exemplars(prompt, size)
        return [self._find(embeddings[i], listed, threshold) for i, listed in enumerate(phrases)]

    def _find(self, image: Embeddings, phrases: Sequence[PhrasePrompt], threshold: float) -> list[PhrasePrediction]:
        """Phrases of one image; those with the same number of boxes share batches."""
        alike: dict[int, list[int]] = defaultdict(list)
        for place, prompt in enumerate(phrases):
            alike[len(prompt.boxes)].append(place)
        found: dict[int, PhrasePrediction] = {}
        for places in alike.values():
            for start in range(0, len(places), PHRASES_AT_ONCE):
                batch = places[start : start + PHRASES_AT_ONCE]
                found.update(zip(batch, self._detect(image, [phrases[i] for i in batch], threshold), strict=True))
        return [found[i] for i in range(len(phrases))]

    def _detect(self, image: Embeddings, phrases: list[PhrasePrompt], threshold: float) -> list[PhrasePrediction]:
        size = image.sizes[0]
        tokens = self.words.tokenizer(
            [prompt.text for prompt in phrases],
            padding="max_length",
            truncation=True,  # an answer's phrase may be of any length; the model has no more places
            max_length=self.longest,
            return_tensors="pt",
        ).to(self.device)
        boxes: dict[str, torch.Tensor] = {}
        if phrases[0].boxes:
            boxes["input_boxes"] = torch.stack([_centred(prompt, size) for prompt in phrases]).to(self.device)
            boxes["input_boxes_labels"] = torch.tensor([prompt.box_labels for prompt in phrases], device=self.device)
        output = self.detector(
            vision_embeds=self._vision(image, len(phrases)),
            input_ids=tokens["input_ids"],
            attention_mask=tokens["attention_mask"],
            **boxes,
        )
        presence = output.presence_logits[:, 0].sigmoid()  # [B]
        scores = output.pred_logits.sigmoid() * presence[:, None]  # [B, Q]
        scale = torch.tensor([*size, *size], device=self.device)
        predictions = []
        for row in range(len(phrases)):
            order = scores[row].argsort(descending=True, stable=True)
            kept = order[scores[row][order] >= threshold]
            boxes_kept = output.pred_boxes[row, kept].clamp(0, 1) * scale
            logits, sure, corners = (
                value.float().cpu().numpy() for value in (output.pred_masks[row, kept], scores[row, kept], boxes_kept)
            )
            predictions.append(PhrasePrediction(float(presence[row]), logits, sure, corners, size))
        return predictions

    def _vision(self, image: Embeddings, count: int) -> Sam3VisionEncoderOutput:
        """The detector's features of one image for `count` phrases, without a copy for each."""
        levels = [level.to(self.device).expand(count, -1, -1, -1) for level in image.features[LEVELS:]]
        encode = self.detector.vision_encoder.neck.position_encoding
        positions = [encode(level.shape, level.device, level.dtype) for level in levels]
        # The model leaves the coarsest level of its encoder out; it was not kept.
        return Sam3VisionEncoderOutput(fpn_hidden_states=(*levels, None), fpn_position_encoding=(*positions, None))

    def _encode(self, images: Sequence[Image.Image]) -> list[torch.Tensor]:
        arrays = [np.array(image if image.mode == "RGB" else image.convert("RGB")) for image in images]
        pixels = self.processor(arrays, input_data_format="channels_last", return_tensors="pt")["pixel_values"]
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
            vision = self.detector.get_vision_features(pixels.to(self.device))
            return [level.float() for level in (*self._tracker_levels(vision), *vision.fpn_hidden_states[:LEVELS])]

    def _tracker_levels(self, vision: Sam3VisionEncoderOutput) -> list[torch.Tensor]:
        """The tracker's features from what the shared encoder computed."""
        height, width = self.model.prompt_encoder.image_embedding_size
        hidden = vision.last_hidden_state  # [N, height * width, C]
        levels, _ = self.model.vision_encoder.neck(hidden.view(len(hidden), height, width, -1).permute(0, 3, 1, 2))
        decoder = self.model.mask_decoder
        # As in Meta's predictor; the library's image model adds it to a level that it then leaves out (5.9).
        coarse = levels[2] + self.model.no_memory_embedding.view(1, -1, 1, 1)
        return [decoder.conv_s0(levels[0]), decoder.conv_s1(levels[1]), coarse]


def _centred(prompt: PhrasePrompt, size: tuple[int, int]) -> torch.Tensor:
    """Boxes [N, 4] as centre, width and height, in shares of the image."""
    boxes = torch.tensor(prompt.boxes, dtype=torch.float32) / torch.tensor([*size, *size])
    return torch.cat([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], dim=1)


def _load(path: str | Path) -> tuple[Sam3Model, Sam3TrackerModel, Sam3Processor]:
    """Load both halves and the processor; anything wrong with the checkpoint becomes one line."""
    try:
        config = AutoConfig.from_pretrained(path, trust_remote_code=False)  # each half takes its own part of it
        options = {"config": config, "dtype": "float32", "output_loading_info": True, "trust_remote_code": False}
        halves = [half.from_pretrained(path, **options) for half in (Sam3Model, Sam3TrackerModel)]
        words = Sam3Processor.from_pretrained(path, trust_remote_code=False)
    except Exception as error:  # a folder can be broken in many ways, and each has its own exception
        raise UserError(f"can't load the segmenter {path}: {one_line(error)}") from error
    for _, report in halves:
        if missing := sorted(report["missing_keys"]):
            raise UserError(
                f"can't load the segmenter {path}: its weights lack {missing[0]} and {len(missing) - 1} more"
            )
    (detector, _), (tracker, _) = halves
    return detector.eval(), tracker.eval(), words
