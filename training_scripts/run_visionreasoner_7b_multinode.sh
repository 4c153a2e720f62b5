#!/usr/bin/env bash
# VisionReasoner's recipe on NNODES nodes of eight cards; run it on the head node of a Ray cluster.
#   MODEL_PATH=... DATA=... bash training_scripts/run_visionreasoner_7b_multinode.sh dry_run=true
source "$(dirname "$0")/clone.bash"
segzero train model=qwen2_5_vl_7b data=visionreasoner_7k reward=vision_reasoner hardware=multinode \
  data.frame='stretch(840)' data.prompt=vision_reasoner actor_rollout_ref.actor.kl_loss_coef=0.01 \
  trainer.experiment_name=visionreasoner_7b_multinode "$@"
