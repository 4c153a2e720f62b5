"""Merge a training checkpoint: python training_scripts/model_merger.py --local_dir runs/run/global_step_200/actor

The merged model goes into LOCAL_DIR/huggingface_merged unless --target_dir says otherwise.
"""

import argparse
import sys
from pathlib import Path

from segzero.errors import UserError
from segzero.training.merge import merge


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--local_dir", type=Path, required=True)
    parser.add_argument("--target_dir", type=Path)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--hf_upload_path", help="Also upload to this model repository on the hub.")
    options = parser.parse_args()
    out = merge(options.local_dir, options.target_dir or options.local_dir / "huggingface_merged", options.dtype)
    print(out)
    if options.hf_upload_path:
        from huggingface_hub import HfApi

        api = HfApi()
        api.create_repo(options.hf_upload_path, exist_ok=True)
        api.upload_folder(folder_path=out, repo_id=options.hf_upload_path)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        print(f"model_merger: {error}", file=sys.stderr)
        sys.exit(2)
