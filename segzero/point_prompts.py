"""Masks from points and boxes that a person types, without a policy.

>>> parse_prompts(["30,40", "-5,6"], [], (100, 100))
[MaskPrompt(box=None, points=((30.0, 40.0), (5.0, 6.0)), labels=(1, 0), mask=None)]
"""

from collections.abc import Iterator

from PIL import Image

from segzero.errors import UserError
from segzero.frames import Size
from segzero.result import InstanceMask, Segmentation
from segzero.segmenter import MaskPrompt, Segmenter


def parse_prompts(points: list[str], boxes: list[str], size: Size) -> list[MaskPrompt]:
    """Parse typed points and boxes into prompts: one object per box; points refine a single box, or are an object."""
    if not points and not boxes:
        raise UserError("nothing to draw: give --point x,y or --box x0,y0,x1,y1")
    if points and len(boxes) > 1:
        raise UserError(f"--point goes with one --box, not with {len(boxes)}; points could belong to any of them")
    corners = [parse_box(text, size) for text in boxes]
    places = [_point(text, size) for text in points]
    if not places:
        return [MaskPrompt(box=box) for box in corners]
    if not corners and not any(label for _, label in places):
        raise UserError("every --point is negative; give at least one x,y inside the object")
    box = corners[0] if corners else None
    return [MaskPrompt(box=box, points=tuple(xy for xy, _ in places), labels=tuple(label for _, label in places))]


def draw(
    segmenter: Segmenter, image: Image.Image, prompts: list[MaskPrompt], name: str, all_masks: bool
) -> Iterator[tuple[str, Segmentation]]:
    """Predict masks and yield results with their names: one result, or with `all_masks` one per choice, best first."""
    [predictions] = segmenter.decode(segmenter.embed([image]), [prompts], all_masks=all_masks)
    orders = [p.scores.argsort()[::-1] for p in predictions]
    for rank in range(len(orders[0])):
        instances = tuple(
            InstanceMask(
                prediction.masks[order[rank]],
                prompt.box or _bounds(prompt, image.size),
                tuple(prompt.points),
                float(prediction.scores[order[rank]]),
            )
            for prediction, order, prompt in zip(predictions, orders, prompts, strict=True)
        )
        yield (f"{name}_{rank + 1}" if all_masks else name), Segmentation(image, "", instances)


def _bounds(prompt: MaskPrompt, size: Size) -> tuple[float, float, float, float]:
    """Box around the positive points, for a prompt without a box: results have one."""
    inside = [xy for xy, label in zip(prompt.points, prompt.labels, strict=True) if label]
    xs, ys = zip(*inside, strict=True)
    return min(xs), min(ys), min(max(xs) + 1, size[0]), min(max(ys) + 1, size[1])


def _point(text: str, size: Size) -> tuple[tuple[float, float], int]:
    label = 0 if text.strip().startswith("-") else 1
    x, y = _numbers(text.strip().removeprefix("-"), 2, "--point", "x,y, or -x,y for a point outside the object")
    if not (0 <= x < size[0] and 0 <= y < size[1]):
        raise UserError(f"--point {text}: outside the image, which is {size[0]}x{size[1]}")
    return (x, y), label


def parse_box(text: str, size: Size, flag: str = "--box") -> tuple[float, float, float, float]:
    """Parse a typed box, cut to the image; `flag` is the option it was typed after."""
    x0, y0, x1, y1 = _numbers(text, 4, flag, "x0,y0,x1,y1")
    if not (x0 < x1 and y0 < y1):
        raise UserError(f"{flag} {text}: x1 must be above x0 and y1 above y0")
    if x0 >= size[0] or y0 >= size[1] or x1 <= 0 or y1 <= 0:
        raise UserError(f"{flag} {text}: outside the image, which is {size[0]}x{size[1]}")
    return max(x0, 0.0), max(y0, 0.0), min(x1, float(size[0])), min(y1, float(size[1]))


def _numbers(text: str, count: int, flag: str, form: str) -> list[float]:
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) != count or not all(abs(v) < 1e9 for v in values):
        raise UserError(f"{flag} {text}: write {form} in pixels")
    return values
