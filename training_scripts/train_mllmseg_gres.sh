#!/usr/bin/env bash
# MLLMSeg's recipe for generalised referring segmentation: goes on from train_mllmseg.sh's model with new adapters.
#   MODEL_PATH=runs/mllmseg/best DATA=datasets bash training_scripts/train_mllmseg_gres.sh dry_run=true
source "$(dirname "$0")/clone.bash"
for split in train val; do
  segzero data prepare "${DATA:-datasets}/refer_seg/grefcoco" --format grefcoco --split $split --out "data/mllmseg/grefcoco-$split"
done
segzero tune --head light model="${MODEL_PATH:-runs/mllmseg/best}" data=data/mllmseg/grefcoco-train,data/mllmseg/grefcoco-val \
  steps=20000 batch=160 lr=4e-5 weight_decay=0.05 warm_up=0.03 lora_rank=64 lora_alpha=128 out=runs/mllmseg_gres "$@"
