#!/usr/bin/env bash
# Seg-Zero's recipe for 3B on one card of 24 GB: LoRA on the language model.
#   MODEL_PATH=... DATA=... bash training_scripts/run_qwen2_5_3b_1gpu.sh dry_run=true
source "$(dirname "$0")/clone.bash"
segzero train recipe=seg_zero model=qwen2_5_vl_3b data=refcocog_2k hardware=gpu1 \
  data.max_response_length=700 actor_rollout_ref.rollout.max_model_len=2048 trainer.experiment_name=qwen2_5_3b_1gpu "$@"
