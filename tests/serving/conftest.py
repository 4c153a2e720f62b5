"""A server for tests that leave it as it was."""

import pytest
import servers


@pytest.fixture(scope="module")
def server(pipeline):
    """Everybody may come in."""
    with servers.running(pipeline) as running:
        yield running
