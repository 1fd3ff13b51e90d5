"""The architect's answer: a typed plan of the project, which every later step works from."""

from __future__ import annotations

from graphlib import CycleError, TopologicalSorter
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator
from pydantic.config import JsonDict

from orchestrator.paths import safe_relative

Text = Annotated[str, StringConstraints(max_length=2_000)]
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,63}$")]

_EXAMPLE: JsonDict = {
    "goal": "Count words in text",
    "stack": ["Python"],
    "entities": [],
    "endpoints": [],
    "files": [
        {
            "path": "wordcount/__init__.py",
            "purpose": "The package: count_words(text) -> int",
            "depends_on": [],
        },
        {
            "path": "tests/test_wordcount.py",
            "purpose": "Tests of count_words",
            "depends_on": ["wordcount/__init__.py"],
        },
    ],
    "dependencies": ["pytest"],
    "run_command": "python -m wordcount",
    "test_command": "python -m pytest",
    "acceptance": ["count_words('a b') is 2"],
}


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


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
    """A file to write: what it is for, and which files of the plan it uses."""

    path: Annotated[str, StringConstraints(min_length=1, max_length=200)]
    purpose: Text
    depends_on: tuple[str, ...] = ()


class ProjectPlan(_Value):
    """The whole project before a line of it is written. README.md is not in `files`: the docs step writes it."""

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    goal: Text
    stack: tuple[Text, ...] = Field(max_length=30)
    entities: tuple[Entity, ...] = Field(max_length=30)
    endpoints: tuple[Endpoint, ...] = Field(max_length=100)
    files: tuple[PlannedFile, ...] = Field(min_length=1, max_length=200)
    dependencies: tuple[Text, ...] = Field(max_length=50)
    run_command: Text
    test_command: Text
    acceptance: tuple[Text, ...] = Field(min_length=1, max_length=50)

    @model_validator(mode="after")
    def _files_can_be_built(self) -> Self:
        paths = [file.path for file in self.files]
        for path in paths:
            safe_relative(path)
        folded = [path.casefold() for path in paths]
        if repeated := {path for path in paths if folded.count(path.casefold()) > 1}:
            raise ValueError(f"files listed twice: {', '.join(sorted(repeated))}")
        for file in self.files:
            if unknown := set(file.depends_on) - set(paths):
                raise ValueError(
                    f"{file.path} depends on files that are not planned: {', '.join(sorted(unknown))}"
                )
        try:
            TopologicalSorter({file.path: file.depends_on for file in self.files}).prepare()
        except CycleError as error:
            raise ValueError(
                f"files depend on each other in a circle: {' → '.join(error.args[1])}"
            ) from error
        if not any("test" in path.casefold() for path in paths):
            raise ValueError("no test file is planned")
        return self

    def in_build_order(self) -> tuple[PlannedFile, ...]:
        """The files such that each comes after those it depends on; ties keep the plan's order."""
        by_path = {file.path: file for file in self.files}
        order = TopologicalSorter({file.path: file.depends_on for file in self.files}).static_order()
        return tuple(by_path[path] for path in order)
