"""What can go wrong between us and a model, as a tree whose branches say what the caller does about it.

    ProviderError
    ├── Retryable          try the same call again, after a backoff
    │   ├── ConnectionFailed · TimedOut · ServerError
    │   └── RateLimited    … but not before `retry_after_s`
    ├── Unavailable        this provider will not answer soon: fall back to the next one
    │   └── NotReady · AuthFailed · QuotaExceeded
    ├── Rejected           the request itself is at fault: stop
    │   └── BadRequest · Refused · InvalidAnswer · TruncatedAnswer
    └── Cancelled          the caller asked us to stop

Every error rebuilds from its `args`, so it can cross a process border by pickle or Celery's serializer.
"""

from __future__ import annotations

from providers.types import Allowance


class ProviderError(Exception):
    """A call to a provider did not give an answer.

    Args:
        message: One sentence for the user; never holds a prompt, a completion or a key.
        provider: Name of the provider, "" where it is not known.
        status: HTTP status of the vendor's answer, where there was one.
        retry_after_s: Seconds the vendor asked us to wait, where it did.
        request_id: The vendor's name for the call, where it gave one.
        allowance: What the vendor's rate-limit headers said.
    """

    kind = "provider"
    reached = True
    """Whether the vendor may have had the request, and may charge for it."""

    def __init__(
        self,
        message: str,
        provider: str = "",
        status: int | None = None,
        retry_after_s: float | None = None,
        request_id: str | None = None,
        allowance: Allowance | None = None,
    ) -> None:
        super().__init__(message, provider, status, retry_after_s, request_id, allowance)
        self.message = message
        self.provider = provider
        self.status = status
        self.retry_after_s = retry_after_s
        self.request_id = request_id
        self.allowance = allowance

    def __str__(self) -> str:
        return f"{self.provider}: {self.message}" if self.provider else self.message


class Retryable(ProviderError):
    """The same call may succeed when it is tried again."""

    kind = "retryable"


class ConnectionFailed(Retryable):
    """No connection, or it broke before the answer was whole."""

    kind = "connection"


class TimedOut(Retryable):
    """The provider did not answer within the time given."""

    kind = "timeout"


class ServerError(Retryable):
    """The provider answered that it failed (HTTP 5xx, 529 overloaded)."""

    kind = "server"


class RateLimited(Retryable):
    """Too many requests or tokens; `retry_after_s` says when to come back, where the vendor said so."""

    kind = "rate_limit"


class Unavailable(ProviderError):
    """This provider cannot answer now, and trying again soon will not help."""

    kind = "unavailable"


class NotReady(Unavailable):
    """Something is missing: a key, a model, a server. The message says how to fix it."""

    kind = "not_ready"


class AuthFailed(Unavailable):
    """The provider refused our credentials."""

    kind = "auth"


class QuotaExceeded(Unavailable):
    """The account's credit or spending limit is used up."""

    kind = "quota"


class Rejected(ProviderError):
    """The provider lives and will say the same again: the request must change."""

    kind = "rejected"


class BadRequest(Rejected):
    """The request is malformed or too large."""

    kind = "bad_request"


class Refused(Rejected):
    """The model declined to answer."""

    kind = "refused"


class InvalidAnswer(Rejected):
    """The answer does not have the form that was asked for, not even after a re-ask."""

    kind = "invalid_answer"


class TruncatedAnswer(Rejected):
    """The answer was cut off at the token limit. Half a file is never used."""

    kind = "truncated"


class Cancelled(ProviderError):
    """The caller no longer wants the answer."""

    kind = "cancelled"
