"""Answers that people flagged, as lines of FOLDER/flags.jsonl; `segzero data prepare --format flags` reads them.

Each line holds the round as it stood, its question and those before it, its objects, and the person's verdict and
note. The image is stored once for all its lines, as images/HASH.png. Nothing identifies the person.
"""

import hashlib
import json
import logging
import threading
import time
from pathlib import Path
from typing import Any

from PIL import Image

from segzero.dialogue import Registry, Round
from segzero.errors import UserError
from segzero.images import pixels_key
from segzero.io import append_line, png_bytes, sync, write_atomically
from segzero.serving.errors import ApiError

FILE = "flags.jsonl"
IMAGES = "images"
log = logging.getLogger("segzero.serving")


class FeedbackStore:
    """A folder of flagged answers that grows up to `limit` bytes; for any number of threads of one process."""

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder, limit
        self._lock = threading.Lock()
        try:
            (folder / IMAGES).mkdir(parents=True, exist_ok=True)
            append_line(folder / FILE, b"")
            sync(folder)
            self._held = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        except OSError as error:
            raise UserError(f"cannot keep flags in {folder}: {error.strerror or error}") from error

    def add(self, image: Image.Image, registry: Registry, number: int, feedback: dict[str, str]) -> None:
        """Store a round and the feedback on it: verdict, note, and the names of the models."""
        round = registry.round(number)
        name = f"{IMAGES}/{pixels_key(image)}.png"
        answer = {"image": name, "width": image.width, "height": image.height, **_answer(registry, round)}
        # An answer has the same id whenever it is flagged: readers use the last line about it.
        key = hashlib.sha256(json.dumps(answer).encode()).hexdigest()[:24]
        when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        line = (json.dumps({"id": key, "time": when, **feedback, **answer}, allow_nan=False) + "\n").encode()
        with self._lock:
            picture = b"" if (self.folder / name).exists() else png_bytes(image)
            if self._held + len(picture) + len(line) > self.limit:
                raise ApiError(507, "flags_full", "there is no room for more flags; tell whoever runs this server")
            try:
                if picture:
                    write_atomically(self.folder / name, picture)
                append_line(self.folder / FILE, line)
            except (OSError, UserError) as error:
                log.error("a flag is lost", extra={"fields": {"why": str(error)}})
                message = "the flag could not be written; tell whoever runs this server"
                raise ApiError(507, "flags_unwritable", message) from error
            self._held += len(picture) + len(line)


def _answer(registry: Registry, round: Round) -> dict[str, Any]:
    names = ("question", "state", "error", "think", "raw_text")
    return {name: getattr(round, name) for name in names} | {
        "turns": list(Registry(registry.size, registry.rounds[: round.number - 1]).turns),
        "objects": [
            {"box": list(region.box), "points": [list(point) for point in region.inside], "rle": region.rle}
            for region in round.regions
        ],
    }
