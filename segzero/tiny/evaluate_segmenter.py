"""What the tiny SAM2 can do on held-out scenes, in mask IoU at the scenes' own resolution.

evaluate(Path("sam2"), count=500)["box and point"]
"""

from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from segzero.masks import mask_iou
from segzero.segmenter import MaskPrediction, MaskPrompt
from segzero.segmenter.transformers import TransformersSegmenter
from segzero.tiny.questions import HELD_OUT_SEED
from segzero.tiny.scenes import Scene, Shape, make_scene
from segzero.tiny.segmenter_prompts import inner_point, masks_of, shaken


def evaluate(path: Path, count: int = 500) -> dict[str, float]:
    """Means over all shapes of `count` scenes, by name of the figure."""
    segmenter = TransformersSegmenter(path, device="cpu")
    rng = np.random.default_rng(HELD_OUT_SEED)
    figures: dict[str, list[float]] = defaultdict(list)
    for _ in range(count):
        scene = make_scene(rng)
        for name, value in _scene_figures(segmenter, scene, rng):
            figures[name].append(value)
    return {name: round(float(np.mean(values)), 4) for name, values in figures.items()}


def _scene_figures(segmenter: TransformersSegmenter, scene: Scene, rng: np.random.Generator):
    """(name of a figure, its value for one shape) again and again."""
    shapes = scene.shapes
    embeddings = segmenter.embed([Image.fromarray(scene.image)])

    def ask(prompts: list[MaskPrompt], all_masks: bool = False) -> list[MaskPrediction]:
        return segmenter.decode(embeddings, [prompts], all_masks)[0]

    plain = {
        "box and point": [MaskPrompt(box=s.box, points=[s.point]) for s in shapes],
        "box": [MaskPrompt(box=s.box) for s in shapes],
        "rough box and point": [MaskPrompt(box=shaken(rng, s.box, scene.size), points=[s.point]) for s in shapes],
        "point": [MaskPrompt(points=[s.point]) for s in shapes],
    }
    for kind, prompts in plain.items():
        for shape, drawn in zip(shapes, ask(prompts), strict=True):
            reached = mask_iou(drawn.masks[0], shape.mask)
            yield kind, reached
            yield f"{kind}, error of its predicted IoU", abs(float(drawn.scores[0]) - reached)

    for shape, (mask, score) in zip(shapes, _single_output(segmenter, embeddings.features, scene), strict=True):
        reached = mask_iou(mask, shape.mask)
        yield "box and point, single output", reached
        yield "box and point, single output, error of its predicted IoU", abs(score - reached)

    yield from _ambiguous(ask, shapes, rng)
    yield from _corrected(ask, shapes, rng)


def _ambiguous(ask, shapes: tuple[Shape, ...], rng: np.random.Generator):
    """A point alone, when the whole or, where there is one, the emblem may be meant."""
    truths = [s.mask if s.part is None or rng.random() < 0.5 else s.part for s in shapes]
    for shape, truth, drawn in zip(
        shapes, truths, ask([MaskPrompt(points=[inner_point(rng, t)]) for t in truths], all_masks=True), strict=True
    ):
        reached = [mask_iou(mask, truth) for mask in drawn.masks]
        yield "best of three", max(reached)
        if shape.part is not None:
            yield "best of three, with an emblem", max(reached)

    emblems = [s for s in shapes if s.part is not None]
    prompts = [MaskPrompt(points=[inner_point(rng, s.mask)]) for s in emblems]
    for shape, drawn in zip(emblems, ask(prompts, all_masks=True), strict=True):
        first, second, third = drawn.masks
        named = masks_of(shape)
        yield "point: first mask and the whole", mask_iou(first, named["whole"])
        yield "point: second mask and the emblem", mask_iou(second, named["part"])
        yield "point: third mask and the rest", mask_iou(third, named["body"])
        yield "point: first and second mask", mask_iou(first, second)


def _corrected(ask, shapes: tuple[Shape, ...], rng: np.random.Generator):
    """A point, then the mask it gave with a second point where that mask is wrong, as a person would click."""
    truths = [masks_of(s)[str(rng.choice(list(masks_of(s))))] for s in shapes]
    first = [MaskPrompt(points=[inner_point(rng, truth)]) for truth in truths]
    second = []
    for prompt, truth, drawn in zip(first, truths, ask(first), strict=True):
        mask = drawn.masks[0]
        yield "a point, any piece meant", mask_iou(mask, truth)
        x, y = inner_point(rng, mask ^ truth if (mask ^ truth).any() else truth)
        label = int(truth[int(y), int(x)])
        second.append(MaskPrompt(points=[*prompt.points, (x, y)], labels=[1, label], mask=drawn.logits[0]))
    for truth, drawn in zip(truths, ask(second), strict=True):
        yield "a point and a correction", mask_iou(drawn.masks[0], truth)


@torch.inference_mode()
def _single_output(
    segmenter: TransformersSegmenter, features: tuple[torch.Tensor, ...], scene: Scene
) -> list[tuple[np.ndarray, float]]:
    """Box and point of each shape by transformers' own way: the model's single mask, its boxes, its processor."""
    side = segmenter.model.prompt_encoder.input_image_size / scene.size
    output = segmenter.model(
        image_embeddings=list(features),
        input_boxes=torch.tensor([[s.box for s in scene.shapes]]) * side,
        input_points=torch.tensor([[[s.point] for s in scene.shapes]]) * side,
        input_labels=torch.ones(1, len(scene.shapes), 1, dtype=torch.int64),
        multimask_output=False,
    )
    [masks] = segmenter.processor.post_process_masks(output.pred_masks, [(scene.size, scene.size)])
    return list(zip(masks[:, 0].numpy(), output.iou_scores[0, :, 0].tolist(), strict=True))
