"""The engines of a process: a model is loaded once, whoever asks it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

from providers.errors import NotReady
from providers.mlx.engine import FORKED, Batch, Engine
from providers.mlx.question import NAME


class Engines:
    """One engine for each model, however many providers there are of it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._engines: dict[str, Engine] = {}
        self._pid: int | None = None

    def of(self, model: str, load: Callable[[], Batch]) -> Engine:
        """Return the model's engine.

        Raises:
            NotReady: MLX was used by the process that this one was forked from, and would hang in this one.
        """
        if self._pid not in {None, os.getpid()}:
            raise NotReady(FORKED, NAME)
        with self._lock:
            self._pid = os.getpid()
            return self._engines.setdefault(model, Engine(load))

    def known(self, model: str) -> Engine | None:
        """Return the model's engine if it has one already."""
        return self._engines.get(model)
