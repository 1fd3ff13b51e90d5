"""Connections to Redis."""

from __future__ import annotations

from typing import Any

import redis
from redis.backoff import ExponentialWithJitterBackoff
from redis.retry import Retry

from orchestrator.errors import EnvironmentNotReady

HOW_TO_POINT = "set ORCH_REDIS_URL, for example redis://localhost:6379/0"


_BACKOFF = ExponentialWithJitterBackoff(cap=1.0, base=0.05)
_OUTAGES = (redis.ConnectionError, redis.TimeoutError, redis.exceptions.OutOfMemoryError)
_BRIEF = Retry(_BACKOFF, retries=1)  # redis-py nests them: four attempts
_PATIENT = Retry(_BACKOFF, retries=-1, supported_errors=_OUTAGES)


class _Client(redis.Redis):
    """Knows a lack of memory also from Redis 6, where a script reports it within an error of its own."""

    def parse_response(self, *args: Any, **options: Any) -> Any:
        try:
            return super().parse_response(*args, **options)  # type: ignore[no-untyped-call]
        except redis.ResponseError as error:
            if " -OOM " in str(error):
                raise redis.exceptions.OutOfMemoryError(str(error)) from error
            raise


def connect(url: str, *, patient: bool = False, timeout_s: float = 10) -> redis.Redis:
    """Return a thread-safe client that hands out bytes, notices dead peers and rides out short outages.

    A patient one waits for Redis as long as it takes: work that was paid for is not thrown away.
    """
    try:
        return _Client.from_url(
            url,
            socket_timeout=timeout_s,
            socket_connect_timeout=min(timeout_s, 5),
            health_check_interval=10,
            max_connections=200,
            retry=_PATIENT if patient else _BRIEF,
        )
    except ValueError as error:
        raise EnvironmentNotReady(f"ORCH_REDIS_URL is not a Redis URL ({error}): {HOW_TO_POINT}") from None


def require(client: redis.Redis) -> None:
    """Raise EnvironmentNotReady unless Redis answers now and speaks at least 6.2."""
    try:
        version = client.info("server")["redis_version"]
    except redis.AuthenticationError:
        raise EnvironmentNotReady("Redis wants another password: put it into ORCH_REDIS_URL") from None
    except redis.RedisError as error:
        raise EnvironmentNotReady(f"no Redis answers ({error}): start one and {HOW_TO_POINT}") from None
    if tuple(int(part) for part in version.split(".")[:2]) < (6, 2):
        raise EnvironmentNotReady(f"Redis {version} is too old: orch needs 6.2 or newer")
