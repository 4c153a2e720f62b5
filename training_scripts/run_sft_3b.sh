#!/usr/bin/env bash
# A supervised start for 3B on one card of 24 GB: LoRA on the language model, answers as Seg-Zero writes them.
#   MODEL_PATH=... DATA=... bash training_scripts/run_sft_3b.sh dry_run=true
source "$(dirname "$0")/clone.bash"
segzero sft model=qwen2_5_vl_3b data="${DATA:-data/refcocog_2k}" frame='stretch(840)' prompt=seg_zero \
  lora_rank=64 lora_alpha=128 gradient_checkpointing=true tokens_per_pass=6000 out=runs/sft_3b "$@"
