"""The names of step kinds: the built-in ones, and those of installed plug-ins, without importing any of their code.

A plug-in is an entry point in the group `orch.steps`; its name is the kind.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points

GROUP = "orch.steps"
PLANNED_KINDS = ("builder", "docs", "qa")
"""Kinds that work from an architect's plan."""
BUILT_IN_KINDS = ("architect", *PLANNED_KINDS, "prompt")
_RESERVED = {*BUILT_IN_KINDS, "file"}
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,63}")


@cache
def plugin_kinds() -> Mapping[str, EntryPoint]:
    """The plug-ins of this environment by kind; one that takes a built-in's name, or has no valid one, is left out."""
    found = sorted(entry_points(group=GROUP), key=lambda one: (one.name, one.value))
    return {one.name: one for one in found if one.name not in _RESERVED and _NAME.fullmatch(one.name)}


def known_kinds() -> tuple[str, ...]:
    """The kinds that a spec may name here."""
    return (*BUILT_IN_KINDS, *plugin_kinds())
