"""Every line of `make gpu-check`, as a test: `pytest -m gpu`."""

import time

import pytest

from benchmarks.gpu_check.block import FAILED, SKIPPED, Setting, outcome_line, run_line
from benchmarks.gpu_check.lines import all_lines
from benchmarks.gpu_check.versions import why_no_gpu

pytestmark = pytest.mark.gpu
MINUTES = 20


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    """One folder for all lines, as they share runs."""
    if reason := why_no_gpu():
        pytest.skip(reason)
    return Setting("cuda", tmp_path_factory.mktemp("gpu-check"), until=time.monotonic() + 60 * MINUTES)


@pytest.mark.parametrize("line", all_lines(), ids=lambda line: line.name)
def test_line(line, setting):
    outcome = run_line(line, setting)
    if outcome.verdict == SKIPPED:
        pytest.skip(outcome.text)
    assert outcome.verdict != FAILED, outcome_line(outcome)
