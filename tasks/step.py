"""What a step kind is: a function from a `Step` to an `Output`, and a hash of the code that it consists of.

A step reads what earlier steps committed, asks the gateway, and returns everything it made. It writes nothing
itself: the runner commits its output in one piece, or not at all.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from orchestrator.calls import Emit
from orchestrator.gateway import Gateway
from orchestrator.models import JobSpec, StepSpec
from orchestrator.records import StepResult
from orchestrator.state import State
from tasks import prompting


class StepError(Exception):
    """A step cannot do its work. `kind` is for programs, the message is for the user."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(kind, message)
        self.kind = kind
        self.message = message

    def __str__(self) -> str:
        return self.message


@dataclass(frozen=True, slots=True)
class Output:
    """Everything that a step made.

    `text` is kept as an artifact and is what templates see as `needs.<id>.text`. `artifacts` are named contents for
    later steps and for people. `files` belong to the generated project, by their path below its folder. `data` is
    small JSON that templates see as `needs.<id>.data`.
    """

    text: str | None = None
    artifacts: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Step:
    """One step of one job as its code sees it."""

    job_id: str
    spec: JobSpec
    step: StepSpec
    gateway: Gateway
    emit: Emit
    state: State
    _results: dict[str, StepResult] = field(default_factory=dict)

    def upstream(self, kind: str) -> str:
        """Id of the nearest step of that kind among those this one waits for."""
        steps = self.spec.plan().by_id
        layer = steps[self.step.id].needs
        while layer:
            for id_ in layer:
                if steps[id_].kind == kind:
                    return id_
            layer = tuple(dict.fromkeys(need for id_ in layer for need in steps[id_].needs))
        raise StepError("no_upstream", f"step {self.step.id} needs a step of kind {kind} before it")

    def result(self, step_id: str) -> StepResult:
        """What an earlier step committed."""
        return self.results([step_id])[0]

    def results(self, step_ids: Sequence[str]) -> list[StepResult]:
        """What earlier steps committed, fetched at once."""
        if missing := [one for one in step_ids if one not in self._results]:
            for step_id, result in zip(missing, self.state.results(self.job_id, missing), strict=True):
                if result is None:
                    raise StepError("missing_result", f"the result of step {step_id} is not there")
                self._results[step_id] = result
        return [self._results[one] for one in step_ids]

    def contents(self, sha256s: Iterable[str]) -> dict[str, str]:
        """Committed contents as text, by their sha256, fetched at once."""
        wanted = list(dict.fromkeys(sha256s))
        found = dict(zip(wanted, self.state.blobs(self.job_id, wanted), strict=True))
        if lost := [sha256[:12] for sha256, blob in found.items() if blob is None]:
            raise StepError("missing_result", f"contents of earlier steps are not there: {', '.join(lost)}")
        return {sha256: blob.decode() for sha256, blob in found.items() if blob is not None}

    def artifact(self, step_id: str, name: str) -> str:
        """A named content of an earlier step."""
        for artifact in self.result(step_id).artifacts:
            if artifact.name == name:
                return self.contents([artifact.sha256])[artifact.sha256]
        raise StepError("missing_result", f"step {step_id} left no artifact {name}")

    def project_files(self, step_id: str) -> dict[str, str]:
        """The project's files that an earlier step wrote, by their path below the project's folder."""
        files = self.result(step_id).files
        contents = self.contents(file.sha256 for file in files)
        return {file.path.removeprefix(f"{self.spec.project}/"): contents[file.sha256] for file in files}


Run = Callable[[Step], Output]


@dataclass(frozen=True, slots=True)
class StepKind:
    """A kind of step: what runs, and the version that makes its questions to models distinct from an older one's."""

    name: str
    run: Run
    version: str


def code_version(module: ModuleType, *prompts: str) -> str:
    """Hash of a step's own module and prompts, so that a change elsewhere keeps its cache entries good."""
    parts = [inspect.getsource(module), *(prompting.version(name) for name in prompts)]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
