"""`segzero demo`: the shipped models answer questions about scenes they have not seen; pictures and figures."""

import time
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from segzero import tiny
from segzero.data.sample import Sample
from segzero.evaluation.metrics import Score, giou, score_masks
from segzero.files import png_bytes, write_atomically
from segzero.pipeline import SegZeroPipeline
from segzero.result import Segmentation

SHEET_COLUMNS = 2
SHEET_SIDE = 1600  # pixels, the width of the contact sheet


def run_demo(out: Path, count: int, seed: int, policy_backend: str, console: Console) -> None:
    """Ask one question about each of `count` held-out scenes; save panels, a contact sheet, and print the figures."""
    from segzero.tiny.questions import HELD_OUT_SEED, make_samples

    console.print("loading the shipped policy (Qwen2.5-VL) and segmenter (SAM2) ...")
    begin = time.perf_counter()
    pipeline = SegZeroPipeline.from_pretrained(tiny.policy_path(), tiny.segmenter_path(), policy_backend=policy_backend)
    samples = make_samples(count, HELD_OUT_SEED + 1 + seed)
    loaded = time.perf_counter()
    results = pipeline([sample.image for sample in samples], [sample.question for sample in samples])
    ended = time.perf_counter()

    scores = [_score(result, sample) for result, sample in zip(results, samples, strict=True)]
    panels = []
    for sample, result in zip(samples, results, strict=True):
        result.save(out, sample.id, ("panel", "json"))
        panels.append(result.panel())
    sheet = write_atomically(out / "demo.png", png_bytes(contact_sheet(panels)))

    console.print(_table(samples, results, scores))
    console.print(
        f"gIoU {giou(scores):.3f} on these {count} scenes; policy {pipeline.policy.name};"
        f" {loaded - begin:.0f} s to load, {ended - loaded:.1f} s for {count} questions"
    )
    console.print(f"look at {sheet}; one panel and one JSON file a scene lie beside it")


def contact_sheet(panels: list[Image.Image]) -> Image.Image:
    """Panels in rows on one white sheet, each shrunk to its column."""
    columns = min(SHEET_COLUMNS, len(panels))
    width = SHEET_SIDE // columns
    cells = [panel.resize((width, round(panel.height * width / panel.width))) for panel in panels]
    rows = [cells[i : i + columns] for i in range(0, len(cells), columns)]
    sheet = Image.new("RGB", (width * columns, sum(max(c.height for c in row) for row in rows)), "white")
    top = 0
    for row in rows:
        for column, cell in enumerate(row):
            sheet.paste(cell, (column * width, top))
        top += max(cell.height for cell in row)
    return sheet


def _score(result: Segmentation, sample: Sample) -> Score:
    return score_masks(result.union, sample.mask(), failed=result.error is not None)


def _table(samples: list[Sample], results: list[Segmentation], scores: list[Score]) -> Table:
    table = Table("question", "think-chain", "answer", "IoU", box=None, padding=(0, 2, 0, 0))
    for sample, result, score in zip(samples, results, scores, strict=True):
        boxes = " ".join(str(np.rint(found.box).astype(int).tolist()) for found in result.instances)
        answer = result.error or boxes or "nothing there"
        table.add_row(sample.question, escape(result.think), escape(answer), f"{score.iou:.2f}")
    return table
