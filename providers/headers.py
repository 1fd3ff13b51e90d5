"""What vendors say in the headers of their answers: when to come back, what is left, the name of the call.

Sources: https://platform.openai.com/docs/guides/rate-limits (x-ratelimit-*, durations such as `1m3s`),
https://platform.claude.com/docs/en/api/rate-limits (anthropic-ratelimit-*, RFC 3339),
RFC 9110 section 10.2.3 (Retry-After).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from providers.types import Allowance

_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1, "m": 60, "h": 3600, "d": 86_400}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h|d)")
_TOKENS = (
    ("x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"),
    *(
        (f"anthropic-ratelimit-{kind}-remaining", f"anthropic-ratelimit-{kind}-reset")
        for kind in ("tokens", "input-tokens", "output-tokens")
    ),
)
_REQUESTS = (
    ("x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"),
    ("anthropic-ratelimit-requests-remaining", "anthropic-ratelimit-requests-reset"),
)


def request_id(headers: Mapping[str, str]) -> str | None:
    """The vendor's name for the call, for its support."""
    return headers.get("x-request-id") or headers.get("request-id")


def should_retry(headers: Mapping[str, str]) -> bool | None:
    """Whether the vendor wants the call again; None where it does not say."""
    return {"true": True, "false": False}.get(headers.get("x-should-retry", "").strip().lower())


def retry_after_s(headers: Mapping[str, str], now: datetime) -> float | None:
    """Seconds to wait, never below 0; None where the vendor does not say, or nothing that can be read."""
    milliseconds = _number(headers.get("retry-after-ms", ""))
    if milliseconds is not None:
        return max(0.0, milliseconds / 1000)
    text = headers.get("retry-after", "")
    seconds = _number(text)
    if seconds is None:
        seconds = _until(_http_date(text), now)
    return None if seconds is None else max(0.0, seconds)


def allowance(headers: Mapping[str, str], now: datetime) -> Allowance | None:
    """What is left of the rate limits; where several limit tokens, the one that is nearest to its end."""
    requests = _tightest(headers, _REQUESTS, now)
    tokens = _tightest(headers, _TOKENS, now)
    return Allowance(*requests, *tokens) if {*requests, *tokens} != {None} else None


def _tightest(
    headers: Mapping[str, str], names: tuple[tuple[str, str], ...], now: datetime
) -> tuple[int | None, float | None]:
    said = [(_count(headers.get(left, "")), span_s(headers.get(reset, ""), now)) for left, reset in names]
    return min(said, key=lambda one: (math.inf if one[0] is None else one[0], one[1] is None))


def span_s(text: str, now: datetime) -> float | None:
    """Read `12ms`, `1m3s`, `6h`, plain seconds, or a moment (RFC 3339) as seconds from now, never below 0."""
    text = text.strip()
    parts = _PART.findall(text)
    if parts and "".join(number + unit for number, unit in parts) == text:
        return math.fsum(float(number) * _UNITS[unit] for number, unit in parts)
    seconds = _number(text)
    if seconds is None:
        seconds = _until(_moment(text), now)
    return None if seconds is None else max(0.0, seconds)


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _count(text: str) -> int | None:
    number = _number(text)
    return None if number is None else max(0, int(number))


def _http_date(text: str) -> datetime | None:
    try:
        return parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None


def _moment(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None


def _until(moment: datetime | None, now: datetime) -> float | None:
    if moment is None:
        return None
    return ((moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - now).total_seconds()
