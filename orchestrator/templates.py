"""Users' prompt templates: checked before a job starts, rendered within bounds.

A template is Jinja2 with little in it: text, `{{ … }}`, `if`, `for`, `set` and `with`. It sees `spec` and `needs`.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from traceback import extract_tb
from typing import Any

from jinja2 import Environment, Template, TemplateSyntaxError, nodes
from jinja2.meta import find_undeclared_variables

from orchestrator.prompt_sandbox import METER, METHODS, Meter, Metering, PromptError, environment

__all__ = [
    "ALLOWANCE",
    "MAX_CHARS",
    "MAX_DEPTH",
    "NEED_FIELDS",
    "PromptError",
    "PromptProblem",
    "check_prompt",
    "compile_prompt",
    "forbidden",
    "parsed",
    "render_prompt",
]

MAX_CHARS = 1_000_000
ALLOWANCE = 5 * MAX_CHARS
MAX_DEPTH = 100
NEED_FIELDS = ("text", "files", "data")
_STATEMENTS = (nodes.Template, nodes.Output, nodes.If, nodes.For, nodes.Assign, nodes.With)
_NAMES: dict[type[nodes.Node], str] = {
    nodes.AssignBlock: "set … endset",
    nodes.CallBlock: "call",
    nodes.FilterBlock: "filter … endfilter",
    nodes.For: "recursive for",
    nodes.FromImport: "from … import",
    nodes.NSRef: "namespace",
}
_TOO_DEEP = "the template is nested too deeply; write it flatter"


@dataclass(frozen=True, slots=True)
class PromptProblem:
    """One thing wrong with a template; `line` counts from 1 in the template."""

    line: int
    message: str


def check_prompt(source: str, needs: Collection[str], spec_fields: Collection[str]) -> list[PromptProblem]:
    """Return everything that is wrong with a template, in the order of its lines.

    Args:
        source: The template.
        needs: Ids of the steps that it may read, as `needs.<id>.text`, `.files` and `.data`.
        spec_fields: What it may read of the spec, as `spec.<field>`.
    """
    try:
        tree = parsed(source)
        found = [*forbidden(tree)] or [*_unknown(tree, needs, spec_fields)]
        if not found:
            compile_prompt(source)
    except PromptError as error:
        return [PromptProblem(error.line or 1, error.message)]
    return sorted(dict.fromkeys(found), key=lambda problem: problem.line)


@lru_cache(maxsize=256)
def compile_prompt(source: str) -> Template:
    """Return a template whose rendering is metered; render it with `render_prompt`.

    Raises:
        PromptError: It is no template, or says more than a prompt may.
    """
    tree = parsed(source)
    for problem in forbidden(tree):
        raise PromptError(problem.message, problem.line)
    try:
        return environment.from_string(Metering().visit(tree))
    except TemplateSyntaxError as error:
        raise PromptError(error.message or "this is no template", error.lineno) from None
    except (RecursionError, MemoryError, SyntaxError):  # Python's compiler has limits of its own
        raise PromptError(_TOO_DEEP) from None


def render_prompt(
    source: str, spec: Mapping[str, Any], needs: Mapping[str, Mapping[str, Any]], max_chars: int = MAX_CHARS
) -> str:
    """Fill in a template.

    Args:
        source: The template.
        spec: The fields of the spec, as plain values.
        needs: For each step that is needed its text, files and data, as plain values.
        max_chars: Longest text that may come out.

    Raises:
        PromptError: The template is invalid, something that it reads is not there, or it asks for too much.
    """
    template = compile_prompt(source)
    values = {"spec": dict(spec), "needs": {id_: dict(need) for id_, need in needs.items()}}
    try:
        return "".join(_bounded(template.generate({**values, METER: Meter(ALLOWANCE)}), max_chars))
    except Exception as error:  # a template can make Python raise anything
        lines = [frame.lineno for frame in extract_tb(error.__traceback__) if frame.filename == "<template>"]
        message = error.message if isinstance(error, PromptError) else str(error) or type(error).__name__
        raise PromptError(message, lines[-1] if lines else None) from error


def _bounded(pieces: Iterable[str], max_chars: int) -> Iterator[str]:
    length = 0
    for piece in pieces:
        length += len(piece)
        if length > max_chars:
            raise PromptError(f"the prompt is longer than {max_chars:,} characters")
        yield piece


def parsed(source: str, sandbox: Environment = environment) -> nodes.Template:
    """Return the tree of a template; PromptError where it is none, or nested without end."""
    try:
        tree = sandbox.parse(source)
    except TemplateSyntaxError as error:
        raise PromptError(error.message or "this is no template", error.lineno) from None
    except ValueError:
        raise PromptError("a number has more digits than can be read; write it shorter") from None
    except RecursionError:
        raise PromptError(_TOO_DEEP) from None
    level: list[nodes.Node] = [tree]
    for _ in range(MAX_DEPTH):
        level = [child for node in level for child in node.iter_child_nodes()]
    if level:
        raise PromptError(_TOO_DEEP, level[0].lineno)
    return tree


def forbidden(
    tree: nodes.Template, sandbox: Environment = environment, *more: type[nodes.Node]
) -> Iterator[PromptProblem]:
    """Yield the statements, filters and tests that a prompt does not have; `more` are statements that this one may."""
    for node in tree.find_all((nodes.Stmt, nodes.NSRef)):
        if not isinstance(node, (*_STATEMENTS, *more)) or (isinstance(node, nodes.For) and node.recursive):
            what = _NAMES.get(type(node), type(node).__name__.lower())
            yield PromptProblem(
                node.lineno, f"a prompt has no {what}; use {{{{ … }}}}, if, for, set and with"
            )
    for node in tree.find_all((nodes.Filter, nodes.Test)):
        known = sandbox.filters if isinstance(node, nodes.Filter) else sandbox.tests
        if node.name not in known or node.name.startswith(" "):
            names = sorted(name for name in known if name[0].isalpha())
            kind = type(node).__name__.lower()
            yield PromptProblem(node.lineno, f"unknown {kind} {node.name!r}; {_known(node.name, names)}")


def _unknown(
    tree: nodes.Template, needs: Collection[str], spec_fields: Collection[str]
) -> Iterator[PromptProblem]:
    """Yield the variables, needs and fields that will not be there."""
    unknown = find_undeclared_variables(tree) - {"spec", "needs", "range"} | {"self"}
    for name in tree.find_all(nodes.Name):
        if name.ctx == "load" and name.name in unknown:
            yield PromptProblem(name.lineno, f"unknown variable {name.name!r}; known: spec, needs")
        elif name.ctx != "load" and name.name in {"spec", "needs"}:
            yield PromptProblem(name.lineno, f"{name.name!r} is given; choose another name for a variable")
    called = {id(call.node) for call in tree.find_all(nodes.Call)}
    for node in tree.find_all((nodes.Getattr, nodes.Getitem)):
        path = _path(node)
        match path:
            case ("spec", field) if field not in spec_fields:
                yield PromptProblem(node.lineno, f"the spec has no {field!r}; {_known(field, spec_fields)}")
            case ("needs", need) if need not in needs and not (id(node) in called and need in METHODS[dict]):
                yield PromptProblem(
                    node.lineno, f"{need!r} is not among the step's needs; {_declared(need, needs)}"
                )
            case ("needs", need, field) if need in needs and field not in NEED_FIELDS:
                message = f"{need!r} has no {field!r}; {_known(field, NEED_FIELDS)}"
                yield PromptProblem(node.lineno, message)


def _path(node: nodes.Expr) -> tuple[str, ...]:
    """Return ("needs", "draft", "text") for needs.draft.text and needs["draft"].text; () for what is no path."""
    parts: list[str] = []
    while True:
        match node:
            case (
                nodes.Getattr(node=inner, attr=str(attr))
                | nodes.Getitem(node=inner, arg=nodes.Const(value=str(attr)))
            ):
                parts.append(attr)
                node = inner
            case nodes.Name(name=name):
                return (name, *reversed(parts))
            case _:
                return ()


def _known(name: str, names: Collection[str]) -> str:
    close = difflib.get_close_matches(name, names, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(names)}"


def _declared(name: str, needs: Collection[str]) -> str:
    if hyphened := [need for need in needs if need.startswith(f"{name}-")]:
        return f"write needs[{hyphened[0]!r}], for a dot ends at the hyphen"
    if not needs:
        return f"add needs: [{name}]"
    return f"declared: {', '.join(needs)}"
