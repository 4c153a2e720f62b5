"""The fixtures of published formats are made with what the readers' tests use."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "data"))
