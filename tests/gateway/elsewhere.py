"""Workers in processes of their own, which tests can kill."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from orchestrator.connection import connect
from orchestrator.state import Dispatch
from providers.config import Config
from tasks.kinds import KINDS
from tests.gateway.fleet import Fleet
from tests.gateway.providers import OverHttp

START = multiprocessing.get_context("forkserver")
START.set_forkserver_preload([__name__])  # else each process takes seconds to import all this


class Elsewhere:
    """A process that runs steps of jobs once each, with an HTTP server as their provider.

    Args:
        url: The fleet's Redis.
        folder: Where this machine's cache is.
        address: The provider's.
        steps: Job id and dispatch of each.
        threads: How many run at once.
        fleet: Further arguments of `Fleet`.
        config: Of the provider.
        settings: Of the runner.
    """

    def __init__(
        self,
        url: str,
        folder: Path,
        address: str,
        steps: Sequence[tuple[str, Dispatch]],
        *,
        threads: int = 8,
        fleet: dict[str, Any] | None = None,
        config: Config | None = None,
        **settings: Any,
    ) -> None:
        args = (url, folder, address, list(steps), threads, fleet or {}, config, settings)
        self._process = START.Process(target=_work, args=args, daemon=True)
        self._process.start()

    def kill(self) -> None:
        """End it as kill -9 does."""
        self._process.kill()
        self._process.join()

    def wait(self) -> None:
        """Wait until it has run its steps."""
        self._process.join(60)
        assert self._process.exitcode == 0


def _work(
    url: str,
    folder: Path,
    address: str,
    steps: list[tuple[str, Dispatch]],
    threads: int,
    fleet: dict[str, Any],
    config: Config | None,
    settings: dict[str, Any],
) -> None:
    client = connect(url)
    provider = OverHttp(address, config=config)
    runner = Fleet(client, folder, **fleet).runner(lambda *_: provider, **settings)
    with ThreadPoolExecutor(threads) as pool:
        running = [pool.submit(runner.run, KINDS["prompt"], job, one.step, one.ticket) for job, one in steps]
    for one in running:
        one.result()
    client.close()
