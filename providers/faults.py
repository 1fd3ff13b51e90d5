"""The border to vendors: what httpx raises, and what a vendor answers instead of an answer, as errors of ours.

Sources: https://platform.openai.com/docs/guides/error-codes, https://platform.claude.com/docs/en/api/errors
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import httpx

from providers.errors import (
    AuthFailed,
    BadRequest,
    ConnectionFailed,
    InvalidAnswer,
    NotReady,
    ProviderError,
    QuotaExceeded,
    RateLimited,
    Retryable,
    ServerError,
    TimedOut,
    Unavailable,
)
from providers.headers import allowance, request_id, retry_after_s, should_retry
from providers.http import Exchange, NoCertificatesError, NoProxyError
from providers.sse import TooLongError
from providers.wording import shown

Kind = type[ProviderError]

TRANSPORT: tuple[tuple[type[Exception], Kind, str], ...] = (
    (httpx.ConnectTimeout, TimedOut, "no connection to {endpoint} within {connect:g} s"),
    (httpx.PoolTimeout, TimedOut, "no connection was free within {silence:g} s"),
    (httpx.TimeoutException, TimedOut, "{endpoint} was silent for {silence:g} s"),
    (TimeoutError, TimedOut, "the answer was not whole within {total:g} s"),
    (httpx.ConnectError, ConnectionFailed, "no connection to {endpoint}: {error}"),
    (httpx.ProxyError, ConnectionFailed, "the proxy of the environment failed: {error}"),
    (httpx.UnsupportedProtocol, NotReady, "{endpoint} is not an http:// or https:// address"),
    (httpx.InvalidURL, NotReady, "{endpoint} is not an address: {error}"),
    (UnicodeError, NotReady, "{endpoint} has a host name that cannot be looked up"),
    (httpx.LocalProtocolError, BadRequest, "the request cannot be sent over HTTP: {error}"),
    (httpx.DecodingError, ServerError, "the answer's compression is broken"),
    (httpx.TooManyRedirects, NotReady, "{endpoint} answers with redirects only"),
    (httpx.HTTPError, ConnectionFailed, "the connection broke before the answer was whole: {error}"),
    (httpx.StreamError, ConnectionFailed, "the connection broke before the answer was whole: {error}"),
    (
        NoCertificatesError,
        NotReady,
        "the certificates that SSL_CERT_FILE or SSL_CERT_DIR names cannot be read: {error}",
    ),
    (NoProxyError, NotReady, "the proxy that the environment names cannot be used: {error}"),
    (TooLongError, InvalidAnswer, "the answer is larger than any that is read"),
)
"""Most specific first."""

UNSENT = (httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ConnectError, httpx.ProxyError)
"""After these the vendor never had the request."""

FOREIGN = tuple(foreign for foreign, _, _ in TRANSPORT)

STATUSES: Mapping[int, Kind] = {
    401: AuthFailed,
    402: QuotaExceeded,
    403: AuthFailed,
    404: NotReady,
    408: TimedOut,
    409: ServerError,
    425: ServerError,
    429: RateLimited,
}
"""Others by their hundred; see `_of_status`."""

WORDS: Mapping[str, Kind] = {
    "authentication_error": AuthFailed,
    "permission_error": AuthFailed,
    "billing_error": QuotaExceeded,
    "not_found_error": NotReady,
    "rate_limit_error": RateLimited,
    "rate_limit_exceeded": RateLimited,
    "timeout_error": TimedOut,
    "invalid_request_error": BadRequest,
    "request_too_large": BadRequest,
    "invalid_prompt": BadRequest,
}
"""What an error that comes after HTTP 200 calls itself; anything else is the server's failure."""


