"""A server in this process for tests that leave it as it was, and one in a process of its own."""

import pytest

from tests.helpers import servers


@pytest.fixture(scope="module")
def server(pipeline):
    """A server without tokens."""
    with servers.running(pipeline) as running:
        yield running


@pytest.fixture
def started(tmp_path):
    """A function that runs `segzero serve` in a process; it returns the URL, the process and its log file."""
    with servers.start_by_command(tmp_path) as start:
        yield start
