from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from orchestrator.schemas import SCHEMAS, render, spec_schema

ROOT = Path(__file__).parents[2]


def valid(spec: Any) -> bool:
    return jsonschema.Draft202012Validator(spec_schema()).is_valid(spec)


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_published_schema_is_sound_and_not_stale(name: str) -> None:
    schema = SCHEMAS[name]()

    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["title"]
    published = (ROOT / "docs" / f"{name}.schema.json").read_text(encoding="utf-8")
    assert published == render(schema), "run: python -m orchestrator.schemas docs/"


def test_the_module_writes_every_schema(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "orchestrator.schemas", tmp_path], check=True, cwd=ROOT)

    assert {file.name for file in tmp_path.iterdir()} == {f"{name}.schema.json" for name in SCHEMAS}
    assert json.loads((tmp_path / "spec.schema.json").read_text(encoding="utf-8")) == spec_schema()


@pytest.mark.parametrize("path", sorted(ROOT.glob("examples/*.yaml")), ids=lambda path: path.name)
def test_every_example_fits_the_schema(path: Path) -> None:
    jsonschema.validate(yaml.safe_load(path.read_text(encoding="utf-8")), spec_schema())


def test_every_field_is_described() -> None:
    schema = spec_schema()

    for model in (schema, *schema["$defs"].values()):
        assert model["additionalProperties"] is False
        assert all(field["description"] for field in model["properties"].values())


@pytest.mark.parametrize(
    "change",
    [
        {"project": "A b"},
        {"task_description": ""},
        {"provider": "olama"},
        {"provider": ["ollama", "auto"]},
        {"provider": []},
        {"provider": ["ollama", "ollama"]},
        {"options": {"a": {"b": 1}}},
        {"concurrency": 1_001},
        {"concurrency": "4"},
        {"timeout_s": 0},
        {"budget": {"eur": 1}},
        {"steps": []},
        {"steps": [{"prompt": "x"}]},
        {"steps": [{"id": "a", "kind": "No Kind"}]},
        {"concurency": 4},
    ],
)
def test_the_schema_refuses_what_an_editor_should_underline(change: dict[str, Any]) -> None:
    spec = {"project": "a", "task_description": "x"}

    assert valid(spec)
    assert not valid({**spec, **change})
