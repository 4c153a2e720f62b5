"""What an evaluation leaves behind, made of its data and its predictions.jsonl alone.

run.json            the settings; a resume must have the same
predictions.jsonl   a line for each sample
scores.jsonl        what each sample adds to the figures, for `segzero eval compare`
metrics.json        the figures, with how they were made
report.html         one page to look at
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from segzero.data.preview import true_instances
from segzero.errors import UserError
from segzero.evaluation.benchmarks import Task
from segzero.evaluation.coco_ap import coco_ap
from segzero.evaluation.figures import summarise
from segzero.evaluation.html_report import facts_of, notable, write_page
from segzero.evaluation.metrics import Score
from segzero.evaluation.predictions import Prediction, Predictions
from segzero.evaluation.provenance import commit, versions
from segzero.evaluation.scoring import Row, places_unknown
from segzero.evaluation.typed import typed
from segzero.io import read_json, write_atomically, write_json
from segzero.masks import decode
from segzero.result import InstanceMask, Segmentation
from segzero.sample import Sample


def write_metrics(out: Path, task: Task, predictions: Predictions, settings: dict[str, Any]) -> dict[str, Any]:
    """Score every line against the data; metrics.json and scores.jsonl. Returns what is in metrics.json."""
    rows = list(predictions.rows(task.read()))
    write_rows(out / "scores.jsonl", rows)
    benchmark = task.benchmark
    metrics = {
        "benchmark": benchmark.name,
        **summarise(rows),
        "published": {model: dict(figures) for model, figures in benchmark.published.items()},
        "protocol": {
            **settings,
            "reader": benchmark.reader,
            "options": {**benchmark.options, **benchmark.keep},
            "limit": task.limit,
            **({"history": task.history} if task.history else {}),
            "level": benchmark.level,
            "ignored_pixels": benchmark.ignore,
            "note": benchmark.note,
            "commit": commit(),
            "versions": versions(),
        },
    }
    if benchmark.level == "category":
        metrics["average_precision"] = _average_precision(task, predictions)
    write_json(out / "metrics.json", metrics, indent=1)
    _write_report(out / "report.html", task, predictions, rows, metrics)
    return metrics


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """scores.jsonl: what the figures need of each sample."""
    write_atomically(path, b"".join(json.dumps(asdict(row)).encode() + b"\n" for row in rows))


def read_rows(out: Path) -> Iterator[Row]:
    """The rows of a finished evaluation."""
    path = out / "scores.jsonl"
    if not path.is_file():
        raise UserError(f"no finished evaluation in {out}: there is no {path.name}; `segzero eval rescore` makes it")
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                row = json.loads(line)
                for name in ("score", "published"):
                    row[name] = None if row[name] is None else typed(Score, row[name])
                for name in ("matched_masks", "matched_boxes"):
                    row[name] = None if row[name] is None else tuple(row[name])
                yield typed(Row, row)
            except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
                raise UserError(f"{path}, line {number}: it is no row of scores; run `segzero eval rescore`") from error


def read_run(out: Path) -> dict[str, Any]:
    """run.json: the settings that an evaluation was begun with."""
    path = out / "run.json"
    try:
        run = read_json(path, "what", "settings", "task")
        if not all(isinstance(part, dict) for part in run.values()):
            raise ValueError("its settings have no names")
        return run
    except FileNotFoundError:
        raise UserError(f"no evaluation in {out}: there is no run.json") from None
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {error}; evaluate into another --out") from error


def result_of(sample: Sample, prediction: Prediction) -> Segmentation:
    """The line as the pipeline gave it, to draw panels of."""
    image = sample.open()
    nothing = np.zeros((image.height, image.width), bool)
    found = tuple(
        InstanceMask(nothing if o.mask is None else decode(o.mask, image.size), o.box, o.points, o.score)
        for o in prediction.objects
    )
    return Segmentation(image, sample.question, found, prediction.think, prediction.raw_text, prediction.error, (), {})


def panel_of(sample: Sample, prediction: Prediction) -> Image.Image:
    """The question, the image, the answer and beside it the truth, where that is more than a count."""
    truth = None if places_unknown(sample) else true_instances(sample, sample.size)
    result = result_of(sample, prediction)
    earlier = [str(turn.get("question")) for turn in sample.turns if isinstance(turn, dict)]
    if earlier:  # what a question refers to is nothing to look at without them
        rounds = "; ".join(f"{number} {question}" for number, question in enumerate(earlier, 1))
        result = replace(result, question=f"{sample.question} (rounds before it: {rounds})")
    return result.panel(truth)


def _write_report(path: Path, task: Task, predictions: Predictions, rows: list[Row], metrics: dict[str, Any]) -> None:
    shown = {row.id for some in notable(rows).values() for row in some}
    panels = {}
    for item, prediction in predictions.pairs(task.read()):
        if item.id in shown and isinstance(item, Sample):
            panels[item.id] = panel_of(item, prediction)
    title = f"{metrics['benchmark']}, {task.history} history" if task.history else metrics["benchmark"]
    html = write_page(title, metrics, rows, panels, facts_of(metrics))
    write_atomically(path, html.encode("utf-8", "replace"))


def _average_precision(task: Task, predictions: Predictions) -> list[dict[str, Any]]:
    """Of the boxes with the score that VisionReasoner uses, and of boxes and masks with the segmenter's."""

    def pairs() -> Iterator[tuple[Sample, Any]]:
        for item, prediction in predictions.pairs(task.read()):
            if isinstance(item, Sample):
                yield item, () if prediction.error else prediction.objects

    with_masks = all(o.rle is not None for item in task.read() if isinstance(item, Sample) for o in item.objects)
    wanted = [("bbox", "area"), ("bbox", "segmenter"), *([("segm", "segmenter")] if with_masks else [])]
    return [coco_ap(pairs(), kind, score) for kind, score in wanted]
