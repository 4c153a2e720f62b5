"""Export to FiftyOne's dataset on disk: data/, samples.json and metadata.json, without a version number.

    fiftyone.Dataset.from_dir("out", dataset_type=fiftyone.types.FiftyOneDataset)

reads it; FiftyOne is not needed to write it. Each question about an image is a sample of its own, with the fields
`question` and `ground_truth`, its detections. A detection's box is relative to the image and must be the mask's own
box; the annotated box is the attribute `box`, in pixels.
"""

import base64
import io
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from segzero.data.exports.pictures import Pictures
from segzero.errors import UserError
from segzero.frames import Size
from segzero.io import write_json
from segzero.masks import Mask, box_of, decode
from segzero.sample import Object, Sample


class FiftyOneExport:
    """Writer of data/, samples.json and metadata.json."""

    def __init__(self, out: Path) -> None:
        self.out, self.pictures = out, Pictures(out / "data")
        self.samples: list[dict[str, Any]] = []
        self.labels: dict[str, None] = {}

    def add(self, sample: Sample) -> None:
        """Add a question with its detections; ignored pixels become a segmentation beside them."""
        label = sample.category or "object"
        detections = [_detection(true, label, sample.size) for true in sample.objects]
        entry: dict[str, Any] = {
            "filepath": f"data/{self.pictures.add(sample)}",
            "tags": [sample.split] if sample.split else [],
            "metadata": {"_cls": "ImageMetadata", "width": sample.width, "height": sample.height},
            "sample_id": sample.id,
            "question": sample.question,
            "concept": sample.concept,
            "source": sample.source,
            "ground_truth": {"_cls": "Detections", "detections": detections},
        }
        if sample.ignore is not None:
            entry["ignore"] = {
                "_cls": "Segmentation",
                "mask": _array(decode(sample.ignore, sample.size).astype(np.uint8)),
            }
        self.labels[label] = None
        self.samples.append(entry)

    def finish(self) -> None:
        """Write both JSON files, without a version number, so that FiftyOne infers the fields from the samples."""
        info = {"made_by": "segzero data export"}
        write_json(self.out / "metadata.json", {"media_type": "image", "info": info, "default_classes": [*self.labels]})
        write_json(self.out / "samples.json", {"samples": self.samples})


def _detection(true: Object, label: str, size: Size) -> dict[str, Any]:
    detection: dict[str, Any] = {"_cls": "Detection", "label": label, "box": list(true.box)}
    detection["points"] = [list(point) for point in true.points]
    box = true.box
    if true.rle is not None:
        mask = decode(true.rle, size)
        tight = box_of(mask)
        if tight is None:
            raise UserError("one of its masks has no pixels")
        left, top, right, bottom = (int(v) for v in tight)
        box, detection["mask"] = tight, _array(mask[top:bottom, left:right])
    (width, height), (x0, y0, x1, y1) = size, box
    detection["bounding_box"] = [x0 / width, y0 / height, (x1 - x0) / width, (y1 - y0) / height]
    return detection


def _array(mask: Mask | np.ndarray) -> dict[str, Any]:
    """An array as FiftyOne stores it: a compressed .npy file in MongoDB's JSON form of bytes."""
    file = io.BytesIO()
    np.save(file, mask, allow_pickle=False)
    return {"$binary": {"base64": base64.b64encode(zlib.compress(file.getvalue())).decode(), "subType": "00"}}
