#!/usr/bin/env bash
# The whole training on a laptop: synthetic scenes, the shipped policy and segmenter.
#   bash training_scripts/run_tiny_cpu.sh trainer.total_training_steps=10
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH" DATA="${DATA:-data/scenes}"
[ -f "$DATA/train.parquet" ] || python training_scripts/make_scenes.py "$DATA"
segzero train reward=mask trainer.experiment_name=tiny trainer.total_training_steps=100 "$@"
