"""The README names every endpoint; what the model leaves out is found, and added from the plan."""

from __future__ import annotations

import pytest

from tasks.blueprint import Endpoint, ProjectPlan
from tasks.steps.docs import checked, missing_endpoints, with_reference

PLAN = ProjectPlan.model_validate(
    ProjectPlan.model_json_schema()["examples"][0]
    | {
        "endpoints": [
            {"method": "GET", "path": "/notes", "summary": "Lists the notes"},
            {"method": "DELETE", "path": "/notes/{note_id}", "summary": "Deletes a note"},
        ]
    }
)


def names(endpoint: str, line: str) -> bool:
    method, path = endpoint.split(" ")
    return not missing_endpoints(
        [Endpoint.model_validate({"method": method, "path": path, "summary": ""})], line
    )


@pytest.mark.parametrize(
    ("endpoint", "line"),
    [
        ("GET /notes", "### GET /notes"),
        ("GET /notes", "| GET | `/notes` | lists |"),
        ("GET /notes", "`get /notes?q=x`"),
        ("POST /notes", "curl -X POST http://127.0.0.1:8000/notes -d '{}'"),
        ("GET /notes/{note_id}", "GET `/notes/{id}`"),
        ("GET /notes/{note_id}", "GET /notes/:id"),
        ("GET /notes/{note_id}", "GET /notes/<id>."),
        ("GET /", "GET `/` says hello"),
    ],
)
def test_a_line_names_an_endpoint_by_method_and_path(endpoint: str, line: str) -> None:
    assert names(endpoint, line)


@pytest.mark.parametrize(
    ("endpoint", "line"),
    [
        ("GET /notes", "GET /notes/{id}"),
        ("GET /notes", "GET /notesheet"),
        ("GET /notes", "POST /notes"),
        ("GET /notes", "GET /api/notes"),
        ("GET /", "GET /notes"),
        ("GET /notes", "the notes"),
    ],
)
def test_a_line_about_something_else_does_not(endpoint: str, line: str) -> None:
    assert not names(endpoint, line)


def test_a_readme_that_leaves_endpoints_out_is_asked_for_anew_by_their_names() -> None:
    with pytest.raises(ValueError, match=r"method and path: DELETE /notes/{note_id}$"):
        checked(PLAN, "# Notes\n\nGET /notes\n")


def test_an_empty_readme_is_none() -> None:
    with pytest.raises(ValueError, match="empty"):
        checked(PLAN.model_copy(update={"endpoints": ()}), " \n")


def test_what_is_missing_in_the_end_is_added_from_the_plan() -> None:
    readme = with_reference(PLAN, "# Notes\n\nGET /notes\n")

    assert checked(PLAN, readme) == readme
    assert readme.endswith("- `DELETE /notes/{note_id}`: Deletes a note\n")
    assert readme.count("GET /notes") == 1
