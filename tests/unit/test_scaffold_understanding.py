"""What the scaffold understands of a description: endpoints, entities, fields."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from providers.scaffold import words
from providers.scaffold.understanding import Understanding, understand
from tasks.blueprint import Endpoint, Entity


def endpoints(description: str) -> list[str]:
    return [f"{endpoint.method} {endpoint.path}" for endpoint in understand(description).endpoints]


def entities(description: str) -> dict[str, list[str]]:
    return {
        entity.name: [field.name for field in entity.fields] for entity in understand(description).entities
    }


def types(description: str) -> dict[str, str]:
    return {field.name: field.type for entity in understand(description).entities for field in entity.fields}


CRUD = [
    "POST /{0}s",
    "GET /{0}s",
    "GET /{0}s/{{{0}_id}}",
    "PUT /{0}s/{{{0}_id}}",
    "PATCH /{0}s/{{{0}_id}}",
    "DELETE /{0}s/{{{0}_id}}",
]


@pytest.mark.parametrize(
    ("description", "found"),
    [
        ("Notes with POST /notes and GET /notes.", ["POST /notes", "GET /notes"]),
        ("post /notes, `get /notes/{id}`.", ["POST /notes", "GET /notes/{note_id}"]),
        ("GET and POST /notes; DELETE /notes/:id", ["GET /notes", "POST /notes", "DELETE /notes/{note_id}"]),
        (
            "GET/POST /notes and PUT/PATCH /notes/<int:id>",
            ["GET /notes", "POST /notes", "PUT /notes/{note_id}", "PATCH /notes/{note_id}"],
        ),
        ("GET requests to /notes, POST to /notes", ["GET /notes", "POST /notes"]),
        ("/notes: GET, POST", ["GET /notes", "POST /notes"]),
        ("GET /notes?limit=3", ["GET /notes"]),
        ("GET /notes, GET /notes/", ["GET /notes"]),
        ("DELETE /users/{user_id}/posts", ["DELETE /users/{user_id}/posts"]),
        ("GET /api/v1/users/{id}/orders/{order_id}", ["GET /api/v1/users/{user_id}/orders/{order_id}"]),
        ("GET /items/{class} POST /items", ["GET /items/{item_class}", "POST /items"]),
        ("GET /notes, GET /docs, GET /openapi.json", ["GET /notes"]),
    ],
)
def test_endpoints_are_found_in_many_spellings(description: str, found: list[str]) -> None:
    assert endpoints(description) == found


@pytest.mark.parametrize("path", ["/../../etc/passwd", "/a/../b", "/./x", "/..", "/größe", "/{a}/{a}"])
def test_a_path_that_is_no_clean_path_is_not_an_endpoint(path: str) -> None:
    assert endpoints(f"POST {path} and GET /notes") == ["GET /notes"]


@pytest.mark.parametrize(
    ("description", "entity"),
    [
        ("manage tasks", "task"),
        ("a todo app", "todo"),
        ("A to-do list", "todo"),
        ("Create a FastAPI notes app", "note"),
        ("an API for books", "book"),
        ("Keep track of my recipes", "recipe"),
        ("expense tracker", "expense"),
        ("Movie API: each movie has a title and a year", "movie"),
        ("", "item"),
        ("🚀", "item"),
        ("It does things.", "item"),
    ],
)
def test_without_endpoints_an_entity_gets_full_crud(description: str, entity: str) -> None:
    assert endpoints(description) == [route.format(entity) for route in CRUD]


@pytest.mark.parametrize(
    ("description", "found"),
    [
        ("A note has a title and a body. GET /notes", {"Note": ["title", "body"]}),
        ("books with title, author and year", {"Book": ["title", "author", "year"]}),
        (
            "users (name, email) and posts (title, body)",
            {"User": ["name", "email"], "Post": ["title", "body"]},
        ),
        ("fields: a, b, c", {"Item": ["a", "b", "c"]}),
        ("a recipe app with title and cost", {"Recipe": ["title", "cost"]}),
        ("a notes app with SQLAlchemy on SQLite", {"Note": ["title", "body"]}),
        ("manage tasks", {"Task": ["title", "done"]}),
        ("manage users", {"User": ["name", "email"]}),
        ("manage widgets", {"Widget": ["name", "description"]}),
        (
            "A book has a type, a list, an id and a class. manage books",
            {"Book": ["book_type", "book_list", "book_class"]},
        ),
        ("eine App für Notizen mit Titel und Inhalt", {"Notiz": ["titel", "inhalt"]}),
        ("GET /links/{code}, POST /links. A link has a url.", {"Link": ["url", "code"]}),
        (
            "manage a library: books (title, isbn), members and loans",
            {"Book": ["title", "isbn"], "Member": ["name", "email"], "Loan": ["name", "description"]},
        ),
    ],
)
def test_entities_and_fields_are_found_in_prose(description: str, found: dict[str, list[str]]) -> None:
    assert entities(description) == found


def test_what_is_nested_or_belongs_refers_to_its_owner() -> None:
    assert entities("GET /users/{user_id}/posts")["Post"] == ["title", "body", "user_id"]
    assert entities("posts (title) and users (name, email). A post belongs to a user")["Post"] == [
        "title",
        "user_id",
    ]


def test_references_never_go_in_a_circle() -> None:
    found = entities("GET /teams/{team_id}/users and GET /users/{user_id}/teams")

    assert ("team_id" in found["User"], "user_id" in found["Team"]) == (True, False)


def test_types_come_from_what_is_said_or_from_names() -> None:
    named = "a title, a start_date, created_at, price, year, is_public, body, url"

    assert types(f"An event has {named}, count (number) and optional rating (int)") == {
        "title": "string",
        "start_date": "date",
        "created_at": "datetime",
        "price": "number",
        "year": "integer",
        "is_public": "boolean",
        "body": "text",
        "count": "number",
        "url": "string",
        "rating": "integer",
    }


def test_optional_fields_flags_and_stamps_are_not_required() -> None:
    (entity,) = understand(
        "A task has a title, optional notes, done, created_at and a due date. manage tasks"
    ).entities

    assert [field.name for field in entity.fields if field.required] == ["title", "due_date"]


def test_paths_that_name_nothing_to_store_make_no_entity() -> None:
    assert entities("GET /health, POST /shorten, GET /stats, GET /weather/{city}, POST /login") == {}


@pytest.mark.parametrize(
    ("one", "many"),
    [
        ("note", "notes"),
        ("category", "categories"),
        ("box", "boxes"),
        ("news", "news"),
        ("class", "classes"),
        ("address", "addresses"),
        ("status", "statuses"),
        ("person", "people"),
        ("movie", "movies"),
        ("day", "days"),
        ("dish", "dishes"),
        ("course", "courses"),
        ("blog_post", "blog_posts"),
    ],
)
def test_plurals_go_both_ways(one: str, many: str) -> None:
    assert (words.plural(one), words.singular(many), words.singular(one)) == (many, one, one)


def test_the_goal_is_the_first_sentence_on_one_line() -> None:
    assert understand("Build a\nnotes app.\nThen more.").goal == "Build a notes app."
    assert understand("x" * 300).goal == "x" * 199 + "…"


def check(understood: Understanding) -> None:
    """Raise when the plan's models do not take what was understood."""
    for entity in understood.entities:
        fields = [{"name": field.name, "type": field.type} for field in entity.fields]
        Entity.model_validate({"name": entity.name, "fields": fields})
    for endpoint in understood.endpoints:
        Endpoint.model_validate({"method": endpoint.method, "path": endpoint.path, "summary": ""})


SNIPPETS = """
    GET POST DELETE /notes /users/{id}/posts /{a}/{b} /x/:y /.. a note has with and , . ; : ( ) manage belongs to app
    id class type list title body für mit \\ " ' {{ }} 😀 ünï 1st fields: (int) (string) _ __ -
"""
WORDS = st.sampled_from([*SNIPPETS.split(), "\n", "'''"])


@given(st.one_of(st.text(max_size=200), st.lists(WORDS, max_size=30).map(" ".join)))
def test_any_text_is_understood_as_something_that_can_be_planned(text: str) -> None:
    check(understand(text))


@pytest.mark.parametrize(
    "text",
    [
        "GET " * 25_000,
        "a with b " * 12_000,
        "((((" * 25_000,
        "GET,GET," * 12_500,
        "x" * 100_000,
        "/" * 100_000,
        " " * 100_000,
        "for a, b and " * 8_000,
    ],
)
def test_a_hundred_kilobytes_are_read_in_a_moment(text: str) -> None:
    started = time.monotonic()

    check(understand(text))

    assert time.monotonic() - started < 3
