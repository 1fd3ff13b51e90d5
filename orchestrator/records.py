"""What a step leaves behind, and what is known of a job: frozen values that cross process borders as JSON."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints, model_validator

SCHEMA_VERSION = 1

JobStatus = Literal["queued", "running", "succeeded", "failed", "cancelled"]
StepStatus = Literal["pending", "queued", "running", "succeeded", "failed", "skipped", "cancelled"]
CacheUse = Literal["use", "refresh", "off"]
"""How a job uses the cache: as it is, only to store new answers in it, or not at all."""
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
JobId = Annotated[str, StringConstraints(pattern=r"^job_[0-9a-f]{12}$")]


def whole_text(value: Any) -> Any:
    """The value with "?" for each half of a surrogate pair in its texts."""
    match value:
        case str():
            return value.encode(errors="replace").decode()
        case dict():
            return {whole_text(key): whole_text(one) for key, one in value.items()}
        case list() | tuple():
            return [whole_text(one) for one in value]
    return value


class Record(BaseModel):
    """Base of the values here: frozen, closed to unknown keys, free of half surrogate pairs, which no store takes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _whole_text(cls, values: object) -> object:
        return whole_text(values)


class Artifact(Record):
    """A named content that a step leaves for later steps and for people, kept as `artifacts/<name>`."""

    name: str
    sha256: Sha256
    size_bytes: int


class OutputFile(Record):
    """A file of the generated project; `path` is below `outputs/`, `mode` its permission bits, `step` who wrote it."""

    path: str
    sha256: Sha256
    size_bytes: int
    mode: int = 0o644
    step: str | None = None


class StepResult(Record):
    """What a step committed: its text (an artifact), further artifacts, files, and a little data for templates."""

    text: str | None = Field(default=None, description="name of the artifact that is the step's text")
    artifacts: tuple[Artifact, ...] = ()
    files: tuple[OutputFile, ...] = ()
    data: dict[str, JsonValue] = Field(default_factory=dict)


class Failure(Record):
    """Why a step failed, or the job as a whole (step None): the kind is for programs, the message for people."""

    step: str | None
    kind: str
    message: str


class Job(Record):
    """A job as `orch list` shows it."""

    job_id: JobId
    project: str
    status: JobStatus
    attempt: int
    provider: str
    created_at: str
