"""Kills (SIGKILL) at random moments: nothing acknowledged may be lost, and no half-written file be taken for whole.

Half of the moments (for serving a quarter) are drawn from the whole length of a run, the others from the time in which
it writes: while an `.unfinished` folder exists, or after the first shard, line or flag. The whole process group is
killed, then the same command is called again, and its results are compared with those of an undisturbed run.

    python -m benchmarks.kills [--training 8] [--merge 8] [--prepare 12] [--evaluation 12] [--serving 10] [--seed 0]

Exit code 1: something was lost, or half-written and taken for whole.
"""

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from benchmarks.kills.evaluating import kill_evaluation
from benchmarks.kills.flagging import kill_serving
from benchmarks.kills.killing import Kill
from benchmarks.kills.merging import kill_merge
from benchmarks.kills.preparing import kill_prepare
from benchmarks.kills.training import kill_training
from benchmarks.soak.tally import table

SUBJECTS: dict[str, tuple[int, Callable[[Path, random.Random, int], Iterator[Kill]]]] = {
    "training": (8, kill_training),
    "merge": (8, kill_merge),
    "prepare": (12, kill_prepare),
    "evaluation": (12, kill_evaluation),
    "serving": (10, kill_serving),
}


def kill_all(
    folder: Path,
    counts: Mapping[str, int],
    seed: int = 0,
    tell: Callable[[str], None] = lambda line: print(line, flush=True),
) -> list[Kill]:
    """Kill each subject as often as `counts` says, report each kill by `tell`, and return all."""
    kills = []
    for name, count in counts.items():
        if not count:
            continue
        (folder / name).mkdir(parents=True, exist_ok=True)
        begin = time.monotonic()
        for each in SUBJECTS[name][1](folder / name, random.Random(f"{seed} {name}"), count):
            kills.append(each)
            when = "while it wrote" if each.writing else "whenever"
            tell(f"{each.what}, {when}, after {each.after:.2f} s: {each.found}")
            for line in each.wrong:
                tell(f"  WRONG: {line}")
        tell(f"{name}: {time.monotonic() - begin:.0f} s")
    return kills


def summary(kills: Sequence[Kill]) -> str:
    """Format a table with a line per subject."""
    rows = []
    for name in dict.fromkeys(each.what for each in kills):
        those = [each for each in kills if each.what == name]
        killed = [each for each in those if each.lived]
        writing, wrong = sum(each.writing for each in killed), sum(bool(each.wrong) for each in those)
        rows.append([name, str(len(those)), str(len(killed)), str(writing), str(wrong)])
    return table(["", "calls", "killed", "of these while it wrote", "wrong"], rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all kills and return the exit code."""
    parser = argparse.ArgumentParser("kills", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, (count, _) in SUBJECTS.items():
        parser.add_argument(f"--{name}", type=int, default=count, metavar="KILLS")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments")
    parser.add_argument("--folder", type=Path, help="folder of all files (default: a temporary one)")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        counts = {name: getattr(options, name) for name in SUBJECTS}
        kills = kill_all(options.folder or Path(temporary), counts, options.seed)
    print(f"\n{summary(kills)}")
    return 1 if any(each.wrong for each in kills) else 0


if __name__ == "__main__":
    sys.exit(main())
