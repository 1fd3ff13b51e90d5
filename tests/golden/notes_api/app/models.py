"""The tables of notes_api."""

from sqlalchemy import String, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    """Base of every table: rows are numbered."""

    id: Mapped[int] = mapped_column(primary_key=True, sort_order=-1)


class Note(Base):
    """One row of notes."""

    __tablename__ = "notes"

    title: Mapped[str] = mapped_column(String(200))
    body: Mapped[str] = mapped_column(Text)
