#!/usr/bin/env bash
# Referring segmentation of a light model on all splits of datasets/refer_seg.
#   MODEL_PATH=runs/mllmseg/best DATA=datasets bash training_scripts/test_mllmseg.sh --limit 100
source "$(dirname "$0")/clone.bash"
segzero eval --mask-model "${MODEL_PATH:-runs/mllmseg/best}" --data "${DATA:-datasets}" --out evaluation/mllmseg --benchmark \
  refcoco_val,refcoco_testA,refcoco_testB,refcocoplus_val,refcocoplus_testA,refcocoplus_testB,refcocog_val,refcocog_test "$@"
