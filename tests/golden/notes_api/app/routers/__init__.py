"""The routes of notes_api, one module for each thing that they work on."""
