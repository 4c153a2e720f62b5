"""Servers that `segzero serve` runs in processes of their own."""

import pytest

from tests.helpers import servers


@pytest.fixture
def start_server(tmp_path):
    """Run `segzero serve` in a process of its own."""
    with servers.server_processes(tmp_path) as start:
        yield start
