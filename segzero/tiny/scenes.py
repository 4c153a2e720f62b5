"""Synthetic scenes: coloured shapes on a textured ground, with exact masks, boxes and points.

The light is fixed (warmer to the right, cooler at the bottom), so that every patch of an image also shows its place: a
tiny vision tower that knows relative positions only can then learn where things are.

>>> scene = make_scene(np.random.default_rng(7))
>>> scene.image.shape, len(scene.shapes) >= 2
((224, 224, 3), True)
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image

from segzero.masks import box_of, points_of

COLOURS = {
    "red": (215, 45, 45),
    "green": (45, 165, 60),
    "blue": (50, 80, 215),
    "yellow": (225, 205, 45),
    "purple": (155, 60, 185),
    "cyan": (60, 200, 210),
}
KINDS = ("circle", "square", "triangle", "ring")
RADII = {"small": (0.080, 0.098), "large": (0.134, 0.161)}  # size name -> range, as fractions of the image's side
REACH = 1.12  # no shape extends beyond this many radii
EMBLEM_COLOURS = ((240, 240, 235), (28, 28, 32))

Spec = tuple[str, str, str]  # size name, colour, kind


@dataclass(frozen=True, eq=False)
class SceneShape:
    """A shape in a scene, some large ones with an emblem in the middle."""

    colour: str
    kind: str
    size_name: str  # "small" or "large"
    centre: tuple[float, float]  # x, y in pixels
    radius: float
    mask: np.ndarray  # bool [H, W], the whole shape
    part: np.ndarray | None  # bool [H, W], the emblem, which lies inside of `mask`
    box: tuple[float, float, float, float]  # x0, y0, x1, y1 around the mask
    point: tuple[float, float]  # the pixel deepest inside the mask

    @property
    def name(self) -> str:
        """Name made of the attributes, such as "small red circle"."""
        return f"{self.size_name} {self.colour} {self.kind}"


@dataclass(frozen=True, eq=False)
class Scene:
    """A square image and its shapes."""

    image: np.ndarray  # uint8 [size, size, 3]
    shapes: tuple[SceneShape, ...]

    @property
    def size(self) -> int:
        """Side of the image in pixels."""
        return self.image.shape[0]

    def png(self) -> bytes:
        """Encode the image as a PNG file."""
        file = io.BytesIO()
        Image.fromarray(self.image).save(file, "PNG")
        return file.getvalue()


def make_scene(rng: np.random.Generator, size: int = 224, max_shapes: int = 5, odd: bool = False) -> Scene:
    """Draw a scene; the same state of `rng` gives the same scene. With `odd`, all shapes but one are alike."""
    picture = _ground(rng, size)
    shapes: list[SceneShape] = []
    least = 3 if odd else min(2, max_shapes)
    for spec in _specs(rng, int(rng.integers(least, max_shapes + 1)), odd):
        radius = rng.uniform(*RADII[spec[0]]) * size
        centre = _free_centre(rng, size, radius, shapes)
        if centre is not None:
            shapes.append(_draw(rng, picture, spec, centre, radius))
    picture += _light(size)
    picture += rng.standard_normal((size, size, 1), dtype=np.float32) * 4  # grain
    return Scene(np.clip(picture, 0, 255).astype(np.uint8), tuple(shapes))


def _specs(rng: np.random.Generator, count: int, odd: bool) -> list[Spec]:
    """Choose the shapes; some scenes are arranged, so that every kind of question is possible often enough."""

    def any_spec() -> Spec:
        return _pick(rng, list(RADII)), _pick(rng, list(COLOURS)), _pick(rng, KINDS)

    arrangement = 0.0 if odd else rng.random()
    if arrangement < 0.2 and count >= 3:  # all alike but one, which has at most one attribute of theirs
        common = any_spec()
        names: tuple[Sequence[str], ...] = (list(RADII), list(COLOURS), KINDS)
        other = [_pick(rng, [o for o in options if o != c]) for options, c in zip(names, common, strict=True)]
        shared = rng.integers(4)  # index of the attribute that the odd one shares; 3: none
        size, colour, kind = (c if i == shared else o for i, (c, o) in enumerate(zip(common, other, strict=True)))
        return [(size, colour, kind)] + [common] * (count - 1)
    specs = [any_spec() for _ in range(count)]
    if arrangement < 0.4:  # one stands out in size
        big, rest = ("large", "small") if rng.random() < 0.5 else ("small", "large")
        return [(big if i == 0 else rest, *spec[1:]) for i, spec in enumerate(specs)]
    if arrangement < 0.5:  # a repeated kind
        return [(s, c, specs[0][2] if rng.random() < 0.6 else k) for s, c, k in specs]
    if arrangement < 0.6:  # a repeated colour
        return [(s, specs[0][1] if rng.random() < 0.6 else c, k) for s, c, k in specs]
    return specs


def _pick(rng: np.random.Generator, names: Sequence[str]) -> str:
    return names[int(rng.integers(len(names)))]


def _free_centre(
    rng: np.random.Generator, size: int, radius: float, shapes: list[SceneShape]
) -> tuple[float, float] | None:
    """Find a centre where the shape touches neither the border nor another shape; None after forty attempts."""
    border = radius * REACH + 0.018 * size
    for _ in range(40):
        x, y = rng.uniform(border, size - border, 2)
        if all(np.hypot(x - s.centre[0], y - s.centre[1]) > (radius + s.radius) * REACH + 0.027 * size for s in shapes):
            return float(x), float(y)
    return None


def _draw(
    rng: np.random.Generator, picture: np.ndarray, spec: Spec, centre: tuple[float, float], radius: float
) -> SceneShape:
    """Paint one shape into the image (in place), working on the small window around it."""
    size_name, colour, kind = spec
    size = picture.shape[0]
    reach = radius * REACH + 0.05 * size  # room for the shadow
    x0, y0 = (max(int(c - reach), 0) for c in centre)
    x1, y1 = (min(int(c + reach) + 1, size) for c in centre)
    window = picture[y0:y1, x0:x1]
    dx = np.arange(x0, x1, dtype=np.float32)[None, :] + 0.5 - centre[0]
    dy = np.arange(y0, y1, dtype=np.float32)[:, None] + 0.5 - centre[1]
    turn = rng.uniform(-0.25, 0.25)

    shift = 0.014 * size
    shadow = _distance(kind, dx - shift, dy - shift, radius, turn)
    window *= 1 - 0.35 * np.clip(0.5 - shadow / (0.03 * size), 0, 1)[..., None]

    distance = _distance(kind, dx, dy, radius, turn)  # [h, w], negative inside
    paint = np.array(COLOURS[colour], np.float32) + rng.uniform(-18, 18, 3).astype(np.float32)
    shade = (1 - 0.10 * (dx + dy) / radius)[..., None] * paint
    shade *= 1 - 0.22 * np.clip(1 + distance / (0.012 * size), 0, 1)[..., None]  # a darker rim
    _blend(window, shade, distance)

    local_part = None
    if size_name == "large" and kind != "ring" and rng.random() < 0.42:
        # A dot; on a circle, where a dot would look like a ring's hole, a square that stands on its corner.
        emblem = "square" if kind == "circle" else "circle"
        inner = _distance(emblem, dx, dy, radius * rng.uniform(0.45, 0.5), np.pi / 4)
        _blend(window, np.array(EMBLEM_COLOURS[rng.integers(2)], np.float32), inner)
        local_part = inner < 0

    local = distance < 0
    box = box_of(local)
    assert box is not None, spec  # a shape has pixels
    [(px, py)] = points_of(local)
    return SceneShape(
        colour=colour,
        kind=kind,
        size_name=size_name,
        centre=centre,
        radius=float(radius),
        mask=_in_image(local, size, x0, y0),
        part=None if local_part is None else _in_image(local_part, size, x0, y0),
        box=(box[0] + x0, box[1] + y0, box[2] + x0, box[3] + y0),
        point=(px + x0, py + y0),
    )


def _distance(kind: str, dx: np.ndarray, dy: np.ndarray, radius: float, turn: float) -> np.ndarray:
    """Signed distance to the outline, in pixels and negative inside, [h, w] for offsets [1, w] and [h, 1]."""
    if kind == "circle":
        return np.hypot(dx, dy) - radius
    if kind == "ring":
        return np.abs(np.hypot(dx, dy) - 0.75 * radius) - 0.25 * radius
    if kind == "square":
        u = dx * np.cos(turn) + dy * np.sin(turn)
        v = dy * np.cos(turn) - dx * np.sin(turn)
        return np.maximum(np.abs(u), np.abs(v)) - 0.78 * radius
    angles = turn + np.pi / 2 + np.arange(3) * 2 * np.pi / 3  # the triangle's outward normals
    sides = [dx * np.cos(a) + dy * np.sin(a) for a in angles]
    return np.maximum(np.maximum(sides[0], sides[1]), sides[2]) - 0.55 * radius


def _blend(window: np.ndarray, paint: np.ndarray, distance: np.ndarray) -> None:
    """Paint where the distance is negative, with an edge that is one pixel soft."""
    cover = np.clip(0.5 - distance, 0, 1)[..., None]
    window += cover * (paint - window)


def _in_image(local: np.ndarray, size: int, x0: int, y0: int) -> np.ndarray:
    """Place the mask of a window into one of the whole image, bool [size, size]."""
    mask = np.zeros((size, size), bool)
    mask[y0 : y0 + local.shape[0], x0 : x0 + local.shape[1]] = local
    return mask


def _ground(rng: np.random.Generator, size: int) -> np.ndarray:
    """A muted colour with soft clouds and a faint weave, float32 [size, size, 3]."""
    clouds = rng.uniform(-12, 12, (6, 6)).astype(np.float32)
    texture = np.asarray(Image.fromarray(clouds).resize((size, size), Image.Resampling.BICUBIC)).copy()
    angle, waves = rng.uniform(0, np.pi), rng.uniform(12, 30) * 2 * np.pi / size
    along = np.arange(size, dtype=np.float32)
    weave = rng.uniform(0, 4)
    texture += weave * np.sin(waves * np.cos(angle) * along)[None, :]
    texture += weave * np.sin(waves * np.sin(angle) * along)[:, None]
    base = rng.uniform(70, 120, 3).astype(np.float32)
    return texture[..., None] + base


@lru_cache(maxsize=4)
def _light(size: int) -> np.ndarray:
    """Light to add, float32 [size, size, 3]: red grows to the right, blue downwards, green both ways."""
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) / size - 0.5
    return np.stack([50 * x, 25 * (x + y), 50 * y], axis=-1)
