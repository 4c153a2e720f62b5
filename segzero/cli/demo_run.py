"""The demo: the shipped policy answers, learns by reinforcement, and answers again; pictures and figures.

It runs the commands that a user would type, `segzero train` and `segzero merge`, and the pipeline before and after.
"""

import os
import subprocess
import sys
import time
from itertools import compress
from pathlib import Path
from statistics import mean

from PIL import Image
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from segzero.data.parquet import to_parquet
from segzero.errors import UserError
from segzero.evaluation.predictions import predicted_objects
from segzero.evaluation.scoring import score_sample
from segzero.io import png_bytes, write_atomically
from segzero.pipeline import SegZeroPipeline
from segzero.sample import Sample
from segzero.training import report
from segzero.training.report import Evaluated
from segzero.viz.panel import beside

SHEET_COLUMNS = 2
SHEET_SIDE = 1600  # pixels, the width of the contact sheet
TEST_SCENES, VALIDATION_SCENES = 200, 200  # held out: for the figures, and to choose the best training step by
BATCH = 16  # prompts per step, as configs/train.yaml has it
STALL_MINUTES = 10  # the longest that nothing happens on a laptop is half a minute
TEST_SEED, VALIDATION_SEED, TRAIN_SEED = 1, 50_001, 8_000  # the first two are added to HELD_OUT_SEED
STEPS, SKILL_STEPS = 100, 150
SKILL_SETTINGS = ("actor_rollout_ref.actor.optim.lr=2e-4",)


def run_demo(
    out: Path, shown: int, steps: int | None, seed: int, skill: str, policy_backend: str, console: Console
) -> None:
    """Ask, show `shown` answers, and unless `steps` is 0 train so many steps, ask again and write the report."""
    if steps is None:
        steps = SKILL_STEPS if skill else STEPS
    if steps:
        _refuse_to_mix(out)
    samples = _test_samples(max(TEST_SCENES, shown) if steps else shown, seed, skill)
    begin = time.monotonic()
    console.print("loading the shipped policy (Qwen2.5-VL) and segmenter (SAM2) ...")
    pipeline = SegZeroPipeline.from_pretrained(policy_backend=policy_backend)
    before = evaluate(pipeline, samples)
    show(out, samples[:shown], before, console)
    pipeline.policy.close()
    if not steps:
        return
    console.print(f"\nnow GRPO: {steps} steps of {BATCH} questions, 8 answers each, SAM2 in the reward\n")
    run, merged = learn_skill(out, skill, steps, seed) if skill else learn(out, steps, seed)
    minutes = (time.monotonic() - begin) / 60
    after = evaluate(SegZeroPipeline.from_pretrained(merged, policy_backend=policy_backend), samples)
    facts = {
        "training": f"{steps} steps of {BATCH} questions, 8 answers each; {minutes:.1f} min in all",
        "again": f"segzero demo --steps {steps} --seed {seed}" + (f" --skill {skill}" if skill else ""),
        "merged policy": str(merged),
        "configuration": str(run / "config.yaml"),
        "checkpoint": f"the best of the run by gIoU on {VALIDATION_SCENES} further scenes",
    }
    if skill:
        facts = _skill_facts(skill, samples, before, after) | facts
    page = write_report(out, run, before, after, facts, skill)
    console.print(_comparison(before, after))
    for name, value in facts.items() if skill else ():
        console.print(f"{name}: {value}")
    console.print(f"{(time.monotonic() - begin) / 60:.1f} min in all; look at {page}")


def _test_samples(count: int, seed: int, skill: str) -> list[Sample]:
    """Held-out questions; of a skill, in turns with those of known kinds."""
    from segzero.tiny.questions import HELD_OUT_SEED, make_samples
    from segzero.tiny.skills import mixed_samples

    test_seed = HELD_OUT_SEED + TEST_SEED + seed
    return mixed_samples(skill, count, test_seed) if skill else make_samples(count, test_seed)


def _skill_facts(skill: str, samples: list[Sample], before: Evaluated, after: Evaluated) -> dict[str, str]:
    """Lines for the report: what the skill is, and how often its shape is chosen."""
    from segzero.tiny.skills import SKILLS, chance, choices

    of_skill = [sample.category == skill for sample in samples]
    asked = list(compress(samples, of_skill))
    first, last = (mean(choices(compress(each.results, of_skill), asked)) for each in (before, after))
    blind = mean(chance(sample) for sample in asked)
    return {
        f"the skill, {skill}": f"{SKILLS[skill].meaning}; no supervision showed it",
        "the right shape chosen": f"{first:.3f} before, {last:.3f} after; {blind:.3f} by a blind choice",
    }


