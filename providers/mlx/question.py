"""What is asked of a model in this process, and what it answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from providers.errors import BadRequest
from providers.types import Message

NAME = "mlx"
_LONGEST = 10_000_000


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is drawn. The defaults are mlx_lm's: always the likeliest one.

    `seed` makes the draws of one request the same each time, whatever else is in the batch; without a temperature
    nothing is drawn. `repetition_penalty` divides the logits of the last 20 tokens.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    repetition_penalty: float | None = None


@dataclass(frozen=True, slots=True)
class Question:
    """One conversation to go on with; with a schema, the answer is JSON that it describes.

    `may_shorten`: nobody asked for exactly `max_tokens`, so what the model's context leaves will do.
    """

    messages: Sequence[Message]
    max_tokens: int
    sampling: Sampling = Sampling()
    schema: Mapping[str, Any] | None = None
    may_shorten: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model wrote; `complete` unless it was cut off at the limit. The end token is not counted."""

    text: str
    tokens_in: int
    tokens_out: int
    complete: bool


@dataclass(frozen=True, slots=True)
class Options:
    """The options of a request that this provider knows; it ignores others. `timeout_s` is for the whole answer."""

    max_tokens: int | None
    sampling: Sampling
    timeout_s: float | None


def read_options(options: Mapping[str, Any]) -> Options:
    """Read a request's options; None is as if it were not there.

    Raises:
        BadRequest: One has the wrong type or is out of range; the message says what is right.
    """
    given = {name: value for name, value in options.items() if value is not None}
    default = Sampling()
    sampling = Sampling(
        temperature=_number(given, "temperature", 0, 2, default.temperature),
        top_p=_number(given, "top_p", 0, 1, default.top_p),
        top_k=_whole(given, "top_k", 0, _LONGEST, default.top_k),
        min_p=_number(given, "min_p", 0, 1, default.min_p),
        seed=_whole(given, "seed", 0, 2**64 - 1, 0) if "seed" in given else None,
        repetition_penalty=_number(given, "repetition_penalty", 0.1, 10, 1)
        if "repetition_penalty" in given
        else None,
    )
    return Options(
        _whole(given, "max_tokens", 1, _LONGEST, 1) if "max_tokens" in given else None,
        sampling,
        _number(given, "timeout_s", 0.001, 1e6, 1) if "timeout_s" in given else None,
    )


def without_reasoning(text: str, start: str, end: str, *, opened: bool) -> str:
    """Return what follows a model's reasoning; nothing, when it was cut off in the midst of it."""
    if end in text:
        return text.partition(end)[2].lstrip()
    return "" if opened or text.lstrip().startswith(start) else text


def _number(options: Mapping[str, Any], name: str, low: float, high: float, default: float) -> float:
    value = options.get(name, default)
    if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value <= high:
        raise _wrong(name, value, f"a number from {low:g} to {high:g}")
    return float(value)


def _whole(options: Mapping[str, Any], name: str, low: int, high: int, default: int) -> int:
    value = options.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise _wrong(name, value, f"a whole number from {low} to {high}")
    return value


def _wrong(name: str, value: object, right: str) -> BadRequest:
    return BadRequest(f"option {name} is {value!r:.100}; it must be {right}", NAME)
