"""Programs against the shipped policy on compositional questions about held-out scenes, with intervals.

The same samples are answered by the policy alone, by programs that find each noun by its phrase (`by_phrase`), and by
programs that also measure colour and form (`by_measures`, what `--program-writer scenes` writes). Printed are the gIoU
of each kind of question, the difference from the policy with its 95 % interval, and failures.

    python -m benchmarks.programs --samples 300
"""

import argparse
import time
from collections import Counter
from collections.abc import Sequence

from segzero.evaluation.compare import compare_runs
from segzero.evaluation.figures import summarise
from segzero.evaluation.predict import answer
from segzero.evaluation.scoring import Row
from segzero.pipeline import Pipeline, SegZeroPipeline
from segzero.programs import ProgramWriter
from segzero.programs.pipeline import ProgramPipeline
from segzero.sample import Sample
from segzero.segmenter.everything import PRESETS
from segzero.tiny.compositional import COMPOSITIONS, compositional_samples
from segzero.tiny.scene_files import COMPOSITIONAL_SEED
from segzero.tiny.scripted_writer import ScriptedWriter, by_measures, by_phrase

WRITERS = {"programs by phrase": by_phrase, "programs with measures": by_measures}
BATCH = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=300)
    parser.add_argument("--seed", type=int, default=COMPOSITIONAL_SEED)
    options = parser.parse_args()
    samples = compositional_samples(options.samples, options.seed)
    pipeline = SegZeroPipeline.from_pretrained(policy_backend="transformers")
    policy = report("policy", pipeline, samples)
    for name, group in WRITERS.items():
        with ScriptedWriter(group=group).running() as served:
            programs = ProgramPipeline(pipeline, ProgramWriter(served.url), PRESETS["scenes"])
            rows = report(name, programs, samples)
        change = compare_runs(policy, rows)["figures"]["giou"]
        interval = f"{change['low']:+.3f} to {change['high']:+.3f}"
        print(f"{name}: {change['difference']:+.3f} gIoU against the policy ({interval}, p {change['p']:.3f})")


def report(name: str, pipeline: Pipeline, samples: Sequence[Sample]) -> list[Row]:
    """Answer the samples, and print the figures."""
    begin = time.perf_counter()
    rows = [row for at in range(0, len(samples), BATCH) for _, row in answer(pipeline, samples[at : at + BATCH])]
    seconds = (time.perf_counter() - begin) / len(samples)
    kinds = {sample.id: sample.category for sample in samples}
    for kind in ("all", *COMPOSITIONS):
        chosen = [row for row in rows if kind in ("all", kinds[row.id])]
        figure = summarise(chosen)["figures"]["giou"]
        print(f"{name:24}{kind:22}{figure['value']:.3f} ({figure['low']:.3f} to {figure['high']:.3f})")
    failed = dict(Counter(row.error for row in rows if row.error))
    print(f"{name:24}{seconds:.2f} s a question, {sum(failed.values())} failed {failed or ''}")
    return rows


if __name__ == "__main__":
    main()
