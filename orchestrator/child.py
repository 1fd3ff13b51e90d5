"""Processes that end with this one, however this one ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from orchestrator import lifeline


class Child:
    """A process under a `lifeline`: it is killed when this process closes its end of a pipe, or dies.

    Args:
        command: What to run.
        log: File that its output is appended to; None lets it use this process's.
        env: Its whole environment; None for this process's.
        own_group: Give it a process group of its own: the terminal's signals do not reach it, and what it has
            started ends with it. Else it stays in this process's group.
    """

    def __init__(
        self,
        command: list[str],
        log: Path | None = None,
        env: Mapping[str, str] | None = None,
        *,
        own_group: bool = True,
    ) -> None:
        self.log = log
        group = "own" if own_group else "shared"
        ours, self._pipe = os.pipe()
        output = log.open("ab") if log else None
        try:
            self._process = subprocess.Popen(  # noqa: S603 - our own commands
                [sys.executable, "-I", "-S", lifeline.__file__, str(ours), group, *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=(ours,),
                process_group=0 if own_group else None,
                env=env,
            )
        finally:
            os.close(ours)
            if output:
                output.close()

    def poll(self) -> int | None:
        """Its exit code, 128 + signal where one ended it; None while it runs."""
        return self._process.poll()

    def wait(self, timeout_s: float | None = None) -> int | None:
        """Wait until it has ended; its exit code, None when it still runs after so many seconds."""
        with suppress(subprocess.TimeoutExpired):
            return self._process.wait(timeout_s)
        return None

    def ask(self) -> None:
        """Ask it to end by itself, with SIGTERM."""
        self._process.send_signal(signal.SIGTERM)

    def let_go(self) -> None:
        """Have it killed."""
        if self._pipe >= 0:
            os.close(self._pipe)
            self._pipe = -1

    def end(self) -> None:
        """Have it killed and wait until it is gone."""
        self.let_go()
        self._process.wait()

    def last_words(self, lines: int = 15) -> str:
        """The end of its log."""
        if self.log is None:
            return ""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
