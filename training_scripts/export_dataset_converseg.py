"""Write runs of a data engine as training and evaluation files, with the flags of ConverSeg's export_dataset.py.

python training_scripts/export_dataset_converseg.py --runs_root runs/engine --out_dir data/engine
"""

import argparse
import sys

from segzero.data.engine.export import MODES, PATH_MODES, export_runs
from segzero.errors import UserError
from segzero.extras import needs


@needs("infer")
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs_root", required=True, help="a folder of runs, or one run")
    parser.add_argument("--out_dir", required=True)
    parser.add_argument("--mode", choices=MODES, default="both")
    parser.add_argument("--path_mode", choices=PATH_MODES, default="relative")
    flags = parser.parse_args()
    print(export_runs(flags.runs_root, flags.out_dir, flags.mode, flags.path_mode))


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        print(f"export_dataset_converseg: {error}", file=sys.stderr)
        sys.exit(2)
