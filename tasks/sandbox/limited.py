"""Becomes a command with limits of its own. Stands on the standard library and the files beside it."""

import os

from tasks.sandbox import warden


def main(descriptor: int) -> None:
    """Become the command of the order in the open file: {command, limits}."""
    order = warden.read_order(descriptor)
    warden.limit(order["limits"])
    os.execv(order["command"][0], order["command"])  # noqa: S606
