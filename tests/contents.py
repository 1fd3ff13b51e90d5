"""What a Redis holds, to be compared before and after."""

from __future__ import annotations

from typing import Any

import redis


def everything(client: redis.Redis, pattern: str = "*") -> dict[bytes, Any]:
    """All that Redis holds: equal before and after when nothing was changed.

    Contents, not DUMPs: in which order a hash is dumped may change by its being read.
    """
    return {key: _content(client, key) for key in client.scan_iter(pattern)}


def _content(client: redis.Redis, key: bytes) -> Any:
    match client.type(key):
        case b"hash":
            return client.hgetall(key)
        case b"set":
            return client.smembers(key)
        case b"zset":
            return client.zrange(key, 0, -1, withscores=True)
        case b"list":
            return client.lrange(key, 0, -1)
        case b"stream":
            return client.xrange(key)
    return client.get(key)
