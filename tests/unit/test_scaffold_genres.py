"""Projects that are no web services: what the scaffold takes a description for, and what it then plans."""

from __future__ import annotations

import ast
import inspect
import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from providers import Request, Tool
from providers.scaffold import ScaffoldProvider, catalog, functions
from providers.scaffold.genre import genre_of
from providers.scaffold.plain import package_of
from tasks.blueprint import ProjectPlan, read_plan
from tasks.prompting import render
from tests.unit.test_scaffold_files import Built, Spec, assert_ruff_agrees, build

GENRES = {
    "A URL shortener": "web",
    "notes app": "web",
    "": "web",
    "Erstelle eine Anwendung für Bücher mit Titel": "web",
    "A library management system with books and members": "web",
    "Eine Bibliothek mit Büchern und Lesern": "web",
    "A FastAPI service that imports CSV into SQLite": "web",
    "POST /notes, from a Python script": "web",
    "<script>alert(1)</script> books": "web",
    "A command-line tool that loads a CSV file into a SQLite database": "csv",
    "Ein Kommandozeilenwerkzeug, das CSV-Dateien in eine SQLite-Datenbank lädt": "csv",
    "A CSV importer for sqlite, without a web server": "csv",
    "A small Python library for text statistics, no web part": "library",
    "A library with no web part": "library",
    "Eine Python-Bibliothek für Temperaturen ohne Web-Teil": "library",
    "A library of string helpers. No API.": "library",
    "A Python package that converts roman numerals. No HTTP server.": "library",
    "Kommandozeilen-Taschenrechner": "library",
    "A todo CLI": "library",
}
DESCRIPTIONS = {
    "csv": "Load CSV into SQLite from the command line",
    "csv_unicode": 'CLI: CSV → SQLite. Größe 📏 \u202e "quoted" \\ \'\'\' """ {{ 7 * 7 }}',
    "every": f"A CLI with the functions {' '.join([*catalog.CASES][:15])}",
    "rest": f"A Python library with {', '.join(f'{name}()' for name in [*catalog.CASES][15:30])}",
    "last": f"A Python library with {', '.join(f'{name}()' for name in [*catalog.CASES][30:45])}",
    "aliases": "A CLI with gcd(a, b), count_words(text), reverse(text), truncate(text)",
    "stubs": "A CLI with frobnicate(text, level=3), class(x), f(), g(a, a, *b, c: dict[str, int] = {}), h(größe)",
    "final": f"A CLI with {', '.join(f'{name}()' for name in [*catalog.CASES][45:])}",
    "taken": "A library with test_me(a), sum(values), date(), print(x), about(x), functions(), word_count(text), "
    + ", ".join(f"{'long_' * 7}{n}({', '.join(f'parameter_{m}' for m in range(9))})" for n in range(20)),
    "nothing": 'A library with no web part, that says "hi" and \'bye\' \\ """ and {{ more }} '
    + "on and on " * 30,
    "german": "Eine Python-Bibliothek für Temperaturumrechnung ohne Web-Teil",
    "pytest": "A library for statistics",
    "json": "A library for Roman numerals",
    "short": "A URL shortener with click counts",
    "short_german": "Ein Dienst, der URLs verkürzt: POST /kuerzen und GET /{kurzcode}",
    "short_all": "URL shortener: POST /api/links, GET /api/links, GET /links/{id}, DELETE /links/{code}, "
    "GET /r/{code}, GET /links/{code}/stats, PUT /links/{code}, GET /health, GET /stats, POST /login",
}


@pytest.fixture(scope="module")
def projects() -> dict[str, Built]:
    return {name: build(name, description) for name, description in DESCRIPTIONS.items()}


@pytest.mark.parametrize(("description", "genre"), GENRES.items())
def test_the_words_of_a_description_say_what_sort_of_project_it_is(description: str, genre: str) -> None:
    assert genre_of(description) == genre


@pytest.mark.parametrize("name", DESCRIPTIONS)
def test_the_review_finds_all_that_the_plan_promises(projects: dict[str, Built], name: str) -> None:
    judgements = projects[name].review(projects[name].files)["judgements"]

    assert len(judgements) == len(projects[name].plan.acceptance)
    assert [one for one in judgements if not one["met"]] == []


@pytest.mark.parametrize("name", DESCRIPTIONS)
def test_the_same_description_has_the_same_project(projects: dict[str, Built], name: str) -> None:
    assert build(name, DESCRIPTIONS[name]) == projects[name]


@pytest.mark.parametrize("name", DESCRIPTIONS)
def test_a_file_that_is_repaired_is_what_it_was(projects: dict[str, Built], name: str) -> None:
    built = projects[name]
    file = built.plan.files[0]

    assert built.files[file.path] in built.write(file, [], current="broken", evidence="it failed")


