"""What the tests begin with."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy.orm import Session

from app.main import create_app
from app.models import Note


@pytest.fixture
def app(tmp_path: Path) -> FastAPI:
    """The application on an empty database."""
    return create_app(f"sqlite:///{tmp_path / 'test.db'}")


@pytest.fixture
def client(app: FastAPI) -> Iterator[TestClient]:
    """A client of the running application."""
    with TestClient(app) as running:
        yield running


@pytest.fixture
def session(app: FastAPI, client: TestClient) -> Iterator[Session]:
    """A session on the application's database, once its tables exist."""
    with Session(app.state.engine, expire_on_commit=False) as opened:
        yield opened


@pytest.fixture
def stored_note(session: Session) -> Note:
    """A row of notes."""
    row = Note(title="First title", body="Some body")
    session.add(row)
    session.commit()
    return row
