"""Export to REFER's folders: refcoco/ for questions about one object, grefcoco/ for those about several or none.

Each has instances.json and its refs, with "segzero" as `splitBy`; the images are where REFER looks for them. Ignored
pixels can't be expressed.
"""

import pickle
from pathlib import Path
from typing import Any

from segzero.data.exports.pictures import Pictures
from segzero.errors import UserError
from segzero.io import write_atomically, write_json
from segzero.masks import coco_annotation
from segzero.sample import Sample

IMAGES = "images/mscoco/images/train2014"
NOTHING = -1  # gRefCOCO's ann_id and category_id of a question that nothing matches


class ReferExport:
    """Writer of refcoco/ and grefcoco/, which the readers "refer" and "grefcoco" read."""

    def __init__(self, out: Path) -> None:
        self.out, self.pictures = out, Pictures(out / IMAGES)
        self.refs: dict[str, list[dict[str, Any]]] = {"refcoco": [], "grefcoco": []}
        self.images: dict[str, dict[str, Any]] = {}
        self.categories: dict[str, int] = {}
        self.annotations: list[dict[str, Any]] = []

    def add(self, sample: Sample) -> None:
        """Add a sample as a ref with one sentence."""
        if sample.ignore is not None:
            raise UserError("REFER has no ignored pixels")
        regions = [coco_annotation(true.box, true.rle) for true in sample.objects]
        file_name = self.pictures.add(sample)
        new = {"id": len(self.images) + 1, "file_name": file_name, "width": sample.width, "height": sample.height}
        image = self.images.setdefault(file_name, new)["id"]
        category = self.categories.setdefault(sample.category or "object", len(self.categories) + 1)
        ids = []
        for region in regions:
            ids.append(len(self.annotations) + 1)
            self.annotations.append(region | {"id": ids[-1], "image_id": image, "category_id": category})
        many = len(ids) != 1
        number = sum(map(len, self.refs.values())) + 1
        sentence = {"sent_id": number, "sent": sample.question, "raw": sample.question}
        self.refs["grefcoco" if many else "refcoco"].append(
            {
                "ref_id": number,
                "ann_id": (ids or [NOTHING]) if many else ids[0],
                "image_id": image,
                "category_id": ([category] * len(ids) or [NOTHING]) if many else category,
                "file_name": file_name,
                "split": sample.split or "train",
                "sent_ids": [number],
                "sentences": [sentence | {"tokens": sample.question.split()}],
            }
        )

    def finish(self) -> None:
        """Write the refs, pickled for REFER, whose own tools read nothing else, and as JSON for gRefCOCO."""
        instances = {
            "images": list(self.images.values()),
            "annotations": self.annotations,
            "categories": [{"id": id, "name": name, "supercategory": ""} for name, id in self.categories.items()],
        }
        for folder, refs in self.refs.items():
            if refs:
                write_json(self.out / folder / "instances.json", instances)
        if self.refs["refcoco"]:
            write_atomically(self.out / "refcoco/refs(segzero).p", pickle.dumps(self.refs["refcoco"], protocol=2))
        if self.refs["grefcoco"]:
            write_json(self.out / "grefcoco/grefs(segzero).json", self.refs["grefcoco"])
