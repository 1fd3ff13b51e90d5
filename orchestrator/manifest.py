"""manifest.json: what a run folder holds and how far its job came, in one document."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from orchestrator.progress import Progress
from orchestrator.records import SCHEMA_VERSION, JobId, JobStatus, Record, Sha256


class ManifestFile(Record):
    """A file of the project; `path` is below `outputs/`."""

    path: str
    sha256: Sha256
    size_bytes: int


class StepFigures(Record):
    """One step, as `orch show --json` has it."""

    kind: str
    status: str
    attempt: int
    runs: int
    started_at: str | None
    finished_at: str | None
    duration_s: float | None
    provider: str | None
    model: str | None
    provider_calls: int
    cache_hits: int
    tokens_in: int
    tokens_out: int
    cost_usd: float | None
    error: str | None
    waiting: dict[str, Any] | None
    fallbacks: list[dict[str, Any]] = Field(
        default_factory=list, description="providers that were given up, and why"
    )


class Manifest(Record):
    """The whole document."""

    schema_version: int = SCHEMA_VERSION
    job_id: JobId
    project: str
    status: JobStatus
    attempt: int
    created_at: str | None
    finished_at: str | None
    spec_sha256: Sha256 = Field(description="of inputs/spec.yaml as the user wrote it")
    files: tuple[ManifestFile, ...]
    completed_steps: tuple[str, ...]
    pending_steps: tuple[str, ...]
    steps: dict[str, StepFigures]
    versions: dict[str, str]

    @classmethod
    def of(cls, progress: Progress) -> Manifest:
        """Take it from the job's progress."""
        shown = progress.to_json()
        taken = {name: shown[name] for name in cls.model_fields if name in shown}
        return cls(**taken, spec_sha256=progress.about["spec_sha256"], versions=progress.about["versions"])
