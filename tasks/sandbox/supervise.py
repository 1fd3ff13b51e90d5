"""Starts a sandboxed process, reads what it prints, and ends it: at a limit, when cancelled, or with this process."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Protocol

from tasks.sandbox.errand import End, Errand, Limits, Ran, to_text

LOOK_S = 0.1

_SAID: tuple[End, ...] = ("memory", "processes", "entries")
_ROOT = Path(__file__).parents[2]
_LAUNCH = (
    "import sys; sys.path.insert(0, sys.argv[1]); from tasks.sandbox.{0} import main; main(int(sys.argv[2]))"
)


class Means(Protocol):
    """One way to run an errand."""

    @property
    def name(self) -> str:
        """What a report calls it."""

    @property
    def contained(self) -> bool:
        """Whether it is a sandbox."""

    def run(self, errand: Errand, cancelled: threading.Event) -> Ran:
        """Run it to its end. Everything that it started is gone on return."""


def launch(module: str, root: Path | str = _ROOT, python: str = sys.executable) -> list[str]:
    """A command that runs one of the standalone scripts here; the descriptor of its order comes after it."""
    return [python, "-I", "-S", "-c", _LAUNCH.format(module), str(root)]


def guarded(
    command: list[str],
    order: Mapping[str, object],
    errand: Errand,
    cancelled: threading.Event,
    handed: tuple[int, ...] = (),
) -> Ran:
    """Run an errand under a warden that `command` starts; `handed` are descriptors for the command itself."""
    alive, hold = os.pipe()
    heard, report = os.pipe()
    with tempfile.TemporaryFile() as file, os.fdopen(hold, "wb") as lifeline, os.fdopen(heard, "rb") as words:
        try:
            file.write(to_text({**order, "alive": alive, "report": report}))
            file.seek(0)
            process = subprocess.Popen(  # noqa: S603 - our own scripts
                [*command, str(file.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=(file.fileno(), alive, report, *handed),
                env={},
                cwd="/",
                start_new_session=True,
            )
        finally:
            os.close(alive)
            os.close(report)
        end, output = watch(process, errand.limits, cancelled, lambda: _kill(process, lifeline))
        said = words.read(4096)
    return ending(end, output, json.loads(said) if said else {}, errand.limits)


def watch(
    process: subprocess.Popen[bytes], limits: Limits, cancelled: threading.Event, kill: Callable[[], None]
) -> tuple[End, str]:
    """Read what a process prints until it and all that print with it ended; `kill` must end them all."""
    due = time.monotonic() + limits.time_s
    output = bytearray()
    end: End = "exit"
    try:
        end = _read(process, limits, cancelled, output, due)
    finally:
        kill()
        process.wait()
        if process.stdout:
            process.stdout.close()
    return end, output.decode(errors="replace")


def _read(
    process: subprocess.Popen[bytes],
    limits: Limits,
    cancelled: threading.Event,
    output: bytearray,
    due: float,
) -> End:
    if process.stdout is None:
        raise ValueError("the process has no output to read")
    descriptor = process.stdout.fileno()
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)
        while True:
            if cancelled.is_set():
                return "cancelled"
            if time.monotonic() > due:
                return "time"
            if selector.select(LOOK_S):
                part = os.read(descriptor, 1 << 16)
                if not part:
                    return "exit"
                output += part[: limits.output - len(output)]
                if len(output) >= limits.output:
                    return "output"
            elif process.poll() is not None:
                return "exit"


def _kill(process: subprocess.Popen[bytes], lifeline: BinaryIO) -> None:
    """End the whole tree: process 1 of the sandbox goes with its lifeline, or its parent, and all with it."""
    lifeline.close()
    if process.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def ending(end: End, output: str, said: dict[str, object], limits: Limits) -> Ran:
    """Put together what was seen from outside and what the warden said."""
    reasons: dict[End, str] = {
        "time": f"ended after {limits.time_s:g} s",
        "output": f"ended after {limits.output:,} bytes of output",
        "memory": f"ended at {limits.memory >> 20:,} MiB of memory",
        "processes": f"ended at {limits.processes} processes or {limits.threads} threads",
        "entries": f"ended at {limits.entries:,} files",
        "cancelled": "cancelled",
    }
    if end != "exit":
        return Ran(end, None, output, reasons[end])
    for over in _SAID:
        if said.get("over") == over:
            return Ran(over, None, output, reasons[over])
    code = said.get("code")
    if isinstance(code, int):
        return Ran("exit", code, output)
    return Ran(
        "broken", None, output, str(said.get("broken") or f"the sandbox could not start: {output[-500:]}")
    )
