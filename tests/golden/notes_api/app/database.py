"""The database: where it is, how to connect to it, and the session that a request works with."""

import os
from collections.abc import Iterator
from typing import Annotated

from fastapi import Depends, Request
from sqlalchemy import Engine, create_engine, event
from sqlalchemy.orm import Session

DEFAULT_URL = "sqlite:///notes_api.db"


def make_engine(url: str | None = None) -> Engine:
    """Connect to the database at the URL, by default the one that DATABASE_URL names."""
    engine = create_engine(url or os.environ.get("DATABASE_URL") or DEFAULT_URL)
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _enforce_foreign_keys)
    return engine


def get_session(request: Request) -> Iterator[Session]:
    """Open a session for one request."""
    with Session(request.app.state.engine, expire_on_commit=False) as session:
        yield session


SessionDep = Annotated[Session, Depends(get_session)]


def _enforce_foreign_keys(connection, _record) -> None:  # type: ignore[no-untyped-def]
    """SQLite checks references only when it is asked to."""
    connection.execute("PRAGMA foreign_keys=ON")
