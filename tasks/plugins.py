"""Step kinds from installed plug-ins. One that cannot be loaded fails its own steps, and nothing else."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from importlib.metadata import EntryPoint
from typing import Any, NoReturn

from orchestrator.kindnames import plugin_kinds
from tasks.step import Step, StepError, StepKind, code_version

log = logging.getLogger(__name__)


def load_plugins(found: Mapping[str, EntryPoint] | None = None) -> dict[str, StepKind]:
    """Return the kinds of the installed plug-ins by name; `found` stands in for what is installed."""
    entries = plugin_kinds() if found is None else found
    return {name: _loaded(name, entry) for name, entry in entries.items()}


def _loaded(name: str, entry: EntryPoint) -> StepKind:
    try:
        return _kind(name, entry.load())
    except (Exception, SystemExit) as error:
        why = (
            f"the plug-in {entry.value} of step kind {name} cannot be loaded: {type(error).__name__}: {error}"
        )
        log.error("%s", why, exc_info=log.isEnabledFor(logging.DEBUG))  # noqa: TRY400 - without the traceback
        return StepKind(name, partial(_fail, why), "")


def _kind(name: str, value: Any) -> StepKind:
    """Return what an entry point names as a kind: it is one, or the function that one consists of."""
    if isinstance(value, StepKind):
        return replace(value, name=name)
    if not inspect.isfunction(value):
        raise TypeError("it is neither a StepKind nor a function from a Step to an Output")
    return StepKind(name, value, _version(value))


def _version(run: Callable[..., Any]) -> str:
    module = inspect.getmodule(run)
    if module is None:
        raise TypeError("the function is in no module")
    return code_version(module)


def _fail(why: str, _step: Step) -> NoReturn:
    raise StepError("plugin", why)