def write_report(
    out: Path, run: Path, before: Evaluated, after: Evaluated, facts: dict[str, str], skill: str = ""
) -> Path:
    """Write the page, the curves of the training, and pictures of the answers that changed most."""
    log = report.read_log(run)
    page = write_atomically(out / "report.html", report.write_report(before, after, log, facts, skill).encode())
    for name, drawing in report.curves(log, skill).items():
        write_atomically(out / f"{name}.svg", drawing.encode())
    for number, (_, place) in enumerate(report.most_changed(before, after)):
        pair = beside([answers.results[place].panel() for answers in (before, after)])
        write_atomically(out / f"change_{number}.png", png_bytes(pair))
    return page


def learn(out: Path, steps: int, seed: int, *overrides: str) -> tuple[Path, Path]:
    """Train the shipped policy on fresh scenes; returns the folders of the run and of the merged policy."""
    from segzero.tiny.questions import HELD_OUT_SEED, make_samples, make_training_samples

    training = make_training_samples(steps * BATCH, TRAIN_SEED + seed)
    validation = make_samples(VALIDATION_SCENES, HELD_OUT_SEED + VALIDATION_SEED + seed)
    return train(out, training, validation, steps, seed, "mask", *overrides)


def learn_skill(out: Path, skill: str, steps: int, seed: int, *overrides: str) -> tuple[Path, Path]:
    """Train the shipped policy on a skill and, in turns, on what it knows; returns the same folders as `learn`."""
    from segzero.tiny.questions import HELD_OUT_SEED
    from segzero.tiny.skills import TRAINING_THINNING, mixed_samples

    training = mixed_samples(skill, steps * BATCH, TRAIN_SEED + seed, TRAINING_THINNING)
    validation = mixed_samples(skill, VALIDATION_SCENES, HELD_OUT_SEED + VALIDATION_SEED + seed)
    return train(out, training, validation, steps, seed, "mask", *SKILL_SETTINGS, *overrides)


def train(
    out: Path, training: list[Sample], validation: list[Sample], steps: int, seed: int, reward: str, *overrides: str
) -> tuple[Path, Path]:
    """Run `segzero train` and `segzero merge`; the step of the run that validates best is the one merged."""
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
        f"segzero.stall_minutes={STALL_MINUTES}",
        *overrides,
        DATA=str(data),
    )
    best = checkpoints.best(run)
    step = best["step"] if best else steps
    _segzero("merge", str(checkpoints.folder(run, step)), "--out", str(merged), "--dtype", "float32")
    return run, merged


def evaluate(pipeline: SegZeroPipeline, samples: list[Sample]) -> Evaluated:
    """Ask for greedy answers and score them."""
    results = pipeline([sample.image for sample in samples], [sample.question for sample in samples])
    pairs = zip(results, samples, strict=True)
    return Evaluated(
        results, [score_sample(sample, predicted_objects(result), result.error) for result, sample in pairs]
    )


def show(out: Path, samples: list[Sample], answers: Evaluated, console: Console) -> None:
    """Write panels, JSON files and a contact sheet, and print a table."""
    results = answers.results[: len(samples)]
    table = Table("question", "think-chain", "answer", "IoU", box=None, padding=(0, 2, 0, 0))
    for place, (sample, result) in enumerate(zip(samples, results, strict=True)):
        result.save(out, sample.id, ("panel", "json"))
        boxes = " ".join(str([round(v) for v in mask.box]) for mask in result.instances)
        answer = result.error or boxes or "nothing there"
        table.add_row(sample.question, escape(result.think), escape(answer), f"{answers.iou(place):.2f}")
    sheet = write_atomically(out / "demo.png", png_bytes(contact_sheet([result.panel() for result in results])))
    console.print(table)
    console.print(f"gIoU {answers.figures['gIoU']:.3f} over {len(answers.rows)} held-out scenes; look at {sheet}")


def contact_sheet(panels: list[Image.Image]) -> Image.Image:
    """Lay panels out in rows on one white sheet, each shrunk to its column."""
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
    """Run a `segzero` command in a process of its own; the user reads its output."""
    done = subprocess.run([sys.executable, "-m", "segzero", *arguments], env=os.environ | environment)
    if done.returncode:
        raise UserError(f"`segzero {arguments[0]}` ended with exit code {done.returncode}; its output is above")


def _comparison(before: Evaluated, after: Evaluated) -> Table:
    table = Table(f"{len(after.rows)} held-out scenes", *report.COMPARED, box=None, padding=(0, 2, 0, 0))
    for line in report.comparison(before, after):
        table.add_row(*line)
    return table
