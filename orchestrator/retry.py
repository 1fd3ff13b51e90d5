"""When a failed call to a provider is made again: pure decisions, for tenacity to act on."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict
from tenacity import RetryCallState

from providers.errors import ProviderError

INLINE_S = 2.0
"""Longest wait within a worker; a step that must wait longer gives its place back and is parked."""
BASE_S = 0.5
LONGEST_BACKOFF_S = 20.0
LONGEST_ASKED_S = 60.0
"""The most that a vendor's Retry-After is taken to mean."""
DEADLINE_S = 900.0
"""No further try of a question after that many seconds since its first failure."""


class Tries(BaseModel):
    """How far the calls of a question got before its step was parked; it goes with the step to its next run."""

    model_config = ConfigDict(frozen=True)

    provider: str
    failed: int
    since: float


class Parked(Exception):
    """The step has to wait, and shall hold no worker meanwhile."""

    def __init__(self, reason: str, seconds: float, tries: Tries | None = None) -> None:
        super().__init__(reason, seconds, tries)
        self.reason = reason
        self.seconds = seconds
        self.tries = tries


@dataclass(frozen=True)
class Backoff:
    """Exponential backoff with full jitter, for what earlier runs of the step left to try.

    Args:
        retries: Further calls after a first failed one.
        before: What earlier runs of the step left, if they failed with this question and provider.
        clock: Seconds since the epoch, since the first failure may have been on another machine.
    """

    retries: int
    before: Tries | None = None
    clock: Callable[[], float] = time.time
    draw: Callable[[float, float], float] = random.uniform

    def tries(self, provider: str, state: RetryCallState) -> Tries:
        """What has failed until now, earlier runs of the step included."""
        before = self.before or Tries(
            provider=provider, failed=0, since=self.clock() - (state.seconds_since_start or 0.0)
        )
        return before.model_copy(update={"failed": before.failed + state.attempt_number})

    def stop(self, state: RetryCallState) -> bool:
        """Whether that was the last try."""
        tries = self.tries("", state)
        return tries.failed > self.retries or self.clock() - tries.since > DEADLINE_S

    def wait(self, state: RetryCallState) -> float:
        """Seconds until the next try: at least what the vendor asked for."""
        error = state.outcome.exception() if state.outcome else None
        asked = asked_to_wait(error) if isinstance(error, ProviderError) else None
        if asked is not None:
            return asked
        return self.draw(0.0, min(BASE_S * 2.0 ** (self.tries("", state).failed - 1), LONGEST_BACKOFF_S))


def asked_to_wait(error: ProviderError) -> float | None:
    """For how many seconds the vendor wants to be left alone, within reason; None when it did not say."""
    return None if error.retry_after_s is None else min(error.retry_after_s, LONGEST_ASKED_S)


def spread() -> float:
    """A factor that keeps those who wait for the same moment from coming all at once."""
    return random.uniform(1.0, 1.1)  # noqa: S311
