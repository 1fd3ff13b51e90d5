"""Judging a finished project: each criterion is looked up in the files, and what is found is quoted."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Files = Mapping[str, str]
Plan = Mapping[str, Any]

_METHODS = {"get", "post", "put", "patch", "delete"}
_STATUSES = {"201": "HTTP_201_CREATED", "204": "HTTP_204_NO_CONTENT"}


@dataclass(frozen=True, slots=True)
class Registered:
    """A route found in the code: the decorator's place and text, and what it registers."""

    file: str
    line: int
    text: str
    method: str
    path: str

    def answers(self, status: str) -> bool:
        """Whether the decorator gives that status; 200 is what FastAPI answers when none is given."""
        if "status_code" not in self.text:
            return status in {"", "200"}
        return not status or status in self.text or _STATUSES.get(status, "?") in self.text


def verdict(plan: Plan, written: Files) -> dict[str, Any]:
    """Judge every sentence of the plan's acceptance by what the files say."""
    judgements = [_judgement(sentence, plan, written) for sentence in plan.get("acceptance", ())]
    met = sum(judgement["met"] for judgement in judgements)
    summary = f"{met} of {len(judgements)} criteria are met, as far as reading {len(written)} files shows."
    return {"judgements": judgements, "summary": f"{summary} Judged by the scaffold's rules, not by a model."}


def _judgement(sentence: str, plan: Plan, written: Files) -> dict[str, Any]:
    for pattern, look in _RULES.items():
        if match := re.match(pattern, sentence):
            found = look(match, plan, written)
            return {
                "criterion": sentence,
                "met": found is not None,
                "evidence": found or f"nothing in the {len(written)} files given shows it",
            }
    return {
        "criterion": sentence,
        "met": False,
        "evidence": "the scaffold has no rule to check this sentence",
    }


def _route(match: re.Match[str], _plan: Plan, written: Files) -> str | None:
    wanted, status = _anonymous(match["path"]), match["status"] or ""
    for route in _registered(written):
        if (route.method, _anonymous(route.path)) == (match["method"], wanted) and route.answers(status):
            return _quote(written, route.file, route.line)
    return None


def _stored(match: re.Match[str], _plan: Plan, written: Files) -> str | None:
    for path, tree in _trees(written):
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and node.name == match["name"]:
                for line in node.body:
                    if ast.unparse(line) == f"__tablename__ = {match['table']!r}":
                        return _quote(written, path, line.lineno)
    return None


def _tested(match: re.Match[str], _plan: Plan, written: Files) -> str | None:
    """Find the tests of a module: there must be some, and one for each method that it serves, or function it offers."""
    tests, module = written.get(match["tests"], ""), match["module"]
    methods = {route.method.lower() for route in _registered(written) if route.file == module}
    offered = [] if methods else [node.name for node in _functions(written, module)]
    names = re.findall(r"^def (test_\w+)", tests, re.MULTILINE)
    called = all(f"client.{method}(" in tests for method in methods)
    used = [name for name in offered if re.search(rf"\b{name}\(", tests)]
    if not names or not called or not (methods or used):
        return None
    return f"{match['tests']}: {len(names)} tests, the first is {names[0]}"


def _defined(match: re.Match[str], _plan: Plan, written: Files) -> str | None:
    """Find a function that is written, and says what it does."""
    for node in _functions(written, match["module"]):
        if node.name == match["name"] and ast.get_docstring(node):
            return _quote(written, match["module"], node.lineno)
    return None


def _described(_match: re.Match[str], plan: Plan, written: Files) -> str | None:
    """Find every function of the plan's modules in the README."""
    readme = written.get("README.md", "")
    names = [
        name
        for file in plan.get("files", ())
        for name in re.findall(r"^(\w+)\(", file["interface"], re.MULTILINE)
    ]
    lines = [number for number, line in enumerate(readme.splitlines(), 1) if names and names[0] in line]
    if not lines or not all(re.search(rf"\b{name}\b", readme) for name in names):
        return None
    return _quote(written, "README.md", lines[0])


def _functions(written: Files, module: str) -> list[ast.FunctionDef]:
    """Return the public functions of a module."""
    found = [node for path, tree in _trees(written) if path == module for node in tree.body]
    return [node for node in found if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")]


def _documented(_match: re.Match[str], plan: Plan, written: Files) -> str | None:
    readme = written.get("README.md", "")
    endpoints = [f"{endpoint['method']} {endpoint['path']}" for endpoint in plan.get("endpoints", ())]
    if not readme or not all(
        re.search(rf"{re.escape(endpoint)}(?![\w/{{])", readme) for endpoint in endpoints
    ):
        return None
    headings = [
        number for number, line in enumerate(readme.splitlines(), 1) if endpoints and endpoints[0] in line
    ]
    return _quote(written, "README.md", headings[0] if headings else 1)


_RULES: Mapping[str, Callable[[re.Match[str], Plan, Files], str | None]] = {
    r"(?P<method>GET|POST|PUT|PATCH|DELETE) (?P<path>/\S*)(?:.*\banswers (?P<status>\d{3}))?": _route,
    r"(?P<name>\w+) is stored in the table (?P<table>\w+)": _stored,
    r"(?P<tests>\S+\.py) tests (?P<module>\S+\.py)": _tested,
    r"(?P<module>\S+\.py) defines (?P<name>\w+)": _defined,
    r"README\.md documents every endpoint": _documented,
    r"README\.md documents every function": _described,
}


def _registered(written: Files) -> Iterator[Registered]:
    """Find the routes in the code: decorators such as `@router.get("/notes")`, under their router's prefix."""
    for path, tree in _trees(written):
        prefix = next(iter(re.findall(r"APIRouter\([^)]*prefix=[\"']([^\"']*)[\"']", written[path])), "")
        for node in ast.walk(tree):
            for call in getattr(node, "decorator_list", ()):
                if found := _method_and_path(call):
                    text = ast.get_source_segment(written[path], call) or ""
                    yield Registered(path, call.lineno, text, found[0], prefix + found[1])


def _method_and_path(decorator: ast.expr) -> tuple[str, str] | None:
    match decorator:
        case ast.Call(func=ast.Attribute(attr=method), args=[ast.Constant(value=str(path)), *_]) if (
            method in _METHODS
        ):
            return method.upper(), path
        case _:
            return None


def _trees(written: Files) -> Iterator[tuple[str, ast.Module]]:
    for path, text in written.items():
        if path.endswith(".py"):
            try:
                yield path, ast.parse(text)
            except (SyntaxError, ValueError):
                continue


def _anonymous(path: str) -> str:
    return re.sub(r"{\w+}", "{}", path.rstrip(".,;:")).rstrip("/") or "/"


def _quote(written: Files, path: str, line: int) -> str:
    return f"{path}:{line}: {written[path].splitlines()[line - 1].strip()[:200]}"
