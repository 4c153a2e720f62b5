#!/usr/bin/env bash
# MLLMSeg's recipe for referring segmentation, on its datasets/refer_seg; a batch is 32 images with up to 5 questions.
#   MODEL_PATH=... DATA=datasets bash training_scripts/train_mllmseg.sh dry_run=true
source "$(dirname "$0")/clone.bash"
for name in refclef refcoco refcoco+ refcocog; do
  for split in train val; do
    segzero data prepare "${DATA:-datasets}/refer_seg/$name" --format refer --split $split --out "data/mllmseg/$name-$split"
  done
done
segzero tune --head light model="${MODEL_PATH:-OpenGVLab/InternVL3-1B-hf}" data="$(echo data/mllmseg/ref{clef,coco,coco+,cocog}-{train,val} | tr ' ' ,)" \
  steps=50000 batch=160 lr=4e-5 weight_decay=0.05 warm_up=0.03 lora_rank=64 lora_alpha=128 out=runs/mllmseg "$@"
