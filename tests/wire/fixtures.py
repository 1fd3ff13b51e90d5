"""Fixtures for tests that talk to vendors' formats: `pytest_plugins = ["tests.wire.fixtures"]` brings them in."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.wire.server import Script, Serve, Server
from tests.wire.vendor import Vendor
from tests.wire.vendors import VENDORS


@pytest.fixture(params=VENDORS, ids=lambda vendor: vendor.name)
def vendor(request: pytest.FixtureRequest) -> Vendor:
    """Each vendor in turn."""
    found: Vendor = request.param
    return found


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts servers, and closes them after the test."""
    started: list[Server] = []

    def start(script: Script) -> Server:
        started.append(Server(script))
        return started[-1]

    yield start
    for server in started:
        server.close()
