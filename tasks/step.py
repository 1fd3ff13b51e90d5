"""What a step kind is: a function from a `Step` to an `Output`, and a hash of the code that it consists of.

A step reads what earlier steps committed, asks the gateway, and returns everything it made. It writes nothing
itself: the runner commits its output in one piece, or not at all.
"""

from __future__ import annotations

import hashlib
import inspect
import threading
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import ModuleType
from typing import Any

from orchestrator.calls import Emit
from orchestrator.gateway import Gateway
from orchestrator.models import JobSpec, StepSpec, base_id
from orchestrator.records import StepResult
from orchestrator.settings import Settings
from orchestrator.state import JobOrder, NewStep, State
from tasks import prompting


class StepError(Exception):
    """A step cannot do its work. `kind` is for programs, the message and the artifacts `left` for the user."""

    def __init__(self, kind: str, message: str, left: Output | None = None) -> None:
        super().__init__(kind, message)
        self.kind = kind
        self.message = message
        self.left = left

    def __str__(self) -> str:
        return self.message


@dataclass(frozen=True, slots=True)
class Output:
    """Everything that a step made.

    `text` is kept as an artifact and is what templates see as `needs.<id>.text`. `artifacts` are named contents for
    later steps and for people. `files` belong to the generated project, by their path below its folder. `data` is
    small JSON that templates see as `needs.<id>.data`. `adds` are steps that the job's plan grows by; with `waits` the
    step is done when they are.
    """

    text: str | None = None
    artifacts: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    adds: Sequence[NewStep] = ()
    waits: bool = False


@dataclass(frozen=True)
class Step:
    """One step of one job as its code sees it."""

    job_id: str
    spec: JobSpec
    step: StepSpec
    gateway: Gateway
    emit: Emit
    state: State
    order: JobOrder
    settings: Settings
    cancelled: threading.Event = field(default_factory=threading.Event)
    _results: dict[str, StepResult] = field(default_factory=dict)

    def upstream(self, kind: str) -> str:
        """Id of the nearest step of that kind among those this one waits for."""
        steps = self.spec.plan().by_id
        layer = steps[base_id(self.step.id)].needs
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

    @cached_property
    def needs(self) -> tuple[str, ...]:
        """Ids of the steps that this one waited for."""
        if self.step.id == base_id(self.step.id):
            return self.step.needs
        return self.state.plan(self.job_id).by_id[self.step.id].needs

    def project_files(self, *step_ids: str, only: Container[str] | None = None) -> dict[str, str]:
        """The project's files as these steps, and those that they added, left them; by their path below its folder.

        Without ids the whole project; with `only` no other paths than these.
        """
        head = f"{self.spec.project}/"
        files = {
            path.removeprefix(head): file.sha256
            for path, file in self.state.files(self.job_id).items()
            if path.startswith(head)
            and (not step_ids or base_id(file.step or "") in step_ids)
            and (only is None or path.removeprefix(head) in only)
        }
        contents = self.contents(files.values())
        return {path: contents[sha256] for path, sha256 in files.items()}


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
