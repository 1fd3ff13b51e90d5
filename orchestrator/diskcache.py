"""This machine's layer of the completion cache: one file an entry."""

from __future__ import annotations

import itertools
import logging
import time
from pathlib import Path

from orchestrator.atomic import write_whole
from orchestrator.completions import Entry, parse_entry

log = logging.getLogger(__name__)

PUTS_BETWEEN_TIDYING = 64


class DiskCache:
    """A folder of entries. Its errors are logged: a disk that is full or read-only costs nothing but the layer."""

    def __init__(self, folder: Path, ttl_s: int, most_bytes: int) -> None:
        self.folder = folder
        self._ttl_s = ttl_s
        self._most_bytes = most_bytes
        self._puts = itertools.count(1)

    def get(self, key: str) -> tuple[Entry, float] | None:
        """An entry that is whole and not too old, and its age in seconds."""
        path = self.folder / f"{key}.json"
        try:
            age_s = max(0.0, time.time() - path.stat().st_mtime)
            raw = path.read_bytes() if age_s < self._ttl_s else b""
        except OSError:
            return None
        entry = parse_entry(raw, key)
        return (entry, age_s) if entry else None

    def put(self, entry: Entry) -> None:
        """Store an entry that is not too large for the layer as a whole; now and then make room."""
        raw = entry.model_dump_json(indent=1).encode()
        if len(raw) > self._most_bytes:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_whole(self.folder / f"{entry.key}.json", raw)
            if next(self._puts) % PUTS_BETWEEN_TIDYING == 0:
                self.tidy()
        except OSError as error:
            log.warning("this machine's cache layer was not written: %s", error)

    def tidy(self) -> None:
        """Remove what is too old, and the oldest until the rest fits."""
        left, now = 0, time.time()
        for written, size, path in sorted(self._files(), reverse=True):
            left += size
            if left > self._most_bytes or now - written > self._ttl_s:
                path.unlink(missing_ok=True)

    def stats(self) -> tuple[int, int]:
        """Number of entries and their bytes."""
        sizes = [size for _, size, _ in self._files()]
        return len(sizes), sum(sizes)

    def clear(self) -> int:
        """Remove every entry; returns how many there were."""
        found = [path for _, _, path in self._files()]
        for path in found:
            path.unlink(missing_ok=True)
        return len(found)

    def _files(self) -> list[tuple[float, int, Path]]:
        found = []
        for path in self.folder.glob("*.json"):
            try:
                about = path.stat()
            except OSError:
                continue
            found.append((about.st_mtime, about.st_size, path))
        return found
