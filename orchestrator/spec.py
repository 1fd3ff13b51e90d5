"""From a user's YAML to a valid JobSpec, or to one error that names everything that is wrong with it."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from orchestrator.errors import OrchError
from orchestrator.kindnames import GROUP, known_kinds
from orchestrator.models import (
    MAX_CONCURRENCY,
    MAX_TEXT,
    MAX_TIMEOUT_S,
    Budget,
    Flaws,
    JobSpec,
    StepSpec,
)
from orchestrator.paths import UnsafePath
from orchestrator.plan import MAX_STEPS
from orchestrator.step_prompts import check_step_prompt, read_prompts
from orchestrator.templates import check_prompt
from orchestrator.yamlfile import Document, Loc, YamlError, load, parse

MOST_SHOWN = 20
INTERNAL = "prompts"
"""The field of a job's spec that only we fill."""
_LONGEST_VALUE = 80
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = _LONGEST_VALUE

_NAME = "a name of a-z, 0-9, _ and - (ASCII) that begins with a letter, at most 64 characters"
_SECONDS = f"a number of seconds above 0, at most {MAX_TIMEOUT_S} (7 days)"
_RIGHT = {
    "project": _NAME,
    "id": _NAME,
    "needs": "a list of step ids, each once",
    "task_description": f"text that says what to build, at most {MAX_TEXT:,} characters",
    "prompt": f"the text of a prompt, at most {MAX_TEXT:,} characters",
    "provider": "auto, scaffold, ollama, openai, anthropic, mlx or simulated, or a list without auto",
    "model": "the provider's name of a model, at most 200 characters",
    "options": "a mapping of at most 50 options, such as {temperature: 0.1}",
    "concurrency": f"a whole number from 1 to {MAX_CONCURRENCY}",
    "timeout_s": _SECONDS,
    "output_dir": "the path of a folder, at most 4,096 characters",
    "prompts_dir": "the path of a folder, from the spec's own, at most 4,096 characters",
    "output": "the path of a file below the project, such as docs/draft.md",
    "budget": "a mapping with tokens, usd or both, such as {tokens: 200000, usd: 2.5}",
    "tokens": "a whole number from 1 to 1000000000000",
    "usd": "a number above 0, at most 1000000",
    "repair_rounds": "a whole number from 0 to 10",
    "retries": "a whole number from 0 to 20",
    "kind": "architect, builder, docs, qa, prompt or a plug-in's kind",
    "steps": f"a list of at least 1 step and at most {MAX_STEPS:,}, such as [{{id: draft, prompt: Write it}}]",
}
"""What would be right, by the name of a field; each reads on from "write"."""

_ITEM = {
    "steps": "a mapping, such as {id: draft, prompt: Write it}",
    "needs": f"the id of a step: {_NAME}",
    "provider": "scaffold, ollama, openai, anthropic, mlx or simulated",
    "options": "text, a number, true, false, null or a list of those",
}
"""The same for what stands in a field that is a list or a mapping."""

_WRONG = {
    "int_type": "is not a whole number",
    "float_type": "is not a number",
    "string_type": "is not text",
    "tuple_type": "is not a list",
    "dict_type": "is not a mapping",
    "model_type": "is not a mapping",
    "finite_number": "is not a finite number",
    "greater_than": "is too small",
    "greater_than_equal": "is too small",
    "less_than": "is too large",
    "less_than_equal": "is too large",
    "literal_error": "is not one of the names allowed here",
    "string_pattern_mismatch": "is not a valid name",
    "string_too_long": "is too long",
    "string_too_short": "is empty",
    "too_long": "has too many entries",
    "too_short": "is empty",
    "value_error": "is not allowed",
}
"""Pydantic's types of error in our words; each reads on from the value."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a spec: its line (None: the file as a whole), its place in the spec, and what it is."""

    line: int | None
    where: str
    message: str

    def __str__(self) -> str:
        return f"{self.where}: {self.message}" if self.where else self.message


