"""Tests of the routes that work on notes."""

from fastapi.testclient import TestClient
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.models import Note

PAYLOAD: dict[str, object] = {"title": "First title", "body": "Some body"}


def test_create_note_answers_201_with_what_is_stored(client: TestClient) -> None:
    answer = client.post("/notes", json=PAYLOAD)

    assert answer.status_code == 201
    assert answer.json()["id"] > 0
    assert PAYLOAD.items() <= answer.json().items()


def test_create_note_refuses_an_empty_body(client: TestClient) -> None:
    answer = client.post("/notes", json={})

    assert answer.status_code == 422


def test_list_notes(client: TestClient, stored_note: Note) -> None:
    answer = client.get("/notes")

    assert answer.status_code == 200
    assert [row["id"] for row in answer.json()] == [stored_note.id]


def test_read_note(client: TestClient, stored_note: Note) -> None:
    answer = client.get(f"/notes/{stored_note.id}")

    assert answer.status_code == 200
    assert answer.json()["id"] == stored_note.id
    assert PAYLOAD.items() <= answer.json().items()


def test_read_note_answers_404_for_an_unknown_row(client: TestClient) -> None:
    answer = client.get("/notes/999")

    assert answer.status_code == 404


def test_delete_note_answers_204_and_it_is_gone(
    client: TestClient,
    session: Session,
    stored_note: Note,
) -> None:
    answer = client.delete(f"/notes/{stored_note.id}")

    assert answer.status_code == 204
    assert session.scalars(select(Note)).all() == []


def test_delete_note_answers_404_for_an_unknown_row(client: TestClient) -> None:
    answer = client.delete("/notes/999")

    assert answer.status_code == 404
