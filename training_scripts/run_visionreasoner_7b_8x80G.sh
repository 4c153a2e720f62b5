#!/usr/bin/env bash
# VisionReasoner's recipe: many objects, 840x840, on eight cards of 80 GB.
#   MODEL_PATH=... DATA=... bash training_scripts/run_visionreasoner_7b_8x80G.sh dry_run=true
source "$(dirname "$0")/clone.bash"
segzero train recipe=vision_reasoner model=qwen2_5_vl_7b hardware=gpu8_80g \
  trainer.experiment_name=visionreasoner_7b_8x80g "$@"