class SpecError(OrchError):
    """A spec is invalid; its text is what the user reads: `file:line: place: what is wrong; what would be right`."""

    exit_code = 2

    def __init__(self, name: str, problems: tuple[Problem, ...]) -> None:
        super().__init__(name, problems)
        self.name = name
        self.problems = problems

    def __str__(self) -> str:
        lines = [self._line(problem) for problem in self.problems[:MOST_SHOWN]]
        if len(self.problems) == 1:
            return lines[0]
        rest = len(self.problems) - len(lines)
        more = [f"  … and {rest} more"] if rest else []
        head = f"{_printable(self.name)} has {len(self.problems)} problems:"
        return "\n".join([head, *(f"  {line}" for line in lines), *more])

    def _line(self, problem: Problem) -> str:
        place = self.name if problem.line is None else f"{self.name}:{problem.line}"
        return _printable(f"{place}: {problem}")


@dataclass(frozen=True, slots=True)
class LoadedSpec:
    """A valid spec, and its text as the user wrote it."""

    spec: JobSpec
    source: str


def load_spec(path: Path) -> LoadedSpec:
    """Read a spec from a file.

    Raises:
        SpecError: All that is wrong with it.
    """
    try:
        document = load(path)
    except YamlError as error:
        raise SpecError(str(path), (Problem(error.line, "", error.message),)) from None
    return _checked(document, str(path), path.parent)


def parse_spec(text: str, name: str) -> LoadedSpec:
    """Read a spec that is in memory; `name` stands for its file in messages, and for the folder that it is in.

    Raises:
        SpecError: All that is wrong with it.
    """
    try:
        document = parse(text)
    except YamlError as error:
        raise SpecError(name, (Problem(error.line, "", error.message),)) from None
    return _checked(document, name, Path(name).parent)


def shown(value: object) -> str:
    """Return a value for a message: short, on one line, without characters that a terminal obeys."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = _SHORT.repr(value)
    return _printable(text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 1]}…")


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _checked(document: Document, name: str, folder: Path) -> LoadedSpec:
    ours = [*_internal(document)]
    try:
        spec = JobSpec.model_validate({key: one for key, one in document.values.items() if key != INTERNAL})
    except ValidationError as error:
        found = [problem for details in error.errors() for problem in _translated(details, document)]
        raise SpecError(name, _in_order([*ours, *found])) from None
    if "steps" in document.values and spec.steps is None:
        message = f"null is not a list; write {_RIGHT['steps']}, or leave out steps"
        raise SpecError(name, (Problem(document.line_of(("steps",)), "steps", message),))
    prompts, wrong = _own_prompts(spec, document, folder)
    if found := [
        *ours,
        *wrong,
        *_kind_problems(spec, document),
        *_prompt_problems(spec, document),
    ]:
        raise SpecError(name, _in_order(found))
    return LoadedSpec(spec.model_copy(update={INTERNAL: prompts}), document.text)


def _internal(document: Document) -> Iterator[Problem]:
    """Refuse what only we may write into a spec."""
    if INTERNAL in document.values:
        yield Problem(document.line_of((INTERNAL,)), "", _unknown_key((INTERNAL,)))


def _own_prompts(spec: JobSpec, document: Document, folder: Path) -> tuple[dict[str, str], list[Problem]]:
    """Return the prompts in the spec's prompts_dir, and what is wrong with them."""
    if spec.prompts_dir is None:
        return {}, []
    line, fields = document.line_of(("prompts_dir",)), spec.for_prompts()
    try:
        prompts = read_prompts(folder / spec.prompts_dir)
    except ValueError as error:
        return {}, [Problem(line, "prompts_dir", f"{shown(spec.prompts_dir)} {error}")]
    return prompts, [
        Problem(line, "prompts_dir", f"{name}.j2 line {problem.line}: {problem.message}")
        for name, text in prompts.items()
        for problem in check_step_prompt(name, text, fields)
    ]


def _kind_problems(spec: JobSpec, document: Document) -> Iterator[Problem]:
    """Name the kinds that are neither built in nor those of a plug-in that is installed here."""
    known = known_kinds()
    for index, step in enumerate(spec.steps or ()):
        if step.kind in known:
            continue
        loc: Loc = ("steps", index, "kind")
        close = difflib.get_close_matches(step.kind, known, n=1)
        meant = f"did you mean {close[0]!r}? " if close else ""
        message = (
            f"{shown(step.kind)} is no kind of step; {meant}the kinds installed here are {', '.join(known)}"
            f" (others come with plug-ins: entry points {GROUP})"
        )
        yield Problem(document.line_of(loc), _where(loc), message)


