"""Pictures to begin with: synthetic scenes with questions that they answer, or a folder of somebody's own.

DIR/examples.json, if there is one: [{"image": "cat.jpg", "name": "A cat", "question": "the cat", "followups": [...]}]
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from PIL import Image

from segzero.data.readers.fields import get, read_json
from segzero.data.readers.pictures import inside
from segzero.errors import UserError
from segzero.images import find_images, load_image
from segzero.prompts import normalise

LISTED = "examples.json"
MADE = 6  # synthetic scenes
MOST = 48  # of a folder's
MAX_BYTES = 32 << 20  # of one picture


@dataclass(frozen=True)
class Example:
    """A picture, a question about it, and questions to go on with."""

    name: str
    question: str
    followups: tuple[str, ...]
    image: bytes  # the encoded file
    kind: str  # image/png


def read_examples(folder: Path) -> tuple[Example, ...]:
    """Those of a folder: its images, or what its examples.json lists."""
    if not folder.is_dir():
        raise UserError(f"no such folder of examples: {folder}; check --examples")
    listed = folder / LISTED
    found = tuple(_listed(listed) if listed.is_file() else (_example(path) for path in find_images(folder)))
    if not 0 < len(found) <= MOST:
        raise UserError(f"{folder} has {len(found)} examples; 1 to {MOST} can be shown")
    return found


@lru_cache(maxsize=1)
def made_examples() -> tuple[Example, ...]:
    """Synthetic scenes, each with a question and what can be asked after it."""
    from segzero.tiny.dialogues import make_dialogues
    from segzero.tiny.questions import HELD_OUT_SEED

    asked: dict[bytes, list[str]] = {}
    for round in make_dialogues(MADE, HELD_OUT_SEED + 7):
        assert isinstance(round.image, bytes)
        asked.setdefault(round.image, []).append(round.question)
    return tuple(
        Example(f"Scene {number}", first, tuple(followups), image, "image/png")
        for number, (image, (first, *followups)) in enumerate(asked.items(), 1)
    )


def _listed(file: Path) -> Iterator[Example]:
    rows = read_json(file)
    if not isinstance(rows, list):
        raise UserError(f"{file} must hold a list of objects with an image each")
    for number, row in enumerate(rows):
        try:
            followups = get(row, "followups", list, default=[])
            if not all(isinstance(text, str) for text in followups):
                raise UserError("'followups' must be a list of questions")
            path = inside(file.parent, get(row, "image", str))
            name, question = get(row, "name", str, default=""), get(row, "question", str, default="")
            yield _example(path, name, question, tuple(followups))
        except UserError as error:
            raise UserError(f"{file}, example {number}: {error}") from error


def _example(path: Path, name: str = "", question: str = "", followups: tuple[str, ...] = ()) -> Example:
    for text in (question, *followups):
        if text:
            normalise(text)
    if path.is_file() and path.stat().st_size > MAX_BYTES:
        raise UserError(f"{path} has more than {MAX_BYTES} bytes; shrink it")
    load_image(path)  # a picture that can't be read is better known now
    data = path.read_bytes()
    kind = Image.open(io.BytesIO(data)).get_format_mimetype()  # what it is, whatever its name says
    return Example(name or path.stem, question, followups, data, kind or "application/octet-stream")
