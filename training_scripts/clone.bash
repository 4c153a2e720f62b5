# Sourced by the launchers: they run in the clone, with the commands of its environment, and end at the first error.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PATH="$PWD/.venv/bin:$PATH"
