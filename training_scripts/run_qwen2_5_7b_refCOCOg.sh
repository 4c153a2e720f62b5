#!/usr/bin/env bash
# Seg-Zero's recipe for 7B: refCOCOg, one box and two points, 840x840, on eight cards of 140 GB.
#   MODEL_PATH=... DATA=... bash training_scripts/run_qwen2_5_7b_refCOCOg.sh dry_run=true
source "$(dirname "$0")/clone.bash"
segzero train recipe=seg_zero model=qwen2_5_vl_7b hardware=gpu8 \
  actor_rollout_ref.rollout.gpu_memory_utilization=0.5 trainer.experiment_name=qwen2_5_7b_refcocog "$@"
