"""The application of notes_api."""
