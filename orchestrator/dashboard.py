"""Flower: how it is started, always behind basic authentication."""

from __future__ import annotations

import os
import secrets
import socket
import sys

from orchestrator.errors import EnvironmentNotReady, UsageError

USER = "orch"
FLOWER_APP = "orchestrator.flower_app"
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def flower_command(port: int, address: str) -> list[str]:
    """The command line of Flower. No configuration file is read: one could take the password off."""
    options = [f"--port={port}", f"--address={address}", f"--conf={os.devnull}"]
    return [sys.executable, "-m", "celery", "--app", FLOWER_APP, "--quiet", "flower", *options]


def flower_env(redis_url: str, auth: str) -> dict[str, str]:
    """Its environment, which no other user can read: the password and Redis's address are on no command line."""
    return {**os.environ, "ORCH_REDIS_URL": redis_url, "FLOWER_BASIC_AUTH": auth}


def checked(auth: str) -> str:
    """Return what was given as USER:PASSWORD; several, with commas between them, are several users."""
    for one in auth.split(","):
        user, _, password = one.partition(":")
        if not (user and password and one.isascii()):
            raise UsageError(
                "Flower's basic authentication is USER:PASSWORD, in ASCII and without a comma in it"
            )
    return auth


def require_free(port: int, address: str = LOOPBACK[0]) -> None:
    """Raise EnvironmentNotReady when nothing can listen there."""
    try:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        socket.create_server((address, port), family=family).close()
    except OSError as error:
        raise EnvironmentNotReady(
            f"{address}:{port} is not to be had ({error.strerror}): give another --port"
        ) from None


def new_auth() -> str:
    """A user with a random password."""
    return f"{USER}:{secrets.token_urlsafe(18)}"
