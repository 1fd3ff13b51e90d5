"""The small model, and mlx_lm's own server with it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from providers.mlx import MlxProvider
from tests.mlx.small_model import folder_of


@pytest.fixture(scope="session")
def small_model() -> str:
    """The folder of a real small model, float32: what is fastest on a CPU."""
    return str(folder_of("float32"))


@pytest.fixture(scope="session")
def packed_model() -> str:
    """The folder of the same model with 4 and 8 bit weights, as most MLX models are published."""
    return str(folder_of("packed"))


@pytest.fixture(scope="session")
def mlx(small_model: str) -> MlxProvider:
    """A provider with the small model loaded."""
    provider = MlxProvider(small_model)
    provider.warm()
    return provider


@pytest.fixture(scope="session")
def mlx_server(small_model: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a running `mlx_lm.server`; the model is asked for by the name `default_model`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("mlx-server") / "log"
    command = [sys.executable, "-m", "mlx_lm.server", "--model", small_model, "--port", str(port)]
    with log.open("w") as out:
        server = subprocess.Popen(command, stdout=out, stderr=out, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    url = f"http://127.0.0.1:{port}"
    try:
        _wait_until_ready(url, server, log)
        yield f"{url}/v1"
    finally:
        server.terminate()
        server.wait(30)


def _wait_until_ready(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    due = time.monotonic() + 60
    while server.poll() is None and time.monotonic() < due:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5):
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.1)
    raise AssertionError(f"mlx_lm.server did not become ready: {log.read_text()[-2000:]}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep these tests in one process when tests run side by side: two models would take each other's cores."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.xdist_group("mlx"))