@dataclass(frozen=True, slots=True)
class Border:
    """What one call needs to know to tell of its failure.

    Args:
        provider: Name of the provider.
        endpoint: The address as messages show it.
        words: The vendor's own words for a failure that say more than the HTTP status.
        advice: What the user may do about a failure of that kind.
        keys: What never appears in a message.
        prompts: What the vendor may quote and a message must not.
    """

    provider: str
    endpoint: str
    words: Mapping[str, Kind] = field(default_factory=dict)
    advice: Mapping[Kind, str] = field(default_factory=dict)
    keys: tuple[str, ...] = field(default=(), repr=False)
    prompts: tuple[str, ...] = field(default=(), repr=False)

    def transport(self, error: Exception, exchange: Exchange, begun: int | None = None) -> ProviderError:
        """Translate what httpx, or the reading of a stream, raised; `begun` is the status of an answer that began."""
        kind, sentence = next((kind, say) for foreign, kind, say in TRANSPORT if isinstance(error, foreign))
        message = sentence.format(
            endpoint=self.endpoint,
            error=self._shown(str(error)) or type(error).__name__,
            connect=exchange.timeouts.connect,
            silence=exchange.silence_s,
            total=exchange.total_s,
        )
        fault = kind(message, self.provider, begun)
        fault.reached = not isinstance(error, UNSENT)
        return fault

    def answer(self, status: int, body: bytes, headers: Mapping[str, str]) -> ProviderError:
        """Translate an answer whose status is not 2xx."""
        return self.fault(_parsed(body, headers.get("content-type", "")), headers, status)

    def fault(self, said: object, headers: Mapping[str, str], status: int | None = None) -> ProviderError:
        """Translate an error body, or an error object in a stream that began with HTTP 200."""
        complaint = Complaint.of(said)
        status = status or complaint.status
        kind = _kind(complaint.words, status, self.words, should_retry(headers))
        now = datetime.now(UTC)
        return kind(
            self._sentence(kind, status, complaint.message),
            self.provider,
            status,
            retry_after_s(headers, now),
            request_id(headers),
            allowance(headers, now),
        )

    def _sentence(self, kind: Kind, status: int | None, message: str) -> str:
        if status and status // 100 == 3:
            return f"answered HTTP {status}: it redirects, which is not followed; see the address {self.endpoint}"
        what = f"answered HTTP {status}" if status else "answered with an error"
        said = self._shown(message)
        advice = self.advice.get(kind)
        return what + (f": {said}" if said else "") + (f" ({advice})" if advice else "")

    def _shown(self, text: str) -> str:
        return shown(text, self.keys, self.prompts)


@dataclass(frozen=True, slots=True)
class Complaint:
    """An error in a vendor's words: names for it, the most specific first, and a sentence."""

    words: tuple[str, ...] = ()
    message: str = ""
    status: int | None = None

    @classmethod
    def of(cls, said: object) -> Complaint:
        """Read `{"error": {...}}`, `{"error": "..."}`, `{"detail": ...}`, or what stands in them."""
        match said:
            case str():
                return cls(message=said)
            case {"error": dict() | str() as inner} | {"detail": dict() | str() | list() as inner}:
                return cls.of(inner)
            case [{"msg": str(message)}, *_]:
                return cls(message=message)
            case dict():
                return cls._of_fields(said)
        return cls()

    @classmethod
    def _of_fields(cls, fields: Mapping[Any, Any]) -> Complaint:
        details, code, message = fields.get("details"), fields.get("code"), fields.get("message")
        finest = details.get("error_code") if isinstance(details, Mapping) else None
        words = tuple(word for word in (finest, code, fields.get("type")) if isinstance(word, str))
        status = code if isinstance(code, int) and 400 <= code < 600 else None
        return cls(words, message if isinstance(message, str) else "", status)


def _kind(words: Iterable[str], status: int | None, own: Mapping[str, Kind], retry: bool | None) -> Kind:
    """What an error is: the vendor's own words before the status, and over both whether to call again."""
    named = next((own[word] for word in words if word in own), None)
    general = next((WORDS[word] for word in words if word in WORDS), ServerError)
    kind = named or (_of_status(status) if status else general)
    if kind is QuotaExceeded or retry is None or retry is issubclass(kind, Retryable):
        return kind
    return ServerError if retry else Unavailable


def _of_status(status: int) -> Kind:
    if status in STATUSES:
        return STATUSES[status]
    return {5: ServerError, 4: BadRequest, 3: NotReady}.get(status // 100, ServerError)


def _parsed(body: bytes, content_type: str) -> object:
    text = body.decode(errors="replace")
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        page = "html" in content_type or text.lstrip()[:1] == "<"
        return "a page of HTML, as proxies answer" if page else text
