"""The files of a project: which there are, what each is for, its text from a template, and what that imports."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import PurePosixPath

from jinja2 import Environment, PackageLoader, StrictUndefined

from providers.scaffold import columns, docs, handlers, layout, trials
from providers.scaffold.project import Project, Table
from providers.scaffold.words import spaced

_HOMES = {
    **dict.fromkeys(("AsyncIterator", "Iterator", "Mapping", "Sequence"), "collections.abc"),
    **dict.fromkeys(("Annotated", "Any", "TypeVar"), "typing"),
    **dict.fromkeys(("date", "datetime"), "datetime"),
    "asynccontextmanager": "contextlib",
    "Path": "pathlib",
    "pytest": "",
    **dict.fromkeys(("APIRouter", "Body", "FastAPI", "Query", "Request", "status"), "fastapi"),
    **dict.fromkeys(("JSONResponse", "RedirectResponse"), "fastapi.responses"),
    "TestClient": "fastapi.testclient",
    **dict.fromkeys(("BaseModel", "ConfigDict", "Field", "field_validator"), "pydantic"),
    **dict.fromkeys(("ForeignKey", "String", "Text", "delete", "func", "or_", "select"), "sqlalchemy"),
    "IntegrityError": "sqlalchemy.exc",
    **dict.fromkeys(("DeclarativeBase", "Mapped", "Session", "mapped_column"), "sqlalchemy.orm"),
    **dict.fromkeys(("SessionDep", "make_engine"), "app.database"),
    **dict.fromkeys(("app", "create_app"), "app.main"),
    "Base": "app.models",
    "NotFoundError": "app.repository",
    "new_code": "app.codes",
    "repository": "app",
    **dict.fromkeys(("Page", "RowId"), "app.schemas"),
}


@dataclass(frozen=True, slots=True)
class File:
    """A file that the scaffold knows: its template, and the table that it is about, where it is about one."""

    path: str
    purpose: str
    template: str
    table: Table | None = None


@lru_cache(maxsize=16)
def files(project: Project) -> tuple[File, ...]:
    """Return the files of a project in an order in which they can be read."""
    return (*_application(project), *_tests(project), *_surroundings())


def render(project: Project, path: str) -> str | None:
    """Write one file; None when the scaffold has no such file in this project."""
    found = next((file for file in files(project) if file.path == path), None)
    if found is None:
        return None
    template = _environment.get_template(f"{found.template}.j2")
    text = template.render(project=project, table=found.table, handlers=handlers.names(project))
    return _python(project, text) if path.endswith(".py") else text


def needs(project: Project, path: str) -> tuple[str, ...]:
    """Return the files of the project that a file imports; a test file also has the fixtures of conftest.py."""
    if not path.endswith(".py"):
        return ()
    tree = ast.parse(render(project, path) or "")
    named = [
        place
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and node.module
        for place in (node.module, *(f"{node.module}.{alias.name}" for alias in node.names))
    ]
    imported = {f"{place.replace('.', '/')}.py" for place in named}
    fixtures = {"tests/conftest.py"} if path.startswith("tests/test_") else set()
    return tuple(file.path for file in files(project) if file.path in imported | fixtures)


def readme(project: Project) -> str:
    """Write README.md."""
    about = {route: docs.response(project, route) for route in project.routes}
    template = _environment.get_template("README.md.j2")
    text = template.render(project=project, files=files(project), responses=about)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def requirements(project: Project) -> list[str]:
    """Return the lines of requirements.txt that name something."""
    lines = (render(project, "requirements.txt") or "").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def unknown(path: str, purpose: str) -> str:
    """Write a file that somebody else planned: it says that there is no template for it."""
    line = f"The scaffold has no template for this file. Planned as: {layout.prose(purpose) or 'not said'}"
    lines = layout.prose(line).splitlines()
    match PurePosixPath(path).suffix:
        case ".py":
            return '"""' + "\n".join(lines) + '\n"""\n' if len(lines) > 1 else f'"""{line}"""\n'
        case ".md" | ".html":
            return "\n".join(lines) + "\n"
        case ".json":
            return "{}\n"
        case _:
            return "".join(f"# {line}\n" for line in lines)


def _application(project: Project) -> Iterator[File]:
    yield File("app/__init__.py", "The application's package", "app/__init__.py")
    if project.tables:
        kept = "; ".join(f"{table.plural} ({columns.purpose_of(table)})" for table in project.tables)
        yield File("app/database.py", "Engine, and a session for each request", "app/database.py")
        yield File("app/models.py", f"SQLAlchemy tables: {kept}"[:500], "app/models.py")
        yield File("app/schemas.py", "Pydantic models of what clients send and get", "app/schemas.py")
        yield File("app/repository.py", "Finding, listing, storing and deleting rows", "app/repository.py")
    if serves(project, "shorten"):
        yield File("app/codes.py", "New codes for short links", "app/codes.py")
    yield File("app/routers/__init__.py", "The package of the routes", "app/routers/__init__.py")
    yield from (_router(project, module) for module in project.modules)
    yield File("app/main.py", "The FastAPI application: create_app(), app", "app/main.py")


def _router(project: Project, module: str) -> File:
    table = _table(project, module)
    listed = ", ".join(f"{route.method} {route.path}" for route in project.routes_of(table))
    template = f"app/routers/{'table' if table else 'service'}.py"
    return File(f"app/routers/{module}.py", f"Routes: {listed}"[:500], template, table)


def _tests(project: Project) -> Iterator[File]:
    yield File("tests/conftest.py", "Fixtures of the tests", "tests/conftest.py")
    for module in project.modules:
        table = _table(project, module)
        template = f"tests/{'table' if table else 'service'}.py"
        yield File(f"tests/test_{module}.py", f"Tests of app/routers/{module}.py", template, table)


def _surroundings() -> Iterator[File]:
    yield File("requirements.txt", "What to install", "requirements.txt")
    yield File("pyproject.toml", "Settings of pytest and ruff", "pyproject.toml")
    yield File(".gitignore", "What git leaves alone", ".gitignore")


def _table(project: Project, module: str) -> Table | None:
    return next((table for table in project.tables if table.plural == module), None)


def serves(project: Project, shape: str) -> bool:
    """Whether a route has that shape."""
    return any(route.shape == shape for route in project.routes)


def uses(project: Project, kind: str) -> bool:
    """Whether a client may send a plain value of that type."""
    return any(
        column.type == kind and not column.owner
        for table in project.tables
        for column in table.client_columns
    )


def _python(project: Project, text: str) -> str:
    return layout.tidy(layout.with_imports(layout.tidy(text), _homes(project)))


def _homes(project: Project) -> Mapping[str, str]:
    """Return where each name of the generated modules comes from."""
    return {
        **dict.fromkeys(project.modules, "app.routers"),
        **_HOMES,
        **{table.name: "app.models" for table in project.tables},
        **{schema.name: "app.schemas" for schema in columns.schemas(project)},
    }


_FILTERS: Mapping[str, Callable[..., object]] = {
    "about": docs.about,
    "belonging": handlers.belonging,
    "call": layout.call,
    "changed": trials.changed,
    "constants": trials.constants,
    "counted": handlers.counted,
    "curl": docs.curl,
    "decorator": handlers.decorator,
    "fixture": trials.fixture,
    "has_required": trials.has_required,
    "item": handlers.item,
    "listing": layout.listing,
    "literal": layout.literal,
    "lookups": handlers.lookups,
    "mapped": columns.mapped,
    "markdown": docs.markdown,
    "never_null": columns.never_null,
    "prose": layout.prose,
    "received": handlers.received,
    "request": trials.request,
    "schemas": columns.schemas,
    "searched": handlers.searched,
    "serves": serves,
    "signature": handlers.signature,
    "spaced": spaced,
    "status": handlers.status,
    "stored_values": trials.stored_values,
    "summary": handlers.summary,
    "heading": trials.heading,
    "uses": uses,
}

_environment = Environment(  # noqa: S701 - it writes Python and Markdown, not HTML
    loader=PackageLoader("providers.scaffold"),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
_environment.filters.update(_FILTERS)
