"""Training of a prompt head with several questions an image, beside the published loop over the same batches.

    python -m benchmarks.supervised [--only tiny,vocabulary] [--repeats 3] [--rank 16]

tiny        the shipped policy and SAM2, 40 scenes, 5 questions about each
vocabulary  Qwen's vocabulary on a narrow Qwen2.5-VL of random weights, images of 840x840 (900 visual tokens), 8 scenes

ours        an image is encoded once and kept; its questions share its tokens in one packed row; passes of 20 questions
published   one question an image: each is encoded anew, in passes of 4, as ConverSeg-Net's train.py does

Both start from the same weights and make the same updates of 20 questions (AdamW, LoRA), two epochs; the losses are
compared. Each run has a process of its own.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SCENES = {"tiny": 40, "vocabulary": 8}
QUESTIONS, BATCH, PASS, EPOCHS = 5, 20, 4, 2
LOOPS = ("ours", "published")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(SCENES), help="some of " + ", ".join(SCENES))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rank", type=int, default=16, help="of the adapters; 0: all weights of the language model")
    parser.add_argument("--measure", nargs=2, metavar=("PART", "LOOP"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(*args.measure, args.folder, args.rank)))
        return
    if unknown := set(args.only.split(",")) - set(SCENES):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    with tempfile.TemporaryDirectory() as folder:
        for part in args.only.split(","):
            compare(part, Path(folder), args.repeats, args.rank)


def compare(part: str, folder: Path, repeats: int, rank: int) -> None:
    """Run both loops, one after the other, several times, and print the table."""
    runs: dict[str, list[dict[str, Any]]] = {loop: [] for loop in LOOPS}
    for _ in range(repeats):
        for loop in LOOPS:
            command = [sys.executable, "-m", "benchmarks.supervised", "--measure", part, loop]
            command += ["--folder", str(folder), "--rank", str(rank)]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
            if done.returncode:
                sys.exit(f"{loop} failed: {done.stderr.strip().splitlines()[-1]}")
            runs[loop].append(json.loads(done.stdout.splitlines()[-1]))
    count = SCENES[part] * QUESTIONS
    print(f"\n{part}: {count} questions about {SCENES[part]} images, two epochs, adapters of rank {rank}")
    print(
        "| loop | samples/s, both epochs | first epoch | second epoch | published / ours: time | CPU time | last loss |"
    )
    print("|---|---|---|---|---|---|---|")
    whole = {loop: [sum(run["seconds"]) for run in runs[loop]] for loop in LOOPS}
    ratios = [ratio(runs, kind) for kind in ("seconds", "cpu")]
    for loop in LOOPS:
        epochs = [[count / run["seconds"][epoch] for run in runs[loop]] for epoch in range(EPOCHS)]
        rates = [EPOCHS * count / seconds for seconds in whole[loop]]
        cells = [loop, spread(rates), *map(spread, epochs), *(ratios if loop == "ours" else ("", ""))]
        print("| " + " | ".join([*cells, f"{runs[loop][0]['loss']:.4f}"]) + " |", flush=True)


def ratio(runs: dict[str, list[dict[str, Any]]], kind: str) -> str:
    """Time of the published loop over that of ours, run by run."""
    pairs = zip(runs["published"], runs["ours"], strict=True)
    return spread([sum(slow[kind]) / sum(fast[kind]) for slow, fast in pairs])


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


# One process


def measure(part: str, loop: str, folder: Path, rank: int) -> dict[str, Any]:
    """Seconds of each epoch, and the last update's loss."""
    import torch
    from accelerate import Accelerator

    from segzero.supervised.loop import update
    from segzero.supervised.mask_learner import MaskLearner, Weights
    from segzero.supervised.settings import compose
    from segzero.supervised.tune import load_model
    from segzero.tiny.questions import make_shared_samples

    config = compose("prompt_head", [f"model={model_of(part, folder)}", f"lora_rank={rank}", "lora_dropout=0"])
    model = load_model(config, torch.device("cpu"))
    keeps = (PASS, 0) if loop == "published" else (BATCH, 4 << 30)
    learner = MaskLearner(model, *keeps, Weights(1, 0.25, 0.3, 0.1)).train()
    if loop == "published":
        learner.passes = lambda samples, count=None: separately(learner, samples)  # type: ignore[method-assign]
    trained = [p for p in learner.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4)
    samples = list(islice(make_shared_samples(QUESTIONS, 71), SCENES[part] * QUESTIONS))
    accelerator, figures = Accelerator(cpu=True), {}
    seconds, busy = [], []
    for _ in range(EPOCHS):
        begin, worked = time.perf_counter(), time.process_time()
        for start in range(0, len(samples), BATCH):
            batch = samples[start : start + BATCH]
            figures = update(learner, learner, batch, accelerator, optimizer, trained, 1.0)
        seconds.append(time.perf_counter() - begin)
        busy.append(time.process_time() - worked)
    return {"seconds": seconds, "cpu": busy, "loss": figures["loss"]}


def separately(learner: Any, samples: list[Any]) -> list[list[Any]]:
    """Passes of few questions, each with an encoding of its own."""
    from segzero.supervised.mask_learner import MaskRow, true_mask

    passes = []
    for start in range(0, len(samples), PASS):
        part = samples[start : start + PASS]
        images = learner.model.see([sample.open() for sample in part])
        rows = zip(images, part, strict=True)
        passes.append([MaskRow(image, sample.question, true_mask(sample)) for image, sample in rows])
    return passes


def model_of(part: str, folder: Path) -> Path:
    """The shipped policy, or one with Qwen's vocabulary."""
    from benchmarks.estimates import make_policy
    from segzero import shipped
    from segzero.frames import stretch
    from segzero.policy.checkpoint import write_card

    if part == "tiny":
        return shipped.policy_path()
    if not (folder / "policy").exists():
        make_policy(folder / "policy")
        write_card(folder / "policy", "multi", stretch(840))  # 900 visual tokens, as the published checkpoints take
    return folder / "policy"


if __name__ == "__main__":
    main()
