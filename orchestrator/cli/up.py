"""`orch up`."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import click

from orchestrator.cli.output import note
from orchestrator.dashboard import checked, flower_command, new_auth, require_free
from orchestrator.localstack import local_stack
from orchestrator.pointer import home
from orchestrator.settings import load_settings


@click.command(name="up")
@click.option(
    "--concurrency", type=click.IntRange(1, 1000), help="Steps that run at once. Default: CONCURRENCY, or 4."
)
@click.option("--no-flower", is_flag=True, help="Without Flower.")
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    default=5555,
    envvar="FLOWER_PORT",
    show_default=True,
    help="Flower's port.",
)
def command(concurrency: int | None, no_flower: bool, port: int) -> None:
    """Run a whole fleet on this machine until stopped: a persistent Redis, a worker, a mirror and Flower.

    While it runs, other commands use it where ORCH_REDIS_URL is not set and ORCH_RUNS_DIR is the same. Jobs that are
    under way when it is stopped, or killed, go on when it is started again.
    """
    settings = load_settings()
    width = concurrency or settings.concurrency
    given = settings.flower_basic_auth and settings.flower_basic_auth.get_secret_value()
    auth = checked(given) if given else new_auth()
    if not no_flower:
        require_free(port)
    flower = None if no_flower else flower_command(port, "127.0.0.1")
    with _told_to_stop() as stop, local_stack(settings, width, flower, {"FLOWER_BASIC_AUTH": auth}) as stack:
        note(f"up: Redis, a worker for {width} steps at once, a mirror into {settings.orch_runs_dir}/")
        if not no_flower:
            note(
                f"Flower: http://127.0.0.1:{port}/"
                + ("" if given else f"  {auth.replace(':', ', password ')}")
            )
        note(
            f"Logs and data: {home(settings.orch_runs_dir)}/. Ctrl-C stops all of it; jobs go on at the next start."
        )
        stack.run(stop, note)
        note("stopping")


@contextmanager
def _told_to_stop() -> Iterator[threading.Event]:
    """An event that the first SIGTERM, SIGHUP or Ctrl-C sets; a second one is not waited for."""
    stop = threading.Event()

    def end(*_: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, end)
    yield stop
