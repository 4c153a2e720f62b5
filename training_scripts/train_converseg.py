"""Train ConverSeg-Net with the flags of its train.py; checkpoints, logs and pictures have its names.

python training_scripts/train_converseg.py --data-dir my_data --checkpoint sam2_hiera_small.pt --name my_net
"""

import argparse
import os
import sys
from dataclasses import MISSING, fields

from segzero.errors import UserError
from segzero.extras import needs
from segzero.supervised.converseg_flags import TrainFlags

NUMBERS = {"int": int, "float": float, "int | None": int}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for flag in fields(TrainFlags):
        required = flag.default is MISSING
        parser.add_argument(
            f"--{flag.name.replace('_', '-')}",
            type=NUMBERS.get(str(getattr(flag.type, "__name__", flag.type)), str),
            required=required,
            default=None if required else flag.default,
            choices=("cuda", "cpu") if flag.name == "device" else None,
            help=" " if required or flag.default is None else "default: %(default)s",
        )
    flags = TrainFlags(**vars(parser.parse_args()))
    if flags.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    with needs("train"):
        from segzero.supervised.converseg import train
    print(f"checkpoints in {train(flags)}")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        print(f"train_converseg: {error}", file=sys.stderr)
        sys.exit(2)
