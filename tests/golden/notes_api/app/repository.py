"""What the routes do with the database, for any table."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.models import Base
from app.schemas import Page

Row = TypeVar("Row", bound=Base)


class NotFoundError(Exception):
    """No row is what the client named."""


def add(session: Session, row: Row) -> Row:
    """Store a new row."""
    session.add(row)
    session.commit()
    return row


def find(session: Session, table: type[Row], **values: object) -> Row:
    """Return the one row that has these values.

    Raises:
        NotFoundError: There is none.
    """
    row = session.scalars(select(table).filter_by(**values)).one_or_none()
    if row is None:
        raise NotFoundError(f"{table.__name__} not found")
    return row


def fetch(session: Session, table: type[Row], page: Page, **values: object) -> Sequence[Row]:
    """Return a page of the rows that have these values, oldest first."""
    found = select(table).filter_by(**values).order_by(table.id)
    return session.scalars(found.limit(page.limit).offset(page.offset)).all()


def change(session: Session, row: Row, changes: Mapping[str, Any]) -> Row:
    """Give a row new values and store it."""
    for name, value in changes.items():
        setattr(row, name, value)
    session.commit()
    return row


def remove(session: Session, row: Base) -> None:
    """Delete a row."""
    session.delete(row)
    session.commit()
