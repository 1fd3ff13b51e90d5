"""The JSON Schemas that we publish; `python -m orchestrator.schemas docs/` writes them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from orchestrator.events import Event
from orchestrator.manifest import Manifest
from orchestrator.models import JobSpec

_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def spec_schema() -> dict[str, Any]:
    """Return the schema of a spec, for editors and for whoever generates specs.

    A spec that it refuses is invalid; one that it takes can still be, for it knows nothing of circles among
    steps, of templates, or of paths.
    """
    schema = JobSpec.model_json_schema()
    return {"$schema": _DIALECT, **schema, "title": "orch spec"}


def event_schema() -> dict[str, Any]:
    """Return the schema of one line of `events.jsonl`."""
    return {"$schema": _DIALECT, **Event.model_json_schema(), "title": "orch event"}


def manifest_schema() -> dict[str, Any]:
    """Return the schema of `manifest.json`."""
    return {"$schema": _DIALECT, **Manifest.model_json_schema(), "title": "orch manifest"}


SCHEMAS: Mapping[str, Callable[[], dict[str, Any]]] = {
    "spec": spec_schema,
    "event": event_schema,
    "manifest": manifest_schema,
}
"""Published schemas by name; the file is `<name>.schema.json`."""


def render(schema: Mapping[str, Any]) -> str:
    """Return a schema as the text of its file."""
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def write(folder: Path) -> list[Path]:
    """Write every published schema into a folder and return the files."""
    files = []
    for name, schema in SCHEMAS.items():
        file = folder / f"{name}.schema.json"
        file.write_text(render(schema()), encoding="utf-8")
        files.append(file)
    return files


if __name__ == "__main__":
    write(Path(sys.argv[1]))
