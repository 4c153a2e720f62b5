"""Merge a training checkpoint into one that Hugging Face's from_pretrained loads; the flags are those of Seg-Zero.

python training_scripts/model_merger.py --local_dir runs/run/global_step_200/actor

The merged model is written to LOCAL_DIR/huggingface_merged, or to --target_dir.
"""

import argparse
import sys
from pathlib import Path

from segzero.errors import UserError
from segzero.training.merge import merge


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--local_dir", type=Path, required=True)
    parser.add_argument("--target_dir", type=Path)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--hf_upload_path", help="Also upload to this model repository on the hub.")
    options = parser.parse_args()
    out = merge(options.local_dir, options.target_dir or options.local_dir / "huggingface_merged", options.dtype)
    print(out)
    if options.hf_upload_path:
        upload(out, options.hf_upload_path)


def upload(folder: Path, repository: str) -> None:
    """Upload a folder to a model repository on the hub, which is made if it does not exist."""
    from httpx import HTTPError
    from huggingface_hub import HfApi

    try:
        api = HfApi()
        api.create_repo(repository, exist_ok=True)
        api.upload_folder(folder_path=folder, repo_id=repository)
    except (OSError, ValueError, HTTPError) as error:  # no token, no such name, no network
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{folder} is merged, but not uploaded to {repository}: {reason}") from error


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        print(f"model_merger: {error}", file=sys.stderr)
        sys.exit(2)
