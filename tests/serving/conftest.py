"""A server in this process for tests that leave it as it was, and servers in processes of their own."""

import pytest

from tests.helpers import servers
from tests.helpers.blocking_work import BlockingWork


@pytest.fixture(scope="module")
def server(pipeline):
    """A server without tokens."""
    with servers.running(pipeline) as running:
        yield running


@pytest.fixture
def start_server(tmp_path):
    """Run `segzero serve` in a process of its own."""
    with servers.server_processes(tmp_path) as start:
        yield start


@pytest.fixture
def work():
    """Work that can be held up; whatever still waits in it ends with the test."""
    made = BlockingWork()
    yield made
    made.release.set()
