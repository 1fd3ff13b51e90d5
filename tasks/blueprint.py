"""The architect's answer: a typed plan of the project, which every later step works from."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from itertools import accumulate
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic.config import JsonDict

from orchestrator.paths import case_key, safe_relative

README = "README.md"
MAX_FILES = 100
_MOST_ERRORS = 5

Text = Annotated[str, StringConstraints(max_length=2_000)]
Said = Annotated[str, StringConstraints(max_length=2_000, pattern=r"\S")]
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,63}$")]
Path = Annotated[str, StringConstraints(min_length=1, max_length=200)]

_TEST_NAME = re.compile(r"(^|[_.-])(tests?|spec)([_.-]|$)", re.IGNORECASE)
_TEST_FOLDERS = {"test", "tests", "spec", "__tests__"}
_ODD = re.compile(r"[^A-Za-z0-9._/+()\[\]-]")
_HELPERS = {"__init__.py", "conftest.py"}

_EXAMPLE: JsonDict = {
    "goal": "Count words in text",
    "stack": ["Python"],
    "modules": [{"name": "wordcount", "purpose": "Counts words"}],
    "entities": [],
    "endpoints": [],
    "files": [
        {
            "path": "wordcount/__init__.py",
            "purpose": "The package",
            "depends_on": [],
            "interface": "count_words(text: str) -> int",
        },
        {
            "path": "tests/test_wordcount.py",
            "purpose": "Tests of count_words",
            "depends_on": ["wordcount/__init__.py"],
            "interface": "",
        },
    ],
    "dependencies": ["pytest"],
    "run_command": "python -m wordcount",
    "test_command": "python -m pytest",
    "acceptance": ["count_words('a b') is 2"],
}


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Module(_Value):
    """A part of the project: a package, a module, or a script."""

    name: Said
    purpose: Text


class EntityField(_Value):
    """One attribute of an entity; the id is implied."""

    name: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,63}$")]
    type: Literal["string", "text", "integer", "number", "boolean", "date", "datetime"]
    required: bool = True


class Entity(_Value):
    """A thing that the project stores: singular, CamelCase."""

    name: Name
    fields: tuple[EntityField, ...] = Field(min_length=1, max_length=50)


class Endpoint(_Value):
    """One HTTP route; `entity` names what it works on, where it works on one."""

    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE"]
    path: Annotated[str, StringConstraints(pattern=r"^/[A-Za-z0-9_\-/{}.]*$", max_length=200)]
    summary: Text
    entity: Name | None = None


class PlannedFile(_Value):
    """A file to write: what it is for, which files of the plan it uses, and what it offers to those that use it."""

    path: Path
    purpose: Text
    depends_on: tuple[Path, ...] = Field(default=(), max_length=MAX_FILES)
    interface: Text = Field(default="", description="Public names with their signatures, as short text.")


class ProjectPlan(_Value):
    """The whole project before a line of it is written. README.md is not in `files`: the docs step writes it."""

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    goal: Said
    stack: tuple[Text, ...] = Field(max_length=30)
    modules: tuple[Module, ...] = Field(default=(), max_length=50)
    entities: tuple[Entity, ...] = Field(max_length=30)
    endpoints: tuple[Endpoint, ...] = Field(max_length=100)
    files: tuple[PlannedFile, ...] = Field(min_length=1, max_length=MAX_FILES)
    dependencies: tuple[Text, ...] = Field(max_length=50)
    run_command: Text
    test_command: Said
    acceptance: tuple[Said, ...] = Field(min_length=1, max_length=50)

    @field_validator("files")
    @classmethod
    def _without_the_readme(cls, files: tuple[PlannedFile, ...]) -> tuple[PlannedFile, ...]:
        """Leave out the file that the docs step writes: models plan it whatever they are told."""
        return tuple(
            file.model_copy(
                update={"depends_on": tuple(one for one in file.depends_on if not _is_readme(one))}
            )
            for file in files
            if not _is_readme(file.path)
        )

    @model_validator(mode="after")
    def _files_can_be_built(self) -> Self:
        if problems := [*_path_problems(self.files)] or [*_need_problems(self.files)]:
            raise ValueError("; ".join(problems[:_MOST_ERRORS]))
        if not any(is_test(file.path) for file in self.files):
            raise ValueError("no test file is planned; add one, such as tests/test_main.py")
        return self

    @property
    def by_path(self) -> dict[str, PlannedFile]:
        """The files by their path."""
        return {file.path: file for file in self.files}

    def in_build_order(self) -> tuple[PlannedFile, ...]:
        """The files such that each comes after those it depends on; ties keep the plan's order."""
        by_path = self.by_path
        order = TopologicalSorter({file.path: file.depends_on for file in self.files}).static_order()
        return tuple(by_path[path] for path in order)

    def interfaces_for(self, path: str) -> list[tuple[str, str]]:
        """What a file can use: the files that it depends on, directly or not, each with what it offers, if anything."""
        by_path, found, waiting = self.by_path, set[str](), [path]
        while waiting:
            needs = set(by_path[waiting.pop()].depends_on) - found
            found |= needs
            waiting += needs
        return [
            (file.path, file.interface)
            for file in self.in_build_order()
            if file.path in found and file.interface
        ]


