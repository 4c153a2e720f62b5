"""Gain of GRPO in the later rounds of dialogues: the shipped policy before and after, on held-out dialogues.

Training uses the second and third rounds of dialogues about synthetic scenes, a part of them after the policy's own
answers to the earlier rounds, and rewards masks and citations of the reference. The figures are the IoU of matched
boxes, with true and with predicted history. Chance is a random shape of the scene, or a repetition of the objects
referred to, whichever scores more.

    python -m benchmarks.dialogues [--seeds 1] [--steps 60] [--conversations 150] [--own 0.25] [--out FOLDER]
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rewards import Case
from rewards.citations import cites
from rewards.matching import matched_iou
from segzero import shipped
from segzero.cli.demo_run import BATCH, train
from segzero.dialogue.prompting import sample_prompt
from segzero.evaluation.predict import HISTORIES, TRUE, answer
from segzero.evaluation.predictions import Prediction
from segzero.evaluation.statistics import bootstrap
from segzero.pipeline import SegZeroPipeline
from segzero.sample import Sample
from segzero.tiny.dialogues import make_dialogues
from segzero.tiny.evaluate import chance_score
from segzero.tiny.policy import FRAME
from segzero.tiny.questions import HELD_OUT_SEED

TEST_SEED, VALIDATION_SEED, TRAIN_SEED = 2, 60_001, 20_000  # the first two above that of held-out scenes
VALIDATED = 75  # dialogues


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--steps", type=int, default=60, help="training steps; 0 measures the shipped policy alone")
    parser.add_argument("--conversations", type=int, default=150)
    parser.add_argument("--own", type=float, default=0.25, help="data.own_history")
    parser.add_argument("--out", type=Path, default=None, help="keep runs and merged policies here")
    options = parser.parse_args()
    rounds = make_dialogues(options.conversations, HELD_OUT_SEED + TEST_SEED)
    before = measure(shipped.policy_path(), rounds)
    report("before", rounds, before)
    with tempfile.TemporaryDirectory() as temporary:
        for seed in range(options.first, options.first + options.seeds) if options.steps else ():
            begin = time.monotonic()
            dialogues = -(-options.steps * BATCH // 2)  # each has two later rounds, seldom one
            training = later(make_dialogues(dialogues + dialogues // 10, TRAIN_SEED + seed))
            _, merged = train(
                (options.out or Path(temporary)) / f"seed_{seed}",
                training[: options.steps * BATCH],
                later(make_dialogues(VALIDATED, HELD_OUT_SEED + VALIDATION_SEED + seed)),
                options.steps,
                seed,
                "dialogue",
                f"data.own_history={options.own}",
            )
            after = measure(merged, rounds)
            report(f"seed {seed}, {(time.monotonic() - begin) / 60:.1f} min", rounds, after, before)


def later(rounds: Sequence[Sample]) -> list[Sample]:
    """Leave out the first rounds, which are single questions."""
    return [sample for sample in rounds if sample.turns]


def measure(policy: Path, rounds: Sequence[Sample]) -> dict[str, list[Prediction]]:
    """Answer greedily with each history."""
    pipeline = SegZeroPipeline.from_pretrained(policy, shipped.segmenter_path(), policy_backend="transformers")
    return {history: [prediction for prediction, _ in answer(pipeline, rounds, history)] for history in HISTORIES}


def report(
    name: str,
    rounds: Sequence[Sample],
    after: dict[str, list[Prediction]],
    before: dict[str, list[Prediction]] | None = None,
) -> None:
    """Print a table with a row per round and kind and columns per history, then the gains."""
    print(f"\n{name}")
    numbers = np.array([sample.meta["round"] for sample in rounds])
    kinds = np.array([sample.category for sample in rounds])
    dialogues = np.array([sample.meta["dialogue"] for sample in rounds])
    later, second = numbers > 1, numbers == 2
    scores = {history: scores_of(rounds, predictions) for history, predictions in after.items()}
    chances = {history: chances_of(rounds, predictions) for history, predictions in after.items()}
    chosen = {f"round {number}": numbers == number for number in sorted(set(numbers.tolist()))}
    chosen |= {f"  {kind}, later": (kinds == kind) & later for kind in sorted(set(kinds[later].tolist()))}
    print(f"{'':20}" + "".join(f"{history + ' history':>20}{'chance':>10}" for history in scores) + f"{'of':>6}")
    for label, where in chosen.items():
        cells = "".join(f"{scores[each][where].mean():20.3f}{chances[each][where].mean():10.3f}" for each in scores)
        print(f"{label:20}{cells}{where.sum():6}")
    for history, values in scores.items():
        above = (values - chances[history])[second]
        print(f"round 2 above chance, {history} history: {with_spread(above, dialogues[second])}")
        if before is not None:
            gain = (values - scores_of(rounds, before[history]))[later]
            print(f"later rounds gained, {history} history: {with_spread(gain, dialogues[later])}")
    cited = [citation(*pair) for pair in zip(rounds, after[TRUE], strict=True) if pair[0].turns]
    print(f"references cited: {np.mean(cited):.3f}", flush=True)


def scores_of(rounds: Sequence[Sample], predictions: Sequence[Prediction]) -> np.ndarray:
    """Score predictions, [N]."""
    return np.array([score(*pair) for pair in zip(rounds, predictions, strict=True)])


def chances_of(rounds: Sequence[Sample], predictions: Sequence[Prediction]) -> np.ndarray:
    """Chance of each round, [N]; for an empty truth, how often the policy answers wrongly that nothing is there."""
    pairs = zip(rounds, predictions, strict=True)
    empty = [not prediction.error and not prediction.objects for sample, prediction in pairs if not sample.empty]
    return np.array([np.mean(empty) if sample.empty else chance_score(sample) for sample in rounds])


def score(sample: Sample, prediction: Prediction) -> float:
    """IoU of matched boxes; 0 for an unreadable answer."""
    return (
        0.0 if prediction.error else matched_iou([o.box for o in prediction.objects], [o.box for o in sample.objects])
    )


def citation(sample: Sample, prediction: Prediction) -> float:
    """The value of the reward's citation term for the chain of thought."""
    return cites(
        Case.of_sample(prediction.raw_text, sample, frame=FRAME, prompt_boxes=sample_prompt(sample, FRAME).boxes)
    )


def with_spread(values: np.ndarray, dialogues: np.ndarray) -> str:
    """Mean and 95 % interval by bootstrap over whole dialogues, as the rounds of one depend on each other."""
    _, place = np.unique(dialogues, return_inverse=True)
    sums = bootstrap(np.stack([np.bincount(place, values), np.bincount(place)], axis=1))
    low, high = np.quantile(sums[:, 0] / sums[:, 1], [0.025, 0.975])
    return f"{values.mean():+.3f} ({low:+.3f} to {high:+.3f})"


if __name__ == "__main__":
    main()
