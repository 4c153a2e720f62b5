"""FiftyOne's dataset on disk: data/, samples.json and metadata.json, in the form without a version number.

    fiftyone.Dataset.from_dir("out", dataset_type=fiftyone.types.FiftyOneDataset)

reads it, and FiftyOne itself need not be here. Each question about an image is a sample of its own, `question` a
field, `ground_truth` its detections. Boxes are shares of the image; a mask fills its detection's box, so that box is
the mask's, and the annotated one is the attribute `box`, in pixels.
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
    """data/, samples.json, metadata.json."""

    def __init__(self, out: Path) -> None:
        self.out, self.pictures = out, Pictures(out / "data")
        self.samples: list[dict[str, Any]] = []
        self.labels: dict[str, None] = {}

    def add(self, sample: Sample) -> None:
        """Ignored pixels are a segmentation beside the detections."""
        label = sample.category or "object"
        found = [_detection(true, label, sample.size) for true in sample.objects]
        about: dict[str, Any] = {
            "filepath": f"data/{self.pictures.add(sample)}",
            "tags": [sample.split] if sample.split else [],
            "metadata": {"_cls": "ImageMetadata", "width": sample.width, "height": sample.height},
            "sample_id": sample.id,
            "question": sample.question,
            "concept": sample.concept,
            "source": sample.source,
            "ground_truth": {"_cls": "Detections", "detections": found},
        }
        if sample.ignore is not None:
            about["ignore"] = {
                "_cls": "Segmentation",
                "mask": _array(decode(sample.ignore, sample.size).astype(np.uint8)),
            }
        self.labels[label] = None
        self.samples.append(about)

    def finish(self) -> None:
        """No version number: FiftyOne then takes the fields from the samples."""
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
    """An array as FiftyOne stores it: NumPy's own file, compressed, as MongoDB's JSON for bytes."""
    file = io.BytesIO()
    np.save(file, mask, allow_pickle=False)
    return {"$binary": {"base64": base64.b64encode(zlib.compress(file.getvalue())).decode(), "subType": "00"}}
