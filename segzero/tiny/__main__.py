"""Train the tiny models again, or check the shipped ones.

    python -m segzero.tiny policy|segmenter|mask_model|all [--out DIR] [--seed N] [--share 0.1]
    python -m segzero.tiny check [--out DIR]

Training takes more than an hour for the policy and half an hour for the segmenter, each on one idle core; then, from
both of them in DIR, ten minutes on two cores for the mask model. `--share` runs that fraction of the steps, as a trial.
All commands end with the figures on held-out scenes; `check` also compares
every file with the manifest's sha256.
"""

import argparse
import json
import sys
from pathlib import Path

from segzero.errors import UserError
from segzero.policy.checkpoint import CARD
from segzero.shipped import weights_path
from segzero.tiny import manifest


def main(arguments: list[str] | None = None) -> int:
    """Run the command; the exit code is 0, 1 if a check fails, 2 for a user's mistake."""
    options = _options(arguments)
    try:
        if options.what == "check":
            return _check(options.out or weights_path())
        if not 0 < options.share <= 1:
            raise UserError(f"--share {options.share}: it must be above 0 and at most 1")
        out = options.out or Path("tiny")
        out.mkdir(parents=True, exist_ok=True)
        for model in MAKERS if options.what == "all" else [options.what]:
            folder = out / manifest.FOLDERS[model]
            figures = MAKERS[model](folder, options.seed, options.share)
            (folder / CARD).write_text(json.dumps({"name": manifest.SHOWN_NAMES[model]}) + "\n")
            share = f" --share {options.share}" if options.share < 1 else ""
            command = f"python -m segzero.tiny {model} --seed {options.seed}{share}"
            manifest.record(out, model, command, options.seed, figures)
        print(f"saved to {out}")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _options(arguments: list[str] | None) -> argparse.Namespace:
    description, _, rest = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        "python -m segzero.tiny", description=description, epilog=rest, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("what", choices=[*MAKERS, "all", "check"])
    parser.add_argument("--out", type=Path, help="folder of the models (default: ./tiny; for check, the shipped ones)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--share", type=float, default=1.0, help="fraction of the recipe's steps (default: all)")
    return parser.parse_args(arguments)


def _make_policy(folder: Path, seed: int, share: float) -> dict:
    from dataclasses import replace

    from segzero.tiny.evaluate import evaluate_policy
    from segzero.tiny.train_policy import PolicyRecipe, train_policy

    recipe = replace(PolicyRecipe(), seed=seed)
    model, processor = train_policy(recipe.shortened(share) if share < 1 else recipe)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    figures = evaluate_policy(model, processor)
    print(figures.report())
    return figures.to_json()


def _make_segmenter(folder: Path, seed: int, share: float) -> dict:
    from segzero.tiny.evaluate_segmenter import evaluate_segmenter
    from segzero.tiny.train_segmenter import STEPS, train_segmenter

    train_segmenter(folder, seed, max(1, round(STEPS * share)))
    figures = evaluate_segmenter(folder)
    print(_lines(figures))
    return figures


def _make_mask_model(folder: Path, seed: int, share: float) -> dict:
    from segzero.tiny.train_mask_model import STEPS, evaluate_mask_model, train_mask_model

    train_mask_model(folder, seed, max(1, round(STEPS * share)))
    figures = evaluate_mask_model(folder)
    print(_lines(figures, "mask model"))
    return figures


def _check(weights: Path) -> int:
    """Compare hashes, then measure; figures of changed files would say nothing about the shipped ones."""
    if differences := manifest.check(weights):
        print("\n".join(differences), file=sys.stderr)
        return 1
    print(f"{weights}: all files are as the manifest says")
    from segzero.tiny.evaluate import evaluate_policy, load_checkpoint
    from segzero.tiny.evaluate_segmenter import evaluate_segmenter

    print(evaluate_policy(*load_checkpoint(weights / manifest.FOLDERS["policy"])).report())
    from segzero.tiny.train_mask_model import evaluate_mask_model

    print(_lines(evaluate_segmenter(weights / manifest.FOLDERS["segmenter"])))
    print(_lines(evaluate_mask_model(weights / manifest.FOLDERS["mask_model"]), "mask model"))
    return 0


def _lines(figures: dict[str, float], model: str = "segmenter") -> str:
    return "\n".join([f"held-out figures of the {model}", *(f"  {v:.3f}  {name}" for name, v in figures.items())])


MAKERS = {"policy": _make_policy, "segmenter": _make_segmenter, "mask_model": _make_mask_model}

if __name__ == "__main__":
    sys.exit(main())
