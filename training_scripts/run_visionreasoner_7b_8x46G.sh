#!/usr/bin/env bash
# VisionReasoner's recipe on eight cards of 46 GB.
#   MODEL_PATH=... DATA=... bash training_scripts/run_visionreasoner_7b_8x46G.sh dry_run=true
source "$(dirname "$0")/clone.bash"
segzero train model=qwen2_5_vl_7b data=visionreasoner_7k reward=vision_reasoner hardware=gpu8_46g \
  data.frame='stretch(840)' data.prompt=vision_reasoner actor_rollout_ref.actor.kl_loss_coef=0.01 \
  trainer.experiment_name=visionreasoner_7b_8x46g "$@"
