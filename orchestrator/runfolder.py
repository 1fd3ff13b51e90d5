"""Run folders, `runs/<job_id>/`: where things are in them, and reading one back."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from orchestrator.errors import OrchError
from orchestrator.events import Event
from orchestrator.filestore import FileStore
from orchestrator.models import JobSpec
from orchestrator.progress import Progress
from orchestrator.records import StepResult


class ContentChanged(OrchError):
    """A file of a run folder is gone, or is not what its events say."""


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The layout of one run folder. Nothing is made by naming it."""

    path: Path

    @property
    def job_id(self) -> str:
        """The folder's name is the job's id."""
        return self.path.name

    @property
    def events(self) -> Path:
        """One event a line."""
        return self.path / "events.jsonl"

    @property
    def manifest(self) -> Path:
        """The summary."""
        return self.path / "manifest.json"

    @property
    def spec(self) -> Path:
        """The spec as the user wrote it."""
        return self.path / "inputs" / "spec.yaml"

    @property
    def resolved_spec(self) -> Path:
        """The spec after flags, environment and defaults were worked in: what resume goes by."""
        return self.path / "inputs" / "resolved.json"

    @property
    def outputs(self) -> Path:
        """The generated project's parent."""
        return self.path / "outputs"

    @property
    def artifacts(self) -> Path:
        """Named contents that steps left."""
        return self.path / "artifacts"

    @property
    def superseded(self) -> Path:
        """Contents, by their sha256, whose place in outputs or artifacts a later step has taken."""
        return self.artifacts / ".superseded"

    @property
    def logs(self) -> Path:
        """One log a step."""
        return self.path / "logs"

    @property
    def cache(self) -> Path:
        """The completions that this job used."""
        return self.path / ".cache"

    def read_events(self) -> Iterator[Event]:
        """Every whole event of the file, oldest first."""
        return (event for event, _ in self.read_lines())

    def read_lines(self) -> Iterator[tuple[Event, int]]:
        """Every whole event and where its line ends, in bytes. What follows a line that was cut short is not read."""
        end = 0
        with suppress(FileNotFoundError), self.events.open("rb") as lines:
            for line in lines:
                end += len(line)
                try:
                    event = Event.model_validate_json(line)
                except ValidationError:
                    return
                if line.endswith(b"\n"):
                    yield event, end

    def contents(self, result: StepResult) -> dict[str, bytes]:
        """The contents of a result by their sha256.

        Raises:
            ContentChanged: One of them is gone, or no longer what it was.
        """
        outputs, artifacts, superseded = map(FileStore, (self.outputs, self.artifacts, self.superseded))
        known = [(artifacts, one.name, one.sha256) for one in result.artifacts]
        known += [(outputs, one.path, one.sha256) for one in result.files]
        found = {}
        for store, path, sha256 in known:
            if store.verify(path, sha256):
                found[sha256] = store.read(path)
            elif superseded.verify(sha256, sha256):
                found[sha256] = superseded.read(sha256)
            else:
                raise ContentChanged(f"{store.root.name}/{path} is no longer what it was in {self.path}")
        return found

    def read_spec(self) -> JobSpec:
        """The job's resolved spec.

        Raises:
            OrchError: The folder does not hold it, or not whole.
        """
        try:
            return JobSpec.model_validate_json(self.resolved_spec.read_bytes())
        except (OSError, ValidationError) as error:
            raise OrchError(
                f"{self.resolved_spec} cannot be read: the job cannot be brought back from disk"
            ) from error

    def output_dir(self) -> Path | None:
        """Where the user also wants the finished project."""
        wanted = self.read_spec().output_dir
        return Path(wanted).expanduser() if wanted else None

    def progress(self) -> Progress:
        """The job as the folder tells it."""
        return Progress.of(self.job_id, self.read_events())


def log_name(step: str) -> str:
    """The name of a step's log. That of an added step, whose id may be a path, is told apart by a hash."""
    if re.fullmatch(r"[a-z0-9_-]+", step):
        return f"{step}.log"
    slug = re.sub(r"[^A-Za-z0-9_.-]+", "-", step)[:80]
    return f"{slug}-{hashlib.sha256(step.encode()).hexdigest()[:8]}.log"


def run_folders(runs_dir: Path) -> list[RunFolder]:
    """The run folders below a directory that hold events."""
    return [RunFolder(path.parent) for path in runs_dir.glob("job_*/events.jsonl")]
