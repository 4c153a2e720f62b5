"""Write synthetic scenes as training data: python training_scripts/make_scenes.py data/scenes --train 1920 --val 200"""

import argparse
from pathlib import Path

from segzero.data.parquet import to_parquet
from segzero.tiny.questions import HELD_OUT_SEED, make_samples, make_training_samples

TRAIN_SEED = 7_000  # none that the shipped models were taught with
VALIDATION_SEED = HELD_OUT_SEED + 7

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--train", type=int, default=1920)
    parser.add_argument("--val", type=int, default=200)
    options = parser.parse_args()
    print(to_parquet(make_training_samples(options.train, TRAIN_SEED), options.folder / "train.parquet"))
    print(to_parquet(make_samples(options.val, VALIDATION_SEED), options.folder / "val.parquet"))
