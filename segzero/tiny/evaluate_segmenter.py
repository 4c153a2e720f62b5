"""Evaluation of the tiny SAM2 on held-out scenes, in mask IoU at the scenes' own resolution.

evaluate_segmenter(Path("sam2"), count=500)["box and point"]
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from segzero.masks import mask_iou
from segzero.segmenter import MaskPrediction, MaskPrompt
from segzero.segmenter.transformers import TransformersSegmenter
from segzero.tiny.questions import HELD_OUT_SEED
from segzero.tiny.scenes import Scene, SceneShape, make_scene
from segzero.tiny.segmenter_prompts import inner_point, jitter_box, masks_of

Predict = Callable[..., list[MaskPrediction]]  # of prompts for one scene


def evaluate_segmenter(path: Path, count: int = 500) -> dict[str, float]:
    """Measure a segmenter on `count` scenes; returns means over all shapes, by name of the figure."""
    segmenter = TransformersSegmenter(path, device="cpu")
    rng = np.random.default_rng(HELD_OUT_SEED)
    figures: dict[str, list[float]] = defaultdict(list)
    for _ in range(count):
        scene = make_scene(rng)
        for name, value in _scene_figures(segmenter, scene, rng):
            figures[name].append(value)
    return {name: round(float(np.mean(values)), 4) for name, values in figures.items()}


def _scene_figures(
    segmenter: TransformersSegmenter, scene: Scene, rng: np.random.Generator
) -> Iterator[tuple[str, float]]:
    """Figures of the shapes of one scene, by name."""
    shapes = scene.shapes
    embeddings = segmenter.embed([Image.fromarray(scene.image)])

    def predict(prompts: list[MaskPrompt], all_masks: bool = False) -> list[MaskPrediction]:
        return segmenter.decode(embeddings, [prompts], all_masks)[0]

    plain = {
        "box and point": [MaskPrompt(box=s.box, points=[s.point]) for s in shapes],
        "box": [MaskPrompt(box=s.box) for s in shapes],
        "rough box and point": [MaskPrompt(box=jitter_box(rng, s.box, scene.size), points=[s.point]) for s in shapes],
        "point": [MaskPrompt(points=[s.point]) for s in shapes],
    }
    for kind, prompts in plain.items():
        for shape, prediction in zip(shapes, predict(prompts), strict=True):
            iou = mask_iou(prediction.masks[0], shape.mask)
            yield kind, iou
            yield f"{kind}, error of its predicted IoU", abs(float(prediction.scores[0]) - iou)

    for shape, (mask, score) in zip(shapes, _single_output(segmenter, embeddings.features, scene), strict=True):
        iou = mask_iou(mask, shape.mask)
        yield "box and point, single output", iou
        yield "box and point, single output, error of its predicted IoU", abs(score - iou)

    yield from _ambiguous(predict, shapes, rng)
    yield from _corrected(predict, shapes, rng)


def _ambiguous(
    predict: Predict, shapes: tuple[SceneShape, ...], rng: np.random.Generator
) -> Iterator[tuple[str, float]]:
    """Figures of a point alone, which may mean the whole or, if there is one, the emblem."""
    truths = [s.mask if s.part is None or rng.random() < 0.5 else s.part for s in shapes]
    prompts = [MaskPrompt(points=[inner_point(rng, truth)]) for truth in truths]
    for shape, truth, prediction in zip(shapes, truths, predict(prompts, all_masks=True), strict=True):
        best = max(mask_iou(mask, truth) for mask in prediction.masks)
        yield "best of three", best
        if shape.part is not None:
            yield "best of three, with an emblem", best

    emblems = [s for s in shapes if s.part is not None]
    prompts = [MaskPrompt(points=[inner_point(rng, s.mask)]) for s in emblems]
    for shape, prediction in zip(emblems, predict(prompts, all_masks=True), strict=True):
        first, second, third = prediction.masks
        truth_of = masks_of(shape)
        yield "point: first mask and the whole", mask_iou(first, truth_of["whole"])
        yield "point: second mask and the emblem", mask_iou(second, truth_of["part"])
        yield "point: third mask and the rest", mask_iou(third, truth_of["body"])
        yield "point: first and second mask", mask_iou(first, second)


def _corrected(
    predict: Predict, shapes: tuple[SceneShape, ...], rng: np.random.Generator
) -> Iterator[tuple[str, float]]:
    """Figures of a point, and of its mask with a second point where that mask is wrong, as a person would click."""
    truths = [masks_of(s)[str(rng.choice(list(masks_of(s))))] for s in shapes]
    first = [MaskPrompt(points=[inner_point(rng, truth)]) for truth in truths]
    second = []
    for prompt, truth, prediction in zip(first, truths, predict(first), strict=True):
        mask = prediction.masks[0]
        yield "a point, any piece meant", mask_iou(mask, truth)
        x, y = inner_point(rng, mask ^ truth if (mask ^ truth).any() else truth)
        label = int(truth[int(y), int(x)])
        second.append(MaskPrompt(points=[*prompt.points, (x, y)], labels=[1, label], mask=prediction.logits[0]))
    for truth, prediction in zip(truths, predict(second), strict=True):
        yield "a point and a correction", mask_iou(prediction.masks[0], truth)


@torch.inference_mode()
def _single_output(
    segmenter: TransformersSegmenter, features: tuple[torch.Tensor, ...], scene: Scene
) -> list[tuple[np.ndarray, float]]:
    """Mask and score for the box and point of each shape, through transformers' own classes and as a single mask."""
    scale = segmenter.model.prompt_encoder.input_image_size / scene.size
    output = segmenter.model(
        image_embeddings=list(features),
        input_boxes=torch.tensor([[s.box for s in scene.shapes]]) * scale,
        input_points=torch.tensor([[[s.point] for s in scene.shapes]]) * scale,
        input_labels=torch.ones(1, len(scene.shapes), 1, dtype=torch.int64),
        multimask_output=False,
    )
    [masks] = segmenter.processor.post_process_masks(output.pred_masks, [(scene.size, scene.size)])
    return list(zip(masks[:, 0].numpy(), output.iou_scores[0, :, 0].tolist(), strict=True))
