"""Keeps one process running: started again with a back-off when it dies, ended when the supervisor is told to end."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable

import click

from orchestrator.child import Child

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0
HEALTHY_S = 30.0
"""A process that lived so long is started again without delay."""


def supervise(command: list[str]) -> int:
    """Run a command until SIGTERM or SIGINT, which it is sent as SIGTERM; returns 0, or 130 after SIGINT.

    It stays in this process's group and ends with this process, even when that is killed.
    """
    told, asked = threading.Event(), 0
    child = Child(command, own_group=False)

    def end(number: int, _frame: object) -> None:
        nonlocal asked
        asked = number
        told.set()
        child.ask()

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    pause_s = FIRST_PAUSE_S
    while True:
        started = time.monotonic()
        code = _until_ended(child.wait)
        if told.is_set():
            break
        pause_s = (
            FIRST_PAUSE_S if time.monotonic() - started > HEALTHY_S else min(pause_s * 2, LONGEST_PAUSE_S)
        )
        click.echo(f"orch: the worker ended by itself (exit code {code}); again in {pause_s:g} s", err=True)
        if told.wait(pause_s):
            break
        child = Child(command, own_group=False)
        if told.is_set():  # the signal came while it was being started: it asked the one before
            child.ask()
    return 130 if asked == signal.SIGINT else 0


def _until_ended(wait: Callable[[float], int | None]) -> int:
    """Wait in pieces, so that signals are seen on every platform."""
    while (code := wait(1.0)) is None:
        pass
    return code
