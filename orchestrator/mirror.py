"""The mirror: writes a job's run folder from its event stream.

It can be killed and started again anywhere. What an event calls for is written first and is idempotent; then the event
goes to `events.jsonl`, whose last whole line says where to go on.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import zlib
from contextlib import ExitStack, suppress
from types import TracebackType
from typing import Any, Self

import redis

from orchestrator.atomic import lock, write_atomic
from orchestrator.cache import answer_field
from orchestrator.completions import parse_entry
from orchestrator.events import Event, id_order
from orchestrator.filestore import ContentRefused, FileStore
from orchestrator.manifest import Manifest
from orchestrator.names import JobKeys, cache_key
from orchestrator.paths import UnsafePath
from orchestrator.progress import Progress
from orchestrator.runfolder import RunFolder, log_name
from orchestrator.state import State

log = logging.getLogger(__name__)


class Mirror:
    """Writes one job's folder, alone: a second mirror of the same folder waits until the first is closed."""

    def __init__(self, client: redis.Redis, folder: RunFolder) -> None:
        self._client = client
        self._state = State(client)
        self._folder = folder
        self.progress = Progress(folder.job_id)
        for path in (folder.outputs, folder.artifacts, folder.logs, folder.cache, folder.spec.parent):
            path.mkdir(parents=True, exist_ok=True)
        self._outputs = FileStore(folder.outputs)
        self._artifacts = FileStore(folder.artifacts)
        with ExitStack() as stack:
            stack.enter_context(lock(folder.path))
            self._catch_up()
            self._lines = stack.enter_context(folder.events.open("ab"))
            if self.progress.about:
                self._manifest()
            self._open = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def write(self, batch: list[Event]) -> list[Event]:
        """Bring the folder up to these events and return those that were new to it."""
        fresh = [event for event in batch if event.order > id_order(self.progress.last_id)]
        for event in fresh:
            self._effects(event)
            self._log(event)
            self._lines.write(event.to_line().encode())
            self.progress.apply(event)
        if fresh:
            self._lines.flush()
            self._manifest()
        return fresh

    def _catch_up(self) -> None:
        """Read what an earlier mirror wrote, cut off a half line, and write the logs anew from it."""
        for old in self._folder.logs.glob("*.log"):
            old.unlink()
        whole = 0
        for event, end in self._folder.read_lines():
            self._log(event)
            self.progress.apply(event)
            whole = end
        with suppress(FileNotFoundError):
            os.truncate(self._folder.events, whole)

    def _manifest(self) -> None:
        """Write the summary as of the last event; the events reach the disk before it does."""
        os.fsync(self._lines.fileno())
        document = Manifest.of(self.progress).model_dump_json(indent=2) + "\n"
        write_atomic(self._folder.manifest, document.encode())

    def _effects(self, event: Event) -> None:
        match event.type:
            case "job.submitted":
                self._inputs()
            case "file.written":
                self._content(self._outputs, event.get("path"), event.get("sha256"), event.get("mode"))
            case "step.succeeded" | "step.failed":
                for artifact in event.get("artifacts", ()):
                    self._content(self._artifacts, artifact["name"], artifact["sha256"], 0o644)
                for key in self.progress.steps[event.step or ""].asked:
                    self._cache_entry(event.step or "", key)

    def _inputs(self) -> None:
        job = self._state.job(self._folder.job_id)
        write_atomic(self._folder.spec, job["source"].encode())
        write_atomic(self._folder.resolved_spec, job["spec"].encode())

    def _content(self, store: FileStore, path: str, sha256: str, mode: int) -> None:
        try:
            content = self._state.blob(self._folder.job_id, sha256)
            if content is None or hashlib.sha256(content).hexdigest() != sha256:
                log.error("%s: Redis no longer has the content of %s", self._folder.job_id, path)
                return
            self._keep(store, path, sha256)
            store.safe_write(path, content, mode)
        except (
            UnsafePath,
            ContentRefused,
            zlib.error,
        ) as error:  # the step is run again when the job comes back
            log.warning("%s: %s was not written: %s", self._folder.job_id, path, error)

    def _keep(self, store: FileStore, path: str, following: str) -> None:
        """Put aside what another step left at a path, since that step's result still consists of it."""
        if store is self._outputs:
            before = [one.sha256 for name, one in self.progress.files.items() if name == path]
        else:
            results = [step.result for step in self.progress.steps.values() if step.result]
            before = [one.sha256 for result in results for one in result.artifacts if one.name == path]
        for sha256 in before:
            content = self._state.blob(self._folder.job_id, sha256)
            if sha256 != following and content is not None:
                FileStore(self._folder.superseded).safe_write(sha256, content)

    def _cache_entry(self, step: str, key: str) -> None:
        raw: Any = self._client.get(cache_key(key))
        raw = raw or self._client.hget(JobKeys(self._folder.job_id).answers, answer_field(step, key))
        if raw and parse_entry(raw, key):
            write_atomic(self._folder.cache / f"{key}.json", json.dumps(json.loads(raw), indent=1).encode())

    def _log(self, event: Event) -> None:
        if event.step is None:
            return
        line = f"{event.ts} {event.level:5} {event.type} {json.dumps(event.data or {}, ensure_ascii=False)}\n"
        with (self._folder.logs / log_name(event.step)).open("a", encoding="utf-8", errors="replace") as file:
            file.write(line)
