"""Projects from the scaffold run: their own tests pass without a warning, and their servers answer over HTTP."""

from __future__ import annotations

import json
import os
import re
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import yaml

from providers import Message, Request, Tool
from providers.registry import create
from tasks.blueprint import ProjectPlan
from tasks.prompting import render

pytestmark = pytest.mark.integration

EXAMPLE = Path(__file__).parents[2] / "examples" / "notes_api.yaml"
# The test client announces that it wants another HTTP library than the one that FastAPI still asks for.
STRICT = ["-W", "error", "-W", "ignore:Using `httpx` with `starlette.testclient` is deprecated"]


@dataclass(frozen=True)
class Spec:
    project: str
    task_description: str


NOTES = Spec(**{key: yaml.safe_load(EXAMPLE.read_text())[key] for key in ("project", "task_description")})
SPECS = (
    NOTES,
    Spec("todo", "a todo app"),
    Spec(
        "blog",
        "Users have a username and an email. A post has a title, a body, a price, a rating (int), is_public, "
        "an optional due date and created_at. GET and POST /users, GET /users/{username}; "
        "POST and GET /users/{user_id}/posts, PUT /users/{user_id}/posts/{id}, "
        "DELETE /users/{user_id}/posts, POST /posts, PATCH and DELETE /posts/{id}, "
        "GET /posts/search, GET /stats, GET /health, GET /, POST /shorten",
    ),
    Spec("deutsch", "Erstelle eine Anwendung für Bücher mit Titel, Autor und Jahr."),
    Spec(
        "shortener", "A URL shortener: POST /shorten, GET /{code} redirects, GET /stats/{code}, GET /health"
    ),
    Spec("csv", "A command-line tool that loads CSV files into SQLite. Größe 📏 must survive."),
    Spec(
        "texts",
        "A Python library with slugify(text), truncate(text, length) and frobnicate(text). No web part.",
    ),
    Spec("calc", "Ein Taschenrechner für die Kommandozeile"),
)


def answer(messages: list[Message], tool: Tool | None = None) -> str:
    return create("scaffold").complete(Request(messages, tool)).text


def block(text: str, fence: str) -> str:
    match = re.fullmatch(rf"{fence}\w*\n(.*){fence}", text, re.DOTALL)
    assert match
    return match[1]


def write_project(spec: Spec, root: Path) -> ProjectPlan:
    """Ask the questions of the architect, builder and docs steps, and write what is answered."""
    tool = Tool("submit_plan", "Hand in the plan.", ProjectPlan.model_json_schema())
    plan = ProjectPlan.model_validate(json.loads(answer(render("architect", spec=spec), tool)))
    shown, files = plan.model_dump_json(indent=1), dict[str, str]()
    for file in plan.in_build_order():
        context = [(path, files[path]) for path in file.depends_on]
        interfaces = plan.interfaces_for(file.path)
        asked = {
            "context": context,
            "file": file,
            "interfaces": interfaces,
            "current": None,
            "evidence": None,
        }
        files[file.path] = block(answer(render("builder", spec=spec, plan=shown, **asked)), "```")
    files["README.md"] = block(answer(render("docs", spec=spec, plan=shown)), "````")
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text, encoding="utf-8")
    return plan


