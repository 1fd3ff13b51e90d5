"""The architect's plan: what makes one that cannot be built is said in words that a model can act on."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.plan import MAX_STEPS
from tasks.blueprint import MAX_FILES, ProjectPlan, is_test, read_plan

FILES = [
    {"path": "app/db.py", "purpose": "storage", "interface": "connect() -> Connection"},
    {
        "path": "app/notes.py",
        "purpose": "notes",
        "depends_on": ["app/db.py"],
        "interface": "add(text: str) -> int",
    },
    {"path": "tests/test_notes.py", "purpose": "tests", "depends_on": ["app/notes.py"]},
]


def values(files: list[dict[str, Any]] | None = None, **changes: Any) -> dict[str, Any]:
    return {
        "goal": "Keep notes",
        "stack": ["Python"],
        "entities": [],
        "endpoints": [],
        "files": FILES if files is None else files,
        "dependencies": [],
        "run_command": "",
        "test_command": "python -m pytest",
        "acceptance": ["a note is kept"],
        **changes,
    }


def file(path: str, *needs: str) -> dict[str, Any]:
    return {"path": path, "purpose": "x", "depends_on": list(needs)}


def test_a_plan_survives_json() -> None:
    plan = read_plan(values(modules=[{"name": "app", "purpose": "All of it"}]))

    assert ProjectPlan.model_validate_json(plan.model_dump_json()) == plan


def test_a_file_sees_the_interfaces_of_all_that_it_depends_on_in_build_order() -> None:
    plan = read_plan(values())

    assert plan.interfaces_for("tests/test_notes.py") == [
        ("app/db.py", "connect() -> Connection"),
        ("app/notes.py", "add(text: str) -> int"),
    ]
    assert plan.interfaces_for("app/db.py") == []


def test_files_are_built_after_those_they_depend_on() -> None:
    plan = read_plan(values([*reversed(FILES)]))

    assert [one.path for one in plan.in_build_order()] == ["app/db.py", "app/notes.py", "tests/test_notes.py"]


def test_the_readme_is_left_to_the_docs_step_even_where_a_model_plans_it() -> None:
    plan = read_plan(
        values([*FILES[:2], file("README.md"), file("tests/test_a.py", "readme.md", "app/db.py")])
    )

    assert [one.path for one in plan.files] == ["app/db.py", "app/notes.py", "tests/test_a.py"]
    assert plan.by_path["tests/test_a.py"].depends_on == ("app/db.py",)


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ([file("test_a.py", "b.py"), file("b.py", "test_a.py")], "depend on each other in a circle"),
        ([file("test_a.py", "test_a.py")], "depend on each other in a circle"),
        ([file("test_a.py"), file("../b.py")], "'../b.py' has a . or .. in it"),
        ([file("test_a.py"), file("/etc/passwd")], "is absolute"),
        ([file("test_a.py"), file("app/größe.py")], "has a character that is not ASCII"),
        ([file("test_a.py"), file("app\\b.py")], "has a backslash"),
        ([file("test_a.py"), file(".git/hooks/x")], "goes into a git repository"),
        ([file("test_a.py"), file("b@2.py")], "has '@' in it"),
        ([file("test_a.py"), file("a b.py")], "has ' ' in it"),
        ([file("test_a.py"), file("nul.txt")], "is a device on Windows"),
        ([file("test_a.py"), file("B.py"), file("b.py")], "b.py is planned 2 times"),
        ([file("test_a.py"), file("app"), file("app/b.py")], "app is planned as a file, and as a folder"),
        ([file("test_a.py", "c.py")], "test_a.py depends on files that are not planned: c.py"),
        ([file("a.py"), file("latest.py"), file("tests/conftest.py")], "no test file is planned"),
        ([file(f"test_{n}.py") for n in range(MAX_FILES + 1)], f"files: .* at most {MAX_FILES} items"),
        ([], "files: .* at least 1 item"),
    ],
)
def test_files_that_cannot_be_built_are_refused_with_the_reason(
    files: list[dict[str, Any]], reason: str
) -> None:
    with pytest.raises(ValueError, match=reason) as refused:
        read_plan(values(files))

    assert "pydantic" not in str(refused.value)
    assert len(str(refused.value)) < 1_000


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"goal": " "}, "goal: "),
        ({"acceptance": []}, "acceptance: "),
        ({"endpoints": [{"method": "GET", "path": "notes", "summary": ""}]}, r"endpoints\[0\].path: "),
        (
            {"entities": [{"name": "Note", "fields": [{"name": "a", "type": "blob"}]}]},
            r"entities\[0\].fields",
        ),
        ({"colour": "red"}, "colour: "),
    ],
)
def test_values_that_do_not_fit_are_named_by_their_place(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        read_plan(values(**changes))


def test_of_many_faults_the_first_are_named_and_the_rest_counted() -> None:
    endpoints = [{"method": "GET", "path": "x", "summary": ""}] * 9

    with pytest.raises(ValueError, match=r"endpoints\[4\].*; and 4 more$"):
        read_plan(values(endpoints=endpoints))


@pytest.mark.parametrize(
    "path", ["test_a.py", "a_test.py", "tests/check.py", "src/a.test.js", "tests.py", "spec/a_spec.rb"]
)
def test_these_are_tests(path: str) -> None:
    assert is_test(path)


@pytest.mark.parametrize(
    "path", ["latest.py", "contest/a.py", "tests/__init__.py", "tests/conftest.py", "a.py"]
)
def test_these_are_none(path: str) -> None:
    assert not is_test(path)


def test_a_plan_of_the_largest_size_leaves_room_for_rounds_of_repair() -> None:
    assert MAX_FILES * 11 < MAX_STEPS
