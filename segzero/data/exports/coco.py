"""Export to COCO's instances file: each question is a category, as in the pipeline's own COCO output.

If there are several splits, each has a file instances_SPLIT.json. Ignored pixels become a crowd annotation. Questions
that nothing matches are listed in the image's `neg_category_ids`, as in LVIS.
"""

from pathlib import Path
from typing import Any

from segzero.data.exports.pictures import Pictures
from segzero.data.readers.fields import plain
from segzero.errors import UserError
from segzero.io import write_json
from segzero.masks import coco_annotation
from segzero.sample import Sample


class CocoExport:
    """Writer of images/ and instances.json, which the reader "coco" reads."""

    def __init__(self, out: Path) -> None:
        self.out, self.pictures = out, Pictures(out / "images")
        self.categories: dict[str, dict[str, Any]] = {}
        self.images: dict[tuple[str, str], list[dict[str, Any]]] = {}  # (split, file) -> entries, mostly one
        self.categories_of: dict[int, set[int]] = {}  # image id -> ids of its questions' categories
        self.annotations: list[dict[str, Any]] = []

    def add(self, sample: Sample) -> None:
        """Add the objects as annotations whose category is the question."""
        if sample.empty and sample.ignore is not None:
            raise UserError("COCO has no question about ignored pixels alone")
        objects = [coco_annotation(true.box, true.rle) for true in sample.objects]
        if sample.ignore is not None:
            objects.append(coco_annotation(None, sample.ignore, crowd=True))
        file_name = self.pictures.add(sample)
        new = {"id": len(self.categories) + 1, "name": sample.question, "supercategory": sample.category}
        category = self.categories.setdefault(sample.question, new)["id"]
        image = self._image(sample, file_name, category)
        for annotation in objects:
            place = {"id": len(self.annotations) + 1, "image_id": image["id"], "category_id": category}
            self.annotations.append(place | annotation)
        if sample.empty:
            image.setdefault("neg_category_ids", []).append(category)

    def finish(self) -> None:
        """Write one file per split, with only its own categories and annotations."""
        splits = sorted({split for split, _ in self.images})
        for split in splits:
            images = [image for (part, _), entries in self.images.items() if part == split for image in entries]
            ids = {image["id"] for image in images}
            used = {category for id in ids for category in self.categories_of[id]}
            write_json(
                self.out / (f"instances_{split}.json" if len(splits) > 1 else "instances.json"),
                {
                    "images": images,
                    "annotations": [a for a in self.annotations if a["image_id"] in ids],
                    "categories": [c for c in self.categories.values() if c["id"] in used],
                },
            )

    def _image(self, sample: Sample, file_name: str, category: int) -> dict[str, Any]:
        """The image's entry, or another one for the same file if this one has the same question already."""
        entries = self.images.setdefault((plain(sample.split), file_name), [])
        for entry in entries:
            if category not in self.categories_of[entry["id"]]:
                break
        else:
            entry = {
                "id": len(self.categories_of) + 1,
                "file_name": file_name,
                "width": sample.width,
                "height": sample.height,
            }
            entries.append(entry)
        self.categories_of.setdefault(entry["id"], set()).add(category)
        return entry
