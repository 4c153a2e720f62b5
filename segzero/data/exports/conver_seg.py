"""Export to ConverSeg's evaluation JSON: items.json with one mask per question, the union of its objects."""

from pathlib import Path
from typing import Any

from segzero.data.exports.pictures import Pictures
from segzero.data.readers.fields import plain
from segzero.errors import UserError
from segzero.io import write_atomically, write_json
from segzero.masks import decode, mask_png
from segzero.sample import Sample


class ConverSegExport:
    """Writer of images/, masks/ and items.json (or items_SPLIT.json), which the reader "converseg" reads."""

    def __init__(self, out: Path) -> None:
        self.out, self.pictures = out, Pictures(out / "images")
        self.items: dict[str, list[dict[str, Any]]] = {}

    def add(self, sample: Sample) -> None:
        """Add a question with its mask, which is black if nothing matches."""
        union = sample.mask()
        if union is None:
            raise UserError("ConverSeg needs a mask of each object")
        if sample.ignore is not None:
            raise UserError("ConverSeg has no ignored pixels")
        image = self.pictures.add(sample)
        mask = f"masks/{sum(map(len, self.items.values())):06}.png"
        write_atomically(self.out / mask, mask_png(decode(union)))
        item = {"id": sample.id, "image": f"images/{image}", "mask": mask, "prompt": sample.question}
        concept = {"concept": sample.concept} if sample.concept else {}
        self.items.setdefault(plain(sample.split), []).append(item | concept)

    def finish(self) -> None:
        """Write one file per split, whose name stands for ConverSeg's `dataset`."""
        for split, items in self.items.items():
            name = f"items_{split}.json" if len(self.items) > 1 else "items.json"
            write_json(self.out / name, {"dataset": split, "count": len(items), "items": items})
