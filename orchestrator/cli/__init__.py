"""The command line. Commands are found by name and imported when used, so that `orch --help` imports nothing heavy."""

from __future__ import annotations

import importlib
import os
import sys
from typing import NoReturn

import click

from orchestrator import __version__
from orchestrator.errors import OrchError

COMMANDS = {
    "run": "Run a spec on this machine, from start to end, with nothing else installed.",
    "submit": "Put specs on the fleet's queue and print their job ids.",
    "resume": "Go on with a job: only what is not done yet.",
    "cancel": "Stop a job.",
    "show": "Tell how a job stands.",
    "tail": "Print a job's events.",
    "list": "List jobs, newest first.",
    "pull": "Fetch a job's run folder from Redis to this machine.",
    "worker": "Run steps from the fleet's queue.",
    "up": "Run the whole stack on this machine: Redis, worker, mirror, Flower.",
    "mirror": "Write the run folders of all jobs to this machine's disk.",
    "flower": "Show the fleet in a browser.",
    "providers": "Tell which providers are ready, and how their circuits stand.",
    "cache": "Look at the cache of completions, or empty it.",
    "doctor": "Check what jobs depend on.",
    "validate": "Check specs without running them.",
    "plan": "Show the steps of a spec and what waits for what.",
}
ALIASES = {"list-runs": "list"}


class _Commands(click.Group):
    """Knows its commands by the table above; `orchestrator/cli/<name>.py` holds each as `command`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        name = ALIASES.get(cmd_name, cmd_name)
        if name not in COMMANDS:
            return None
        command = importlib.import_module(f"orchestrator.cli.{name}").command
        assert isinstance(command, click.Command)  # noqa: S101
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="orch")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def cli(debug: bool) -> None:
    """Turn a short YAML spec into a working code project.

    Exit codes: 0 done, 1 the job failed, 2 wrong usage or invalid spec, 3 environment not ready, 4 no such job,
    130 interrupted.
    """
    if debug:
        os.environ["ORCH_DEBUG"] = "1"


def main() -> NoReturn:
    """Run the command line: every error becomes one message and its exit code."""
    try:
        code = cli.main(prog_name="orch", standalone_mode=False)
    except Exception as error:
        if os.environ.get("ORCH_DEBUG"):
            raise
        sys.exit(_told(error))
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(code if isinstance(code, int) else 0)


def _told(error: Exception) -> int:
    """Tell the user what went wrong; returns the exit code."""
    match error:
        case OrchError():
            message, code = str(error), error.exit_code
        case click.exceptions.Abort():
            message, code = "interrupted", 130
        case click.ClickException():
            error.show()
            return error.exit_code
        case BrokenPipeError():
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        case _:
            message, code = f"{type(error).__name__}: {error} (`orch --debug …` shows where)", 1
    click.echo(f"orch: {message}", err=True)
    return code
