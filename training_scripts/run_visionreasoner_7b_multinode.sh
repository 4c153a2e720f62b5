#!/usr/bin/env bash
# VisionReasoner's recipe on NNODES nodes of eight cards; run it on the head node of a Ray cluster.
#   MODEL_PATH=... DATA=... bash training_scripts/run_visionreasoner_7b_multinode.sh dry_run=true
source "$(dirname "$0")/clone.bash"
segzero train recipe=vision_reasoner model=qwen2_5_vl_7b hardware=multinode \
  trainer.experiment_name=visionreasoner_7b_multinode "$@"
