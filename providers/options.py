"""Taking options of a request that a provider reads itself; the others go to the vendor as they are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from providers.errors import BadRequest

Options = dict[str, Any]


def take_number(options: Options, name: str, provider: str) -> float | None:
    """Take a number above 0 out of the options; None where it is not there."""
    value = options.pop(name, None)
    if value is None:
        return None
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < math.inf:
        raise _wrong(name, value, "a number above 0", provider)
    return float(value)


def take_whole(options: Options, name: str, provider: str) -> int | None:
    """Take a whole number above 0 out of the options; None where it is not there."""
    value = options.pop(name, None)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise _wrong(name, value, "a whole number above 0", provider)
    return value


def take_choice(options: Options, name: str, choices: Sequence[str], provider: str) -> str | None:
    """Take one of the choices out of the options; None where it is not there."""
    value = options.pop(name, None)
    if value is None:
        return None
    if not isinstance(value, str) or value not in choices:
        raise _wrong(name, value, f"one of {', '.join(choices)}", provider)
    return value


def take_mapping(options: Options, name: str, provider: str) -> dict[str, Any]:
    """Take a mapping out of the options; an empty one where it is not there."""
    value = options.pop(name, None)
    if value is not None and not isinstance(value, dict):
        raise _wrong(name, value, "a mapping", provider)
    return value or {}


def check_sampling(options: Options, provider: str) -> None:
    """See that the numbers that all vendors know are numbers; their ranges are the vendor's affair."""
    for name in ("temperature", "top_p"):
        value = options.get(name)
        if value is not None and (not isinstance(value, int | float) or isinstance(value, bool)):
            raise _wrong(name, value, "a number", provider)


def _wrong(name: str, value: object, right: str, provider: str) -> BadRequest:
    return BadRequest(f"option {name} is {str(value)[:80]!r}; it must be {right}", provider)
