"""`segzero demo`: the shipped policy answers, learns by reinforcement, and answers again; pictures and figures.

Everything in it is what a user would type: `segzero train`, `segzero merge`, and the pipeline before and after.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from segzero import shipped
from segzero.data.parquet import to_parquet
from segzero.errors import UserError
from segzero.evaluation.predictions import predicted
from segzero.evaluation.scoring import score_sample
from segzero.io import png_bytes, write_atomically
from segzero.pipeline import SegZeroPipeline
from segzero.sample import Sample
from segzero.training import report
from segzero.training.report import Evaluated
from segzero.viz.panel import beside

SHEET_COLUMNS = 2
SHEET_SIDE = 1600  # pixels, the width of the contact sheet
TESTED, VALIDATED = 200, 200  # held-out scenes: for the figures, and for the training to choose its best step by
BATCH = 16  # prompts a step, as configs/train.yaml has it
TEST_SEED, VALIDATION_SEED, TRAIN_SEED = 1, 50_001, 8_000  # the first two above those of held-out scenes


def run_demo(out: Path, shown: int, steps: int, seed: int, policy_backend: str, console: Console) -> None:
    """Ask, show `shown` answers, and unless `steps` is 0 train so many steps, ask again and write the report."""
    from segzero.tiny.questions import HELD_OUT_SEED, make_samples

    if steps:
        _refuse_to_mix(out)
    begin = time.monotonic()
    console.print("loading the shipped policy (Qwen2.5-VL) and segmenter (SAM2) ...")
    pipeline = SegZeroPipeline.from_pretrained(
        shipped.policy_path(), shipped.segmenter_path(), policy_backend=policy_backend
    )
    samples = make_samples(max(TESTED, shown) if steps else shown, HELD_OUT_SEED + TEST_SEED + seed)
    before = evaluate(pipeline, samples)
    show(out, samples[:shown], before, console)
    pipeline.policy.close()
    if not steps:
        return
    console.print(f"\nnow GRPO: {steps} steps of {BATCH} questions, 8 answers each, SAM2 in the reward\n")
    run, merged = learn(out, steps, seed)
    trained = time.monotonic()
    pipeline = SegZeroPipeline.from_pretrained(merged, shipped.segmenter_path(), policy_backend=policy_backend)
    after = evaluate(pipeline, samples)
    facts = {
        "training": f"{steps} steps of {BATCH} questions, 8 answers each; {(trained - begin) / 60:.1f} min in all",
        "again": f"segzero demo --steps {steps} --seed {seed}",
        "merged policy": str(merged),
        "configuration": str(run / "config.yaml"),
        "checkpoint": f"the best of the run by gIoU on {VALIDATED} further scenes",
    }
    log = report.read_log(run)
    page = write_atomically(out / "report.html", report.write_report(before, after, log, facts).encode())
    for name, drawing in report.curves(log).items():
        write_atomically(out / f"{name}.svg", drawing.encode())
    for number, (_, place) in enumerate(report.most_changed(before, after)):
        pair = beside([each.results[place].panel() for each in (before, after)])
        write_atomically(out / f"change_{number}.png", png_bytes(pair))
    console.print(_comparison(before, after))
    console.print(f"{(time.monotonic() - begin) / 60:.1f} min in all; look at {page}")


def learn(out: Path, steps: int, seed: int) -> tuple[Path, Path]:
    """Train the shipped policy on fresh scenes; the folders of the run and of the merged policy."""
    from segzero.tiny.questions import HELD_OUT_SEED, make_samples, make_training_samples

    training = make_training_samples(steps * BATCH, TRAIN_SEED + seed)
    return train(out, training, make_samples(VALIDATED, HELD_OUT_SEED + VALIDATION_SEED + seed), steps, seed, "mask")


def train(
    out: Path, training: list[Sample], validation: list[Sample], steps: int, seed: int, reward: str, *overrides: str
) -> tuple[Path, Path]:
    """`segzero train` and `segzero merge`; the run's step that does best in validation is the one merged."""
    from segzero.training import checkpoints

    _refuse_to_mix(out)
    data, run, merged = out / "scenes", out / "run", out / "merged"
    to_parquet(training, data / "train.parquet")
    to_parquet(validation, data / "val.parquet")
    _segzero(
        "train",
        f"reward={reward}",
        f"data.train_batch_size={BATCH}",
        f"data.seed={seed}",
        f"trainer.default_local_dir={run}",
        f"trainer.total_training_steps={steps}",
        f"trainer.test_freq={max(1, steps // 5)}",
        f"trainer.save_freq={steps}",
        *overrides,
        DATA=str(data),
    )
    best = checkpoints.best(run)
    step = best["step"] if best else steps
    _segzero("merge", str(checkpoints.folder(run, step)), "--out", str(merged), "--dtype", "float32")
    return run, merged


def evaluate(pipeline: SegZeroPipeline, samples: list[Sample]) -> Evaluated:
    """Greedy answers and their scores."""
    results = pipeline([sample.image for sample in samples], [sample.question for sample in samples])
    pairs = zip(results, samples, strict=True)
    return Evaluated(results, [score_sample(sample, predicted(result), result.error) for result, sample in pairs])


def show(out: Path, samples: list[Sample], answers: Evaluated, console: Console) -> None:
    """Panels and JSON files, a contact sheet, a table."""
    results = answers.results[: len(samples)]
    table = Table("question", "think-chain", "answer", "IoU", box=None, padding=(0, 2, 0, 0))
    for place, (sample, result) in enumerate(zip(samples, results, strict=True)):
        result.save(out, sample.id, ("panel", "json"))
        boxes = " ".join(str(np.rint(found.box).astype(int).tolist()) for found in result.instances)
        answer = result.error or boxes or "nothing there"
        table.add_row(sample.question, escape(result.think), escape(answer), f"{answers.iou(place):.2f}")
    sheet = write_atomically(out / "demo.png", png_bytes(contact_sheet([result.panel() for result in results])))
    console.print(table)
    console.print(f"gIoU {answers.figures['gIoU']:.3f} over {len(answers.rows)} held-out scenes; look at {sheet}")


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


def _refuse_to_mix(out: Path) -> None:
    for folder in (out / "run", out / "merged"):
        if folder.exists():
            raise UserError(f"{folder} is there already, from an earlier training; choose another --out or remove it")


def _segzero(*arguments: str, **environment: str) -> None:
    """A `segzero` command in a process of its own; whatever it says is the user's to read."""
    done = subprocess.run([sys.executable, "-m", "segzero", *arguments], env=os.environ | environment)
    if done.returncode:
        raise UserError(f"`segzero {arguments[0]}` ended with exit code {done.returncode}; what it said stands above")


def _comparison(before: Evaluated, after: Evaluated) -> Table:
    table = Table(f"{len(after.rows)} held-out scenes", *report.COMPARED, box=None, padding=(0, 2, 0, 0))
    for line in report.comparison(before, after):
        table.add_row(*line)
    return table
