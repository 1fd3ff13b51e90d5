"""The Lua scripts: loaded by name, each behind the names of the fleet's keys and what all of them share."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import redis
from redis.commands.core import Script

from orchestrator.events import Act
from orchestrator.names import FLEET, JobKeys

_LUA = Path(__file__).parent / "lua"


class Scripts:
    """The scripts on one Redis. Cheap to make, safe to share between threads."""

    def __init__(self, client: redis.Redis) -> None:
        self.script: Callable[[str], Script] = cache(lambda name: client.register_script(_source(name)))

    def call(self, name: str, job_id: str, *args: Any) -> tuple[str, list[Any]]:
        """Run a script on a job; every script answers with a verdict and a list."""
        verdict, found = json.loads(self.script(name)(keys=[JobKeys(job_id).job], args=args))
        return verdict, found


def packed(act: Act) -> tuple[str, str, str]:
    """An act as scripts take it: type, level, data as JSON."""
    return act.type, act.level, json.dumps(act.data) if act.data else ""


@cache
def _source(name: str) -> str:
    """A script's whole text; the names are on one line with the library's first, so that line numbers are its own."""
    keys = "".join(f"local {name} = '{key}' " for name, key in FLEET.items())
    return keys + (_LUA / "lib.lua").read_text() + (_LUA / f"{name}.lua").read_text()
