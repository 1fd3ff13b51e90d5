"""How an answer grows from a vendor's events."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from datetime import UTC, datetime
from typing import Any

import httpx

from providers.headers import allowance, request_id
from providers.sse import TooLongError
from providers.types import Completion, FinishReason, Usage

Json = dict[str, Any]

MAX_ANSWER = 32 * 1024 * 1024
"""Characters."""

_FENCED = re.compile(r"\s*```(?:json)?[ \t]*\n(?P<text>.*?)\n?\s*```\s*", re.DOTALL)


class Reader(ABC):
    """Makes one answer of a vendor's events.

    `whole` says that nothing of the answer is missing any more, `over` that nothing follows that matters. What an
    event lacks may raise AttributeError, KeyError, IndexError or TypeError: it is then no event of that vendor.
    """

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.arguments: list[str] = []
        self.finish: FinishReason = "stop"
        self.usage = Usage()
        self.model: str | None = None
        self.whole = False
        self.over = False
        self._size = 0

    @abstractmethod
    def read(self, event: Json) -> None:
        """Take the next event, or a whole answer in one."""

    def say(self, text: str) -> None:
        """Add to the text."""
        self._keep(self.texts, text)

    def argue(self, text: str) -> None:
        """Add to the tool's arguments."""
        self._keep(self.arguments, text)

    def _keep(self, parts: list[str], text: str) -> None:
        self._size += len(text)
        if self._size > MAX_ANSWER:
            raise TooLongError
        parts.append(text)

    def fault(self, event: Json) -> object:
        """The error that an event tells of, in the vendor's form; None when it tells of none."""
        return event.get("error") or (event if event.get("type") == "error" else None)

    def ended(self) -> None:
        """Take note that the answer is whole and nothing follows."""
        self.whole = self.over = True

    def done(self) -> None:
        """Take note of the mark after which nothing follows: what has been said until then is the answer."""
        self.whole = self.whole or any(self.texts) or any(self.arguments)
        self.over = True

    def completion(self, model: str, headers: httpx.Headers, *, tool: bool) -> Completion:
        """The answer. With a tool, a server that knows no tools may have written the arguments as plain text."""
        text = joined(self.texts)
        if tool:
            text = joined(self.arguments) or unfenced(text)
        ended: FinishReason = "tool" if tool else "stop"
        finish = ended if self.finish in {"stop", "tool"} else self.finish
        left = allowance(headers, datetime.now(UTC))
        return Completion(text, self.usage, finish, self.model or model, request_id(headers), left)


def joined(parts: list[str]) -> str:
    """Put parts together; halves of a character that stood in two parts become one, a lone half U+FFFD."""
    return "".join(parts).encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def unfenced(text: str) -> str:
    """Take away a code fence around the whole text."""
    fenced = _FENCED.fullmatch(text)
    return fenced["text"] if fenced else text


def said(value: object) -> str:
    """Text; "" where the vendor gives none, TypeError where it gives something else."""
    if value is None or isinstance(value, str):
        return value or ""
    raise TypeError("not text")


def count(value: object) -> int | None:
    """A number of tokens; None where the vendor gives none."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
