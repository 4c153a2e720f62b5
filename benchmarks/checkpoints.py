"""Speed of checking a checkpoint: XXH3 in threads, as in `segzero train`, against SHA-256 of one file after the other.

The checkpoint is synthetic: random bytes in eight shards of 256 MB, which stay in the page cache, so that the hashes
are measured and not the disk. The methods take turns. CPU seconds are those of all threads.

    python -m benchmarks.checkpoints [--repeats 5] [--gigabytes 2.0] [--folder DIR]
"""

import argparse
import hashlib
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from segzero.training import checkpoint_manifest as manifest
from segzero.training import checkpoints

RANKS = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--folder", type=Path, help="folder of the checkpoint (default: a temporary one)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        checkpoint = make_checkpoint(Path(name), int(args.gigabytes * 1e9))
        hashes = sha256_one_by_one(checkpoint)
        methods: dict[str, Callable[[], object]] = {
            "SHA-256, one thread": lambda: sha256_one_by_one(checkpoint) == hashes or fail(),
            "XXH3, threads": lambda: checkpoints.damage(checkpoint) is None or fail(),
            "sizes alone": lambda: checkpoints.damage(checkpoint, hashes=False) is None or fail(),
        }
        taken: dict[str, list[tuple[float, float]]] = {method: [] for method in methods}
        for _ in range(args.repeats):
            for method, check in methods.items():
                taken[method].append(seconds(check))
        print(
            f"{args.gigabytes} GB in {RANKS} shards, {os.cpu_count()} cores, {args.repeats} repeats: wall and CPU time"
        )
        for method, runs in taken.items():
            ratios = [
                [before[kind] / now[kind] for before, now in zip(taken["SHA-256, one thread"], runs, strict=True)]
                for kind in (0, 1)
            ]
            times = " and ".join(f"{statistics.median(run[kind] for run in runs):.4f} s" for kind in (0, 1))
            print(f"{method:20} {times}; " + ", ".join(spread(each) for each in ratios))


def make_checkpoint(run: Path, size: int) -> Path:
    place = checkpoints.new_unfinished(run, 1)
    (place / "actor").mkdir()
    (place / "actor" / "fsdp_config.json").write_text(json.dumps({"world_size": RANKS}))
    for rank in range(RANKS):
        (place / "actor" / f"model_world_size_{RANKS}_rank_{rank}.pt").write_bytes(os.urandom(size // RANKS))
    return checkpoints.finish(run, 1, {})


def sha256_one_by_one(checkpoint: Path) -> dict[str, str]:
    """Hash the files as earlier versions did."""
    digests = {}
    for name in manifest.files(checkpoint):
        digest = hashlib.sha256()
        with (checkpoint / name).open("rb") as content:
            while chunk := content.read(1 << 22):
                digest.update(chunk)
        digests[name] = digest.hexdigest()
    return digests


def seconds(check: Callable[[], object]) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    check()
    return time.perf_counter() - wall, time.process_time() - cpu


def spread(ratios: list[float]) -> str:
    return f"{statistics.median(ratios):.1f}x ({min(ratios):.1f} to {max(ratios):.1f})"


def fail() -> None:
    raise SystemExit("the checkpoint changed while it was checked")


if __name__ == "__main__":
    main()
