"""Pictures to begin with: synthetic scenes with questions about them, or the pictures of a folder.

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
SCENES = 6  # synthetic ones
MOST = 48  # pictures of a folder
MAX_BYTES = 32 << 20  # of one picture


@dataclass(frozen=True)
class Example:
    """A picture, a question about it, and questions to go on with."""

    name: str
    question: str
    followups: tuple[str, ...]
    image: bytes  # the encoded file
    media_type: str  # image/png


def read_examples(folder: Path) -> tuple[Example, ...]:
    """Read the pictures that a folder's examples.json lists, or else all pictures of the folder."""
    if not folder.is_dir():
        raise UserError(f"no such folder of examples: {folder}; check --examples")
    listed = folder / LISTED
    examples = tuple(_listed(listed) if listed.is_file() else (_example(path) for path in find_images(folder)))
    if not 0 < len(examples) <= MOST:
        raise UserError(f"{folder} has {len(examples)} examples; 1 to {MOST} can be shown")
    return examples


@lru_cache(maxsize=1)
def synthetic_examples() -> tuple[Example, ...]:
    """Make synthetic scenes, each with a question and questions that follow it."""
    from segzero.tiny.dialogues import make_dialogues
    from segzero.tiny.questions import HELD_OUT_SEED

    questions: dict[bytes, list[str]] = {}
    for round in make_dialogues(SCENES, HELD_OUT_SEED + 7):
        assert isinstance(round.image, bytes)
        questions.setdefault(round.image, []).append(round.question)
    return tuple(
        Example(f"Scene {number}", first, tuple(followups), image, "image/png")
        for number, (image, (first, *followups)) in enumerate(questions.items(), 1)
    )


def _listed(file: Path) -> Iterator[Example]:
    """Read the examples that a JSON file lists."""
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
    """Read a picture and check it and its questions, so that a mistake is reported before the server starts."""
    for text in (question, *followups):
        if text:
            normalise(text)
    if path.is_file() and path.stat().st_size > MAX_BYTES:
        raise UserError(f"{path} has more than {MAX_BYTES} bytes; shrink it")
    load_image(path)
    data = path.read_bytes()
    media_type = Image.open(io.BytesIO(data)).get_format_mimetype()  # of the data, whatever the file's name
    return Example(name or path.stem, question, followups, data, media_type or "application/octet-stream")
