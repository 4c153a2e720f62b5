"""Votes of several answers against one greedy answer: figures and time on held-out synthetic scenes.

Every setting answers the same questions with the shipped models; differences in gIoU are over pairs of the same
question, with 95 % intervals. The last setting lets the policy read its own attempts, which the shipped one has not
learnt to.

    OMP_NUM_THREADS=1 python -m benchmarks.votes [--questions 200] [--votes 4 8 16] [--own-attempts 8]
"""

import argparse
import time

from segzero.evaluation.compare import compare_runs
from segzero.evaluation.figures import summarise
from segzero.evaluation.predict import answer
from segzero.evaluation.scoring import Row
from segzero.pipeline import Pipeline, SegZeroPipeline
from segzero.sample import Sample
from segzero.several_answers import SeveralAnswersPipeline
from segzero.tiny.questions import HELD_OUT_SEED, make_samples
from segzero.votes import VoteSettings

AT_ONCE = 20  # questions in a batch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=200)
    parser.add_argument("--votes", type=int, nargs="*", default=[4, 8, 16])
    parser.add_argument("--own-attempts", type=int, default=8, help="0 leaves them out")
    parser.add_argument("--seed", type=int, default=HELD_OUT_SEED + 60)
    args = parser.parse_args()
    samples = make_samples(args.questions, args.seed)
    pair = SegZeroPipeline.from_pretrained(policy_backend="transformers")
    settings: dict[str, Pipeline] = {"greedy": pair}
    settings |= {f"{votes} votes": SeveralAnswersPipeline(pair, VoteSettings(votes)) for votes in args.votes}
    if args.own_attempts:
        settings[f"{args.own_attempts} own attempts"] = SeveralAnswersPipeline(pair, own_attempts=args.own_attempts)
    answer(pair, samples[:AT_ONCE])  # so that the first setting pays for no start
    greedy: list[Row] = []
    print("| answers | gIoU | difference to greedy | cIoU | N-acc | T-acc | unreadable | seconds a question |")
    print("|---|---|---|---|---|---|---|---|")
    for name, pipeline in settings.items():
        rows, seconds = timed(pipeline, samples)
        greedy = greedy or rows
        print(f"| {name} | {' | '.join(figures(rows, greedy))} | {seconds:.2f} |", flush=True)


def timed(pipeline: Pipeline, samples: list[Sample]) -> tuple[list[Row], float]:
    begin = time.perf_counter()
    batches = [samples[start : start + AT_ONCE] for start in range(0, len(samples), AT_ONCE)]
    rows = [row for batch in batches for _, row in answer(pipeline, batch)]
    return rows, (time.perf_counter() - begin) / len(samples)


def figures(rows: list[Row], greedy: list[Row]) -> list[str]:
    found = summarise(rows)["figures"]
    giou, ciou, n_acc, t_acc = (f"{found[name]['value']:.3f}" for name in ("giou", "ciou", "n_acc", "t_acc"))
    difference = "-"
    if rows is not greedy:
        change = compare_runs(greedy, rows)["figures"]["giou"]
        difference = f"{change['difference']:+.3f} ({change['low']:+.3f} to {change['high']:+.3f})"
    unreadable = sum(row.error is not None for row in rows)
    return [giou, difference, ciou, n_acc, t_acc, str(unreadable)]


if __name__ == "__main__":
    main()
