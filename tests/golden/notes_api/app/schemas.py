"""What clients send and get, as JSON."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

MAX_INTEGER = 2**63 - 1
"""The largest integer that SQLite stores."""

RowId = Annotated[int, Field(ge=0, le=MAX_INTEGER)]


class Page(BaseModel):
    """Which part of a list a client wants."""

    limit: int = Field(default=100, ge=1, le=1000)
    offset: int = Field(default=0, ge=0, le=MAX_INTEGER)


class NoteCreate(BaseModel):
    """What a client sends to store a note."""

    title: str = Field(min_length=1, max_length=200)
    body: str


class NoteRead(BaseModel):
    """A note as clients get it."""

    model_config = ConfigDict(from_attributes=True)

    id: int
    title: str
    body: str