def test_ruff_finds_nothing_to_change_in_any_project(projects: dict[str, Built], tmp_path: Path) -> None:
    assert_ruff_agrees(projects, tmp_path)


def test_every_project_says_that_no_model_wrote_it(projects: dict[str, Built]) -> None:
    assert all("without a language model" in one.files["README.md"] for one in projects.values())


def test_nothing_of_the_web_is_in_a_library(projects: dict[str, Built]) -> None:
    plan = projects["german"].plan

    assert not plan.endpoints
    assert plan.dependencies == ("pytest>=8.0",)
    assert {one.path for one in plan.files} == {
        "german/__init__.py",
        "german/functions.py",
        "tests/test_functions.py",
        "requirements.txt",
        "pyproject.toml",
        ".gitignore",
    }
    assert "celsius_to_fahrenheit(degrees: float) -> float" in plan.by_path["german/functions.py"].interface


def test_a_project_does_not_hide_a_module_of_pythons() -> None:
    assert [package_of(name) for name in ("json", "pytest", "my-tool", "größe")] == [
        "json_tool",
        "pytest_tool",
        "my_tool",
        "groesse",
    ]


def test_a_function_that_no_rule_covers_says_so(projects: dict[str, Built]) -> None:
    files = projects["stubs"].files

    assert "def frobnicate(text: Any, level: Any) -> Any:" in files["stubs/functions.py"]
    assert "frobnicate" in re.search(r"Not written, because no rule covers them: (.*)", files["README.md"])[1]  # type: ignore[index]
    assert "Not written" not in projects["every"].files["README.md"]


def test_a_function_may_be_called_otherwise_than_in_the_catalog(projects: dict[str, Built]) -> None:
    code = projects["aliases"].files["aliases/functions.py"]

    assert "def gcd(first: int, second: int) -> int:" in code
    assert "def count_words(text: str) -> int:" in code
    assert "def truncate(text: Any) -> Any:" in code


@pytest.mark.parametrize("name", catalog.CASES)
def test_a_catalogs_function_does_what_its_cases_say(name: str) -> None:
    assert all(eval(line, {"functions": catalog}) for line in functions.named(name).asserted)


def test_every_function_of_the_catalog_has_cases_and_every_other_name_leads_to_one() -> None:
    written = {name for name, one in vars(catalog).items() if inspect.isfunction(one)}

    assert written == set(catalog.CASES)
    assert written.issuperset(catalog.ALIASES.values())
    assert written.issuperset(name for _, names in catalog.TOPICS for name in names)


def test_a_shortener_has_a_way_in_and_a_way_out_even_where_none_is_named() -> None:
    plan = build("s", "A URL shortener. GET /links lists them").plan

    assert [f"{one.method} {one.path}" for one in plan.endpoints] == [
        "GET /links",
        "POST /shorten",
        "GET /{code}",
    ]


def test_the_tool_answers_with_a_plan_that_can_be_read() -> None:
    tool = Tool("submit_plan", "", ProjectPlan.model_json_schema())
    messages = render("architect", spec=Spec("tool", "CSV to SQLite"))

    plan = read_plan(json.loads(ScaffoldProvider().complete(Request(messages, tool)).text))

    assert plan.by_path["tests/test_loader.py"].depends_on == ("tool/loader.py",)
    assert plan.interfaces_for("tool/__main__.py")[-1][0] == "tool/loader.py"


WORDS = st.sampled_from(
    [
        *(
            "CSV",
            "SQLite",
            "CLI",
            "Kommandozeile",
            "library",
            "Bibliothek",
            "function",
            "web",
            "no",
            "without",
            "books",
        ),
        *(
            "URL",
            "shortener",
            "shorten",
            "GET /{code}",
            "POST /shorten",
            "DELETE /links/{id}",
            "statistics",
            "prime",
        ),
        *(
            "f(x)",
            "slugify",
            "class(def)",
            "__init__(self)",
            "x_y_z",
            "größe",
            "🚀",
            "{{ }}",
            '"',
            "\\",
            "`",
            "\n",
        ),
        *(":", ",", ".", "(", ")"),
    ]
)


@given(st.lists(WORDS, max_size=25), st.from_regex(r"[a-z][a-z0-9_-]{0,20}", fullmatch=True))
@settings(max_examples=40, deadline=None)
def test_any_words_make_a_project_that_is_whole(words: list[str], project: str) -> None:
    built = build(project, " ".join(words))

    for path, text in built.files.items():
        if path.endswith(".py"):
            ast.parse(text)
    assert all(one["met"] for one in built.review(built.files)["judgements"])
