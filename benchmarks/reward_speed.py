"""Scores per second on one core: every preset on answers with 3 objects (Seg-Zero's presets: with one).

With a checkout of Seg-Zero (`--published DIR`, the folder that holds its `verl/`), its own functions take turns with
ours on the same responses, and the table also shows their speed, the ratio, and how many scores differ. Times are CPU
time, so that other load on the machine matters little.

    OMP_NUM_THREADS=1 python -m benchmarks.reward_speed [--responses 500] [--rounds 15] [--published DIR]
"""

import argparse
import importlib.util
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import rewards
from segzero.answer import Answer, Instance, render_answer

OBJECTS = 3
PUBLISHED = {
    "seg_zero": ("seg", "seg_compute_score"),
    "seg_zero_strict": ("seg_restrict", "seg_strict_compute_score"),
    "vision_reasoner": ("vision_reasoner", "vision_reasoner_compute_score"),
}
THINK = (
    "The question asks for the red mugs. There are four mugs on the table, and one of them is blue. "
    "Two red ones stand on the left beside the kettle. The third is behind the plate, half hidden. "
    "The closest match are these three, so I mark each of them."
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--responses", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--published", type=Path, help="a checkout of Seg-Zero")
    args = parser.parse_args()

    print(f"{args.responses} responses, median of {args.rounds} rounds (slowest to fastest), scores per second")
    for preset in rewards.PRESETS:
        cases = make_cases(preset, args.responses)
        ours, theirs = [], []
        other = load_published(args.published, preset) if args.published else None
        for _ in range(args.rounds):
            ours.append(rate(lambda r, t, preset=preset: rewards.score(preset, r, t).total, cases))
            if other:
                theirs.append(rate(other, cases))
        line = f"{preset:16} {spread(ours)}"
        if other:
            ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
            different = sum(rewards.score(preset, r, t).total != other(r, t) for r, t in cases)
            line += f"   published {spread(theirs)}   ratio {statistics.median(ratios):.1f}x   {different} differ"
        print(line, flush=True)


def make_cases(preset: str, count: int) -> list[tuple[str, str]]:
    """Make responses with published solution strings; every second one is right, the others are off by some pixels."""
    rng = random.Random(0)
    single = preset.startswith("seg_zero")
    cases = []
    for number in range(count):
        truth = [_object(rng, 2 if single else 1) for _ in range(1 if single else OBJECTS)]
        answered = truth if number % 2 else [_moved(rng, instance) for instance in truth]
        if single:
            (x0, y0, x1, y1), ((px, py), (qx, qy)) = truth[0].box, truth[0].points
            solution = f"<box>({x0},{y0}),({x1},{y1})</box><points>({px},{py}),({qx},{qy})</points>"
        else:
            solution = render_answer(Answer(instances=tuple(truth))).split("<answer>")[1].removesuffix("</answer>")
        cases.append((render_answer(Answer(THINK, tuple(answered)), "seg_zero" if single else "multi"), solution))
    return cases


def _object(rng: random.Random, points: int) -> Instance:
    x, y, w, h = rng.randrange(600), rng.randrange(600), rng.randrange(40, 240), rng.randrange(40, 240)
    inside = ((x + rng.randrange(w), y + rng.randrange(h)) for _ in range(points))
    return Instance((x, y, x + w, y + h), tuple(inside))


def _moved(rng: random.Random, instance: Instance) -> Instance:
    dx, dy = rng.randint(-25, 25), rng.randint(-25, 25)
    x0, y0, x1, y1 = instance.box
    points = tuple((x + dx, y + dy) for x, y in instance.points)
    return Instance((x0 + dx, y0 + dy, x1 + dx, y1 + dy), points)


def load_published(checkout: Path, preset: str) -> Callable[[str, str], float] | None:
    """Load the published function from its file alone, as the package around it needs torch."""
    if preset not in PUBLISHED:
        return None
    file, name = PUBLISHED[preset]
    spec = importlib.util.spec_from_file_location(file, checkout / "verl" / "utils" / "reward_score" / f"{file}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, name)


def rate(function: Callable[[str, str], float], cases: list[tuple[str, str]]) -> float:
    begin = time.process_time()
    for response, truth in cases:
        function(response, truth)
    return len(cases) / (time.process_time() - begin)


def spread(rates: list[float]) -> str:
    return f"{statistics.median(rates):8,.0f} ({min(rates):,.0f} to {max(rates):,.0f})"


if __name__ == "__main__":
    main()