def _in_order(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    return tuple(sorted(problems, key=lambda problem: problem.line or 0))


def _prompt_problems(spec: JobSpec, document: Document) -> Iterator[Problem]:
    fields = spec.for_prompts()
    for index, step in enumerate(spec.steps or ()):
        loc: Loc = ("steps", index, "prompt")
        for problem in check_prompt(step.prompt or "", step.needs, fields):
            yield Problem(document.line_within(loc, problem.line), _where(loc), problem.message)


def _translated(error: ErrorDetails, document: Document) -> Iterator[Problem]:
    """Say what pydantic found in our words, at the place where the user wrote it."""
    path, value = _resolved(error["loc"], document.values)
    kind, cause = error["type"], error.get("ctx", {}).get("error")
    if kind == "too_short" and error["input"]:
        return  # a list whose items are at fault; they have problems of their own
    if isinstance(cause, Flaws):
        for flaw in cause.flaws:
            at = (*path, *flaw.loc)
            yield Problem(document.line_of(at), _where(at), flaw.message)
        return
    if kind == "missing":
        path = (*path, str(error["loc"][-1]))
        message = f"is missing; write {_right(path)}"
    elif kind == "extra_forbidden":
        message = _unknown_key(path)
    elif isinstance(cause, UnsafePath):
        message = f"{shown(value)} {cause.why}"
    else:
        wrong = str(cause) if cause else _WRONG.get(kind, "is not allowed")
        message = f"{shown(value)} {wrong}; {_meant(error)}write {_right(path)}{_quotes(kind, value)}"
    at = path[:-1] if kind == "extra_forbidden" else path
    yield Problem(document.line_of(path), _where(at), message)


def _resolved(loc: Sequence[str | int], values: Any) -> tuple[Loc, Any]:
    """Return the part of pydantic's path that leads through the user's values, and what stands at its end."""
    path: Loc = ()
    for part in loc:
        inside = isinstance(values, Mapping) or (isinstance(values, list) and isinstance(part, int))
        if inside and (part in values if isinstance(values, Mapping) else int(part) < len(values)):
            path, values = (*path, part), values[part]
    return path, values


def _where(path: Loc) -> str:
    """Write a path as people do: steps[0].needs[1]."""
    parts = (f"[{part}]" if isinstance(part, int) else f".{shown(part)[1:-1]}" for part in path)
    return "".join(parts).removeprefix(".")


def _right(path: Loc) -> str:
    match path:
        case (*_, str(name), int()):
            return _ITEM.get(name, "another value")
        case ("options", _) | (_, _, "options", _):
            return _ITEM["options"]
        case (*_, str(name)):
            return _RIGHT.get(name, "another value")
    return "a mapping"


def _unknown_key(path: Loc) -> str:
    models: tuple[type[BaseModel], ...] = (JobSpec, Budget, StepSpec)
    known = [name for name in models[len(path) - 1].model_fields if name != INTERNAL]
    key = str(path[-1])
    if close := difflib.get_close_matches(key[:_LONGEST_VALUE], known, n=1):
        return f"unknown key {shown(key)}; did you mean {close[0]!r}?"
    return f"unknown key {shown(key)}; the known keys are {', '.join(known)}"


def _meant(error: ErrorDetails) -> str:
    """Return "did you mean …? " where a name is close to one that is allowed."""
    if error["type"] != "literal_error" or not isinstance(error["input"], str):
        return ""
    names = error["ctx"]["expected"].replace("'", "").replace(" or ", ", ").split(", ")
    close = difflib.get_close_matches(error["input"][:_LONGEST_VALUE], names, n=1)
    return f"did you mean {close[0]!r}? " if close else ""


def _quotes(kind: str, value: object) -> str:
    if (
        kind in {"int_type", "float_type"}
        and isinstance(value, str)
        and value.replace(".", "", 1).isdecimal()
    ):
        return ", without quotes"
    if kind == "string_type" and isinstance(value, int | float):
        return ", in quotes if that is meant"
    return ""
