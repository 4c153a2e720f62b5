#!/usr/bin/env bash
# Seg-Zero's recipe for 3B: refCOCOg, one box and two points, 840x840, on four cards of 80 GB.
#   MODEL_PATH=... DATA=... bash training_scripts/run_qwen2_5_3b_refCOCOg.sh dry_run=true
source "$(dirname "$0")/clone.bash"
segzero train recipe=seg_zero model=qwen2_5_vl_3b data=refcocog_2k hardware=gpu4 \
  actor_rollout_ref.rollout.gpu_memory_utilization=0.5 trainer.experiment_name=qwen2_5_3b_refcocog "$@"
