"""Worker processes: how one is started."""

from __future__ import annotations

import sys

from orchestrator.names import QUEUE, WORKER_APP


def worker_command(concurrency: int, log_level: str = "WARNING", name: str = "orch@%h") -> list[str]:
    """The command line of a worker process."""
    options = ["--pool", "threads", "--concurrency", str(concurrency), "--queues", QUEUE]
    options += ["--without-mingle", "--without-gossip", "--loglevel", log_level, "--hostname", name]
    return [sys.executable, "-m", "celery", "--app", WORKER_APP, "--quiet", "worker", *options]
