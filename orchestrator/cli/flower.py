"""`orch flower`."""

from __future__ import annotations

import os

import click

from orchestrator.cli.output import note
from orchestrator.dashboard import LOOPBACK, checked, flower_command, flower_env, new_auth, require_free
from orchestrator.history import fleet, redis_url
from orchestrator.settings import load_settings


@click.command(name="flower")
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    default=5555,
    envvar="FLOWER_PORT",
    show_default=True,
    help="Its port.",
)
@click.option(
    "--address", default="127.0.0.1", envvar="FLOWER_ADDRESS", show_default=True, help="Where it listens."
)
@click.option(
    "--auth",
    metavar="USER:PASSWORD",
    help="Who may enter. Default: FLOWER_BASIC_AUTH, which other users of this machine cannot see; else user orch "
    "with a random password, which is printed once.",
)
def command(port: int, address: str, auth: str | None) -> None:
    """Show workers and tasks in a browser, behind basic authentication.

    All of Flower asks for the password but /healthcheck, which says OK and nothing else, and its style sheets.
    """
    settings = load_settings()
    fleet(settings).client.close()
    given = auth or (settings.flower_basic_auth and settings.flower_basic_auth.get_secret_value())
    credentials = checked(given) if given else new_auth()
    note(
        f"Flower: http://{address}:{port}/"
        + ("" if given else f"  {credentials.replace(':', ', password ')}")
    )
    if address not in LOOPBACK:
        note("Flower speaks plain HTTP: whoever can listen on the way can read the password")
    require_free(port, address)
    whole = flower_command(port, address)
    os.execve(whole[0], whole, flower_env(redis_url(settings) or "", credentials))  # noqa: S606 - a shell is not wanted