def read_plan(values: Mapping[str, Any]) -> ProjectPlan:
    """Return the plan that a model hands in; ValueError says what is wrong with it, for the model to correct."""
    try:
        return ProjectPlan.model_validate(values)
    except ValidationError as error:
        shown = error.errors(include_url=False, include_input=False)
        problems = [f"{_place(one['loc'])}{one['msg'].removeprefix('Value error, ')}" for one in shown]
        rest = len(problems) - _MOST_ERRORS
        more = [f"and {rest} more"] if rest > 0 else []
        raise ValueError("; ".join([*problems[:_MOST_ERRORS], *more])) from error


def is_test(path: str) -> bool:
    """Whether a file by its name holds tests."""
    file = PurePosixPath(path)
    if file.name in _HELPERS:
        return False
    return bool(_TEST_NAME.search(file.stem)) or any(part in _TEST_FOLDERS for part in file.parts[:-1])


def _is_readme(path: str) -> bool:
    return case_key(path) == case_key(README)


def _place(loc: Iterable[str | int]) -> str:
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc).removeprefix(".")
    return f"{text}: " if text else ""


_NOT_THEIRS = frozenset({"pytest.py", "sitecustomize.py", "usercustomize.py"})


def _path_problems(files: Iterable[PlannedFile]) -> Iterator[str]:
    """Say what keeps the paths from being files below one folder, on any platform."""
    keys = []
    for file in files:
        try:
            safe_relative(file.path)
        except ValueError as error:
            yield str(error)
        else:
            if file.path in _NOT_THEIRS:
                yield f"path {file.path!r} stands for something else when Python runs; call it otherwise"
            if odd := _ODD.search(file.path):
                yield f"path {file.path!r} has {odd[0]!r} in it; use letters, digits, . _ and -"
        keys.append(case_key(file.path))
    for key, times in Counter(keys).items():
        if times > 1:
            yield f"{key} is planned {times} times; list each file once"
    folders = {folder for key in keys for folder in list(accumulate(key.split("/"), "{}/{}".format))[:-1]}
    for key in sorted(folders & {*keys}):
        yield f"{key} is planned as a file, and as a folder with files in it"


def _need_problems(files: Iterable[PlannedFile]) -> Iterator[str]:
    needs = {file.path: file.depends_on for file in files}
    for path, needed in needs.items():
        if unknown := sorted(set(needed) - set(needs)):
            yield f"{path} depends on files that are not planned: {', '.join(unknown)}"
    try:
        TopologicalSorter(needs).prepare()
    except CycleError as error:
        yield f"files depend on each other in a circle: {' → '.join(error.args[1])}"
