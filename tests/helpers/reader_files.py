"""What the tests of readers make their fixtures of."""

import io
import json
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (12, 8)  # width, height of every picture here


def png(size: tuple[int, int] = SIZE, color: tuple[int, int, int] = (90, 120, 60)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, color).save(file, "PNG")
    return file.getvalue()


def jpeg(path: Path, size: tuple[int, int] = SIZE, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (90, 120, 60)).save(path, "JPEG", **options)
    return path


def box_mask(x0: int, y0: int, x1: int, y1: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    mask = np.zeros(size[::-1], bool)
    mask[y0:y1, x0:x1] = True
    return mask


def mask_png(path: Path, mask: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask.astype(np.uint8) * 255).save(path)
    return path


def mask_bytes(mask: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8) * 255).save(file, "PNG")
    return file.getvalue()


def rectangle(x0: float, y0: float, x1: float, y1: float) -> list[float]:
    """A COCO polygon."""
    return [x0, y0, x1, y0, x1, y1, x0, y1]


def write_json(path: Path, value) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")
    return path