@contextmanager
def served(root: Path) -> Iterator[httpx.Client]:
    """Run the project's server on a free port of this machine, with its default database."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "uvicorn", "app.main:app", "--port", str(port), "--log-level", "warning"]
    environment = {name: value for name, value in os.environ.items() if name != "DATABASE_URL"}
    server = subprocess.Popen(command, cwd=root, env=environment)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
            wait_for(client, server)
            yield client
    finally:
        server.terminate()
        server.wait(10)


def wait_for(client: httpx.Client, server: subprocess.Popen[bytes]) -> None:
    for _ in range(200):
        assert server.poll() is None
        try:
            client.get("/docs")
        except httpx.TransportError:
            time.sleep(0.05)
        else:
            return
    pytest.fail("the server does not answer")


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.project)
def test_the_tests_of_a_project_pass_without_warnings(spec: Spec, tmp_path: Path) -> None:
    plan = write_project(spec, tmp_path)
    assert plan.test_command == "python -m pytest"

    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *STRICT]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    assert ran.returncode == 0, ran.stdout[-3000:]
    tested = int(re.search(r"(\d+) passed", ran.stdout)[1])  # type: ignore[index]
    assert tested >= len(plan.endpoints)
    assert not list(tmp_path.glob("*.db"))


def test_the_notes_service_stores_lists_reads_and_removes_notes_and_keeps_them(tmp_path: Path) -> None:
    write_project(NOTES, tmp_path)
    note = {"title": "Bücher 📚", "body": ""}

    with served(tmp_path) as client:
        created = client.post("/notes", json=note)
        assert (created.status_code, created.json()) == (201, {"id": 1, **note})
        assert client.get("/notes").json() == [{"id": 1, **note}]
        assert client.get("/notes", params={"offset": 1}).json() == []
        assert client.get("/notes/1").json() == {"id": 1, **note}
        assert client.post("/notes", json={"title": ""}).status_code == 422
        assert client.get("/notes/2").status_code == 404
        assert client.get(f"/notes/{10**30}").status_code == 422

    with served(tmp_path) as client:
        assert client.get("/notes/1").json() == {"id": 1, **note}
        assert client.delete("/notes/1").status_code == 204
        assert client.delete("/notes/1").status_code == 404


def test_a_service_with_owners_keeps_rows_apart(tmp_path: Path) -> None:
    write_project(SPECS[2], tmp_path)
    post = {"title": "One", "body": "x", "price": 1.5, "rating": 3, "is_public": True}

    with served(tmp_path) as client:
        for name in ("ada", "alan"):
            assert (
                client.post("/users", json={"username": name, "email": f"{name}@example.com"}).status_code
                == 201
            )
        created = client.post("/users/1/posts", json=post)

        assert created.status_code == 201
        assert created.json() == {
            "id": 1,
            **post,
            "due_date": None,
            "user_id": 1,
            "created_at": created.json()["created_at"],
        }
        assert [len(client.get(f"/users/{number}/posts").json()) for number in (1, 2)] == [1, 0]
        assert client.put("/users/2/posts/1", json=post).status_code == 404
        assert client.get("/users/3/posts").status_code == 404
        assert client.get("/users/ada").json()["id"] == 1
        assert client.post("/users", json={"username": "ada", "email": "a@b.c"}).status_code == 409
        assert client.post("/posts", json={**post, "user_id": 9}).status_code == 409
        assert client.post("/posts", json={**post, "rating": 2**70, "user_id": 1}).status_code == 422
        assert client.patch("/posts/1", json={"title": None}).status_code == 422
        assert client.patch("/posts/1", json={"due_date": "2024-05-17"}).json()["due_date"] == "2024-05-17"
        assert [len(client.get("/posts/search", params={"q": text}).json()) for text in ("ONE", "%")] == [
            1,
            0,
        ]
        assert client.get("/stats").json() == {"users": 2, "posts": 1}
        assert client.delete("/users/1/posts").status_code == 204
        assert client.get("/stats").json() == {"users": 2, "posts": 0}
        assert client.get("/health").json() == {"status": "ok"}
        assert client.post("/shorten", json={"url": "x"}).json() == {
            "endpoint": "POST /shorten",
            "implemented": False,
            "received": {"payload": {"url": "x"}},
        }


def test_a_shortener_redirects_and_counts(tmp_path: Path) -> None:
    write_project(named("shortener"), tmp_path)
    url = "https://example.com/größe?q=1#end"

    with served(tmp_path) as client:
        created = client.post("/shorten", json={"url": url})
        assert created.status_code == 201
        code = created.json()["code"]
        assert created.json()["url"] == url

        followed = client.get(f"/{code}")
        assert followed.status_code == 307
        assert httpx.URL(followed.headers["location"]) == httpx.URL(url)

        assert client.get(f"/stats/{code}").json()["clicks"] == 1
        assert client.get("/unknown").status_code == 404
        assert client.get("/health").json() == {"status": "ok"}
        assert client.post("/shorten", json={"url": "file:///etc/passwd"}).status_code == 422


def test_a_csv_file_is_loaded_from_the_command_line(tmp_path: Path) -> None:
    write_project(named("csv"), tmp_path)
    (tmp_path / "städte.csv").write_text("stadt,größe 📏\nKöln,405.15\nÜberlingen,58\n", encoding="utf-8")

    command = [sys.executable, "-m", "csv_tool", "städte.csv", "out.db"]
    codes = [subprocess.run(command, cwd=tmp_path, capture_output=True, check=False).returncode for _ in "12"]

    assert codes == [0, 1]
    with closing(sqlite3.connect(tmp_path / "out.db")) as connection:
        rows = connection.execute('SELECT stadt, "größe 📏" FROM "städte"').fetchall()
    assert rows == [("Köln", 405.15), ("Überlingen", 58.0)]


def test_a_tool_calculates_and_a_library_says_what_it_does_not_do(tmp_path: Path) -> None:
    write_project(named("calc"), tmp_path)
    write_project(named("texts"), tmp_path)

    def python(*arguments: str) -> str:
        command = [sys.executable, *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False).stdout

    assert python("-m", "calc", "divide", "9", "2") == "4.5\n"
    assert python("-c", "import texts; print(texts.slugify('Größe!'))") == "grosse\n"
    assert "Not written, because no rule covers them: frobnicate." in (tmp_path / "README.md").read_text()


def named(project: str) -> Spec:
    return next(spec for spec in SPECS if spec.project == project)
