"""Finished evaluations in the files of other projects: ConverSeg's pictures, the JSON of Seg-Zero's scripts."""

import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from PIL import Image

from segzero.errors import UserError
from segzero.evaluation.benchmarks import Record
from segzero.evaluation.html_report import answer_panel
from segzero.evaluation.predictions import UNKNOWN_TRUTH, Prediction, Predictions
from segzero.evaluation.scoring import Row, is_count_alone
from segzero.io import png_bytes, write_atomically
from segzero.masks import RLE, Mask, decode, mask_png
from segzero.sample import Sample

STEM = 100  # characters of a file's name that come from an id
_HASHED = re.compile(r"_[0-9a-f]{8}\Z")  # end of a name that is not the id itself


def save_pictures(folder: Path, records: Iterable[Record], predictions: Predictions) -> int:
    """Write ConverSeg's files for each sample: ID_pred.png, ID_gt.png, ID_orig.png, ID_panel.png and ID_prompt.txt.

    Where the truth has no masks there is no ID_gt.png; of an image that can't be read there is the prompt alone.
    Returns the number of samples with pictures.
    """
    count = 0
    for record in records:
        if not isinstance(record, Sample):
            continue
        name = file_stem(record.id)
        write_atomically(folder / f"{name}_prompt.txt", record.question.encode())
        prediction = predictions.find(record)
        try:
            result = prediction.result(record, record.open())
        except UserError:  # its image can't be read, as the prediction says
            continue
        truth = None if is_count_alone(record) else record.mask()
        write_pictures(folder / name, result.image, result.union, truth, answer_panel(record, result))
        count += 1
    return count


def write_pictures(stem: Path, image: Image.Image, mask: Mask, truth: RLE | None, panel: Image.Image) -> None:
    """Write ConverSeg's pictures of a sample, without that of the truth if it is None."""
    for end, picture in (("orig", png_bytes(image)), ("pred", mask_png(mask)), ("panel", png_bytes(panel))):
        write_atomically(stem.with_name(f"{stem.name}_{end}.png"), picture)
    if truth is not None:
        write_atomically(stem.with_name(f"{stem.name}_gt.png"), mask_png(decode(truth)))


def write_seg_zero(out: Path, records: Iterable[Record], predictions: Predictions, rows: Iterable[Row]) -> Path:
    """Write output_0.json, as Seg-Zero's and VisionReasoner's calculate_*.py read it; `rows` as in scores.jsonl.

    Their own files leave out failures other than unreadable answers; here every sample is in.
    """
    row_of = {row.id: row for row in rows}
    lines: list[dict[str, Any]] = []
    for record in records:
        prediction = predictions.find(record)
        lines += _seg_zero_lines(record, prediction, row_of[record.id])
    return write_atomically(out / "output_0.json", json.dumps(lines, indent=2).encode())


def _seg_zero_lines(record: Record, prediction: Prediction, row: Row) -> list[dict[str, Any]]:
    """Entries of one sample: one, or one per predicted object where the sample asks for a category of COCO."""
    meta = record.meta if isinstance(record, Sample) else {}
    line = {"image_id": meta.get("image_id", record.id), "ann_id": meta.get("ann_id", record.id)}
    line["think"] = prediction.think
    if row.true_count is not None:
        line |= {"pred_count": row.predicted_objects, "gt_count": row.true_count}
    if "cat_id" in meta and isinstance(record, Sample):
        image_area = record.width * record.height
        return [
            line | {"category_id": meta["cat_id"], "bbox": list(o.box), "score": _box_area(o.box) / image_area}
            for o in prediction.objects
        ]
    score = row.published or row.score or (UNKNOWN_TRUTH if row.lost else None)
    if score is not None:
        box_is_right = float((row.any_box_iou or 0) > 0.5)  # they count boxes, and average that
        line |= {"intersection": score.intersection, "union": score.union, "bbox_iou": box_is_right}
    return [line]


def _box_area(box: tuple[float, float, float, float]) -> float:
    x0, y0, x1, y1 = box
    return (x1 - x0) * (y1 - y0)


def file_stem(id: str) -> str:
    """A file name for an id: the id itself where that is harmless, and never that of another id.

    >>> file_stem("val-17"), file_stem("../../etc/passwd"), file_stem("etc_passwd_3754d6cb")
    ('val-17', 'etc_passwd_3754d6cb', 'etc_passwd_3754d6cb_1f9e82c9')
    """
    plain = re.sub(r"[^A-Za-z0-9._-]+", "_", id).strip("._")[:STEM]
    if plain and plain == id and not _HASHED.search(id):
        return id
    return f"{plain}_{hashlib.sha256(id.encode()).hexdigest()[:8]}"
