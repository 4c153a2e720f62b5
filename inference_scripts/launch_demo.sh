#!/usr/bin/env bash
# The web demo, with the small models that are shipped, or:
#   bash inference_scripts/launch_demo.sh --policy Ricky06662/VisionReasoner-7B --segmenter facebook/sam2-hiera-large
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH"
segzero demo-ui "$@"
