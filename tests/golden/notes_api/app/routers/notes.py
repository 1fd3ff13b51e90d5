"""The routes that work on notes."""

from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Query, status

from app import repository
from app.database import SessionDep
from app.models import Note
from app.schemas import NoteCreate, NoteRead, Page, RowId

router = APIRouter(tags=["notes"])


@router.post("/notes", status_code=status.HTTP_201_CREATED, response_model=NoteRead)
def create_note(payload: NoteCreate, session: SessionDep) -> Note:
    """Create a note."""
    row = Note(**payload.model_dump())
    return repository.add(session, row)


@router.get("/notes", response_model=list[NoteRead])
def list_notes(session: SessionDep, page: Annotated[Page, Query()]) -> Sequence[Note]:
    """List the notes, oldest first."""
    return repository.fetch(session, Note, page)


@router.get("/notes/{note_id}", response_model=NoteRead)
def read_note(note_id: RowId, session: SessionDep) -> Note:
    """Return a note."""
    return repository.find(session, Note, id=note_id)


@router.delete("/notes/{note_id}", status_code=status.HTTP_204_NO_CONTENT)
def delete_note(note_id: RowId, session: SessionDep) -> None:
    """Delete a note."""
    row = repository.find(session, Note, id=note_id)
    repository.remove(session, row)
