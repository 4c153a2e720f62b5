#!/usr/bin/env bash
# The whole training on a laptop: synthetic scenes, the shipped policy and segmenter.
#   bash training_scripts/run_tiny_cpu.sh trainer.total_training_steps=10
source "$(dirname "$0")/clone.bash"
export DATA="${DATA:-data/scenes}"
[ -f "$DATA/train.parquet" ] || segzero data scenes "$DATA"
segzero train reward=mask trainer.experiment_name=tiny trainer.total_training_steps=100 "$@"
