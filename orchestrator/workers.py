"""Worker processes: how one is started, and what it can do."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.names import MLX_QUEUE, QUEUE, WORKER_APP

SERVES = "ORCH_WORKER_SERVES"
"""Environment of a worker process that serves one provider, and perhaps one model of it, alone: `mlx`, `mlx MODEL`."""


@dataclass(frozen=True, slots=True)
class Serves:
    """What a worker takes: everything (None), or one provider's steps, and of those perhaps one model's."""

    provider: str | None = None
    model: str | None = None

    @classmethod
    def from_environment(cls) -> Serves:
        """What this worker process was started for."""
        provider, _, model = os.environ.get(SERVES, "").partition(" ")
        return cls(provider or None, model or None)

    def to_environment(self) -> str:
        """The same as the value of an environment variable."""
        return " ".join(filter(None, (self.provider, self.model)))

    def takes(self, providers: Sequence[str], model: str | None) -> bool:
        """Whether a step that names these providers, and this model of the first, is this worker's to run."""
        if self.provider is None:
            return True
        return providers[0] == self.provider and (self.model is None or model in (None, self.model))

    @property
    def queues(self) -> tuple[str, ...]:
        """The queues that the worker takes its steps from."""
        if self.provider == "mlx":
            return (MLX_QUEUE,)
        return (QUEUE, MLX_QUEUE) if self.provider is None and has_mlx() else (QUEUE,)


def has_mlx() -> bool:
    """Whether models can run inside a worker on this machine."""
    return importlib.util.find_spec("mlx_lm") is not None


def worker_command(
    concurrency: int, log_level: str = "WARNING", name: str = "orch@%h", serves: Serves | None = None
) -> list[str]:
    """The command line of a worker process."""
    queues = ",".join((serves or Serves()).queues)
    options = ["--pool", "threads", "--concurrency", str(concurrency), "--queues", queues]
    options += ["--without-mingle", "--without-gossip", "--loglevel", log_level, "--hostname", name]
    return [sys.executable, "-m", "celery", "--app", WORKER_APP, "--quiet", "worker", *options]
