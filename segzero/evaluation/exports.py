"""Finished predictions as other systems' scripts and eyes expect them: ConverSeg's pictures, Seg-Zero's JSON."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from segzero.errors import UserError
from segzero.evaluation.artifacts import panel_of, result_of
from segzero.evaluation.benchmarks import Task
from segzero.evaluation.predictions import NOTHING_RIGHT, Predictions
from segzero.evaluation.scoring import places_unknown
from segzero.io import png_bytes, write_atomically
from segzero.masks import decode, mask_png
from segzero.sample import Sample

STEM = 100  # characters of a file's name that come from an id
_HASHED = re.compile(r"_[0-9a-f]{8}\Z")  # the end of a name that is not the id itself


def save_pictures(folder: Path, task: Task, predictions: Predictions) -> int:
    """ConverSeg's files for each sample: ID_pred.png, ID_gt.png, ID_orig.png, ID_panel.png and ID_prompt.txt.

    Where the truth has no masks there is no ID_gt.png; of an image that can't be read there is the prompt alone.
    """
    count = 0
    for item, prediction in predictions.pairs(task.read()):
        if not isinstance(item, Sample):
            continue
        name = file_stem(item.id)
        write_atomically(folder / f"{name}_prompt.txt", item.question.encode())
        try:
            result = result_of(item, prediction)
        except UserError:  # its image can't be read, as its line says
            continue
        write_atomically(folder / f"{name}_orig.png", png_bytes(result.image))
        write_atomically(folder / f"{name}_pred.png", mask_png(result.union))
        write_atomically(folder / f"{name}_panel.png", png_bytes(panel_of(item, prediction)))
        truth = item.mask()
        if truth is not None and not places_unknown(item):
            write_atomically(folder / f"{name}_gt.png", mask_png(decode(truth)))
        count += 1
    return count


def write_seg_zero(out: Path, task: Task, predictions: Predictions) -> Path:
    """output_0.json, as Seg-Zero's and VisionReasoner's calculate_*.py read it.

    Those leave failures other than unreadable answers out; here every sample is in.
    """
    lines: list[dict[str, Any]] = []
    for item, prediction in predictions.pairs(task.read()):
        row = prediction.row(item)
        meta = item.meta if isinstance(item, Sample) else {}
        line = {"image_id": meta.get("image_id", item.id), "ann_id": meta.get("ann_id", item.id)}
        line["think"] = prediction.think
        if row.true_count is not None:
            line |= {"pred_count": row.predicted_objects, "gt_count": row.true_count}
        if "cat_id" in meta and isinstance(item, Sample):
            for o in prediction.objects:
                x0, y0, x1, y1 = o.box
                share = (x1 - x0) * (y1 - y0) / (item.width * item.height)  # their score of a box
                lines.append(line | {"category_id": meta["cat_id"], "bbox": list(o.box), "score": share})
            continue
        score = row.published or row.score or (NOTHING_RIGHT if row.lost else None)
        if score is not None:
            found = float((row.any_box_iou or 0) > 0.5)  # they count boxes, and average that
            line |= {"intersection": score.intersection, "union": score.union, "bbox_iou": found}
        lines.append(line)
    return write_atomically(out / "output_0.json", json.dumps(lines, indent=2).encode())


def file_stem(id: str) -> str:
    """A file name for an id: the id itself where that is harmless, and never another's.

    >>> file_stem("val-17"), file_stem("../../etc/passwd"), file_stem("etc_passwd_3754d6cb")
    ('val-17', 'etc_passwd_3754d6cb', 'etc_passwd_3754d6cb_1f9e82c9')
    """
    plain = re.sub(r"[^A-Za-z0-9._-]+", "_", id).strip("._")[:STEM]
    if plain and plain == id and not _HASHED.search(id):
        return id
    return f"{plain}_{hashlib.sha256(id.encode()).hexdigest()[:8]}"
