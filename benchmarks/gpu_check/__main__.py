"""`make gpu-check`: all checks that need a GPU, in ten minutes, with one block of text as the result.

    python -m benchmarks.gpu_check [--device cpu] [--only NAMES] [--policy NAME --segmenter NAME] [--minutes 10]

Nothing is downloaded except --policy and --segmenter. On a CPU (--device cpu) the same functions check what is possible
there. Exit code 0: all lines passed; 1: some did not; 2: there is no GPU, or the command line is wrong.
"""

import argparse
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.gpu_check.block import FAILED, ROOT, Line, Outcome, Setting, outcome_line, render, run_line
from benchmarks.gpu_check.lines import all_lines
from benchmarks.gpu_check.versions import head, why_no_gpu

MINUTES = {"cuda": 10.0, "cpu": 30.0}


def main(arguments: list[str] | None = None) -> int:
    """Run the chosen lines, print the block and return the exit code."""
    lines = all_lines()
    options = read(arguments, [line.name for line in lines])
    if options.device == "cuda" and (reason := why_no_gpu()):
        print(f"gpu-check: {reason}; --device cpu rehearses what a CPU can", file=sys.stderr)
        return 2
    chosen = [line for line in lines if not options.only or line.name in options.only]
    folder = options.out or ROOT / "build" / "gpu-check" / f"{datetime.now(UTC):%Y%m%d-%H%M%S}"
    setting = Setting(options.device, folder.absolute(), where(options.policy), where(options.segmenter))
    setting.until = time.monotonic() + 60 * (options.minutes or MINUTES[options.device])
    setting.folder.mkdir(parents=True, exist_ok=True)
    outcomes = run(chosen, setting)
    block = render(head(options.device), outcomes, setting.figures)
    (setting.folder / "block.md").write_text(block + "\n")
    print(f"\n{block}", flush=True)
    return 1 if any(outcome.verdict == FAILED for outcome in outcomes) else 0


def run(lines: list[Line], setting: Setting) -> list[Outcome]:
    """Run lines and print the outcome of each as soon as it is known."""
    outcomes = []
    for line in lines:
        outcomes.append(run_line(line, setting))
        print(outcome_line(outcomes[-1]), flush=True)
    return outcomes


def where(model: str) -> str:
    """Absolute path of a folder, as the lines run elsewhere, or an unchanged hub name."""
    return str(Path(model).absolute()) if model and Path(model).exists() else model


def read(arguments: list[str] | None, known: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "gpu-check", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--only", default="", help=f"some of {', '.join(known)}, with commas")
    parser.add_argument("--policy", default="", help="a real checkpoint: a hub name or a folder")
    parser.add_argument("--segmenter", default="", help="its SAM2; facebook/sam2.1-hiera-large if not given")
    parser.add_argument("--minutes", type=float, default=0.0, help="what has not begun by then does not begin")
    parser.add_argument("--out", type=Path, default=None, help="a folder for logs; build/gpu-check/TIME if not given")
    options = parser.parse_args(arguments)
    options.only = [name for name in options.only.split(",") if name]
    if unknown := sorted(set(options.only) - set(known)):
        parser.error(f"unknown line {', '.join(unknown)}; there are {', '.join(known)}")
    return options


if __name__ == "__main__":
    sys.exit(main())
