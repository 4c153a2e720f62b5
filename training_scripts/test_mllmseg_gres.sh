#!/usr/bin/env bash
# Generalised referring segmentation of a light model, by both protocols: as published, and as a generative model.
#   MODEL_PATH=runs/mllmseg_gres/best DATA=datasets bash training_scripts/test_mllmseg_gres.sh --limit 100
source "$(dirname "$0")/clone.bash"
for protocol in published generative; do
  segzero eval --mask-model "${MODEL_PATH:-runs/mllmseg_gres/best}" --data "${DATA:-datasets}" --gres $protocol \
    --benchmark grefcoco_val,grefcoco_testA,grefcoco_testB --out "evaluation/mllmseg_gres_$protocol" "$@"
done
