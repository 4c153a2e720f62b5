"""Write synthetic scenes as training data: python training_scripts/make_scenes.py data/scenes --train 1920 --val 200"""

import argparse
from pathlib import Path

from segzero.tiny.scene_files import write_scenes

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--train", type=int, default=1920)
    parser.add_argument("--val", type=int, default=200)
    options = parser.parse_args()
    print(*write_scenes(options.folder, options.train, options.val), sep="\n")
