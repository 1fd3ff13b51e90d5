"""The prompts of the built-in steps: where a project's own come from, what they may say, and how one is rendered.

A step's prompt is a Jinja2 file with a block `system` and a block `user`. A project may bring its own in a folder
(`prompts_dir`): `architect.j2` there stands in for the built-in one. All of them run in the sandbox of the prompts in
specs, with one filter more: `text | data("tag")` delimits text that is not ours.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from traceback import extract_tb
from typing import Any

from jinja2 import Template, TemplateSyntaxError, nodes, pass_context
from jinja2.meta import find_undeclared_variables
from jinja2.runtime import Context

from orchestrator.prompt_sandbox import METER, Meter, Metering, PromptError, charge, environment
from orchestrator.templates import PromptProblem, forbidden, parsed

PROMPT_NAMES = ("architect", "builder", "docs", "qa")
BLOCKS = ("system", "user")
MAX_PROMPT = 100_000
"""Characters of a project's own prompt."""
MAX_RENDERED = 4_000_000
ALLOWANCE = 5 * MAX_RENDERED

_FILE = {"path": "app.py", "purpose": "a purpose", "depends_on": ["db.py"], "interface": "run() -> None"}
_SAMPLES: Mapping[str, Any] = {
    "plan": "{}",
    "file": _FILE,
    "interfaces": [("db.py", "connect() -> Connection")],
    "context": [("db.py", "import sqlite3\n")],
    "current": "import db\n",
    "evidence": "a test failed",
    "checks": "[]",
}
_VALUES: Mapping[str, frozenset[str]] = {
    "architect": frozenset({"spec"}),
    "builder": frozenset({"spec", "plan", "file", "interfaces", "context", "current", "evidence"}),
    "docs": frozenset({"spec", "plan"}),
    "qa": frozenset({"spec", "plan", "context", "checks"}),
}
"""What each prompt is given."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """A prompt filled in."""

    system: str
    user: str


def as_data(content: str, tag: str, **attributes: str) -> str:
    """Wrap untrusted text in a tag that the text itself cannot close."""
    head = "".join(f' {name}="{value}"' for name, value in attributes.items())
    body = content.replace(f"</{tag}", f"<\\/{tag}")
    return f"<{tag}{head}>\n{body}\n</{tag}>"


def read_prompts(folder: Path) -> dict[str, str]:
    """Return the prompts that a project brings, by name.

    Raises:
        ValueError: There is no such folder, or something in it is not one of these files; says what would be right.
    """
    try:
        entries = sorted(one for one in folder.iterdir() if not one.name.startswith("."))
        found = {entry.name.removesuffix(".j2"): _text(entry) for entry in entries}
    except OSError as error:
        raise ValueError(f"cannot be read ({error.strerror}); write the path of a folder") from None
    if not found:
        raise ValueError(f"has no prompt in it; put one there: {_right()}")
    return found


def check_step_prompt(name: str, source: str, spec_fields: Mapping[str, Any]) -> list[PromptProblem]:
    """Return what is wrong with a step's prompt, in the order of its lines; it is filled in once to see that.

    Args:
        name: Which prompt it is: one of PROMPT_NAMES.
        source: Its text.
        spec_fields: What it may read of the spec, with values.
    """
    try:
        tree = parsed(source, _sandbox)
        found = [*forbidden(tree, _sandbox, nodes.Block)] or [*_misshapen(name, tree)]
        if not found:
            _try(name, source, spec_fields)
    except PromptError as error:
        return [PromptProblem(error.line or 1, error.message)]
    return sorted(dict.fromkeys(found), key=lambda problem: problem.line)


@lru_cache(maxsize=64)
def compile_step_prompt(source: str) -> Template:
    """Return a template whose rendering is metered; PromptError where it is none."""
    try:
        return _sandbox.from_string(Metering().visit(parsed(source, _sandbox)))
    except TemplateSyntaxError as error:
        raise PromptError(error.message or "this is no template", error.lineno) from None
    except (RecursionError, MemoryError, SyntaxError):
        raise PromptError("the template is nested too deeply; write it flatter") from None


def render_step_prompt(source: str, values: Mapping[str, Any], max_chars: int = MAX_RENDERED) -> Rendered:
    """Fill in both blocks with plain values.

    Raises:
        PromptError: The template is invalid, something that it reads is not there, or it asks for too much.
    """
    template = compile_step_prompt(source)
    context = template.new_context({**values, METER: Meter(ALLOWANCE)})
    try:
        system, user = ("".join(_bounded(template.blocks[name](context), max_chars)) for name in BLOCKS)
    except KeyError as error:
        raise PromptError(f"has no block {error}") from None
    except Exception as error:  # a template can make Python raise anything
        lines = [frame.lineno for frame in extract_tb(error.__traceback__) if frame.filename == "<template>"]
        message = error.message if isinstance(error, PromptError) else str(error) or type(error).__name__
        raise PromptError(message, lines[-1] if lines else None) from error
    return Rendered(system, user)


def _text(file: Path) -> str:
    if file.suffix != ".j2" or file.stem not in PROMPT_NAMES:
        raise ValueError(f"has {file.name!a} in it, which is no prompt; the names are {_right()}")
    if not stat.S_ISREG(file.stat().st_mode):
        raise ValueError(f"has {file.name} in it, which is no regular file")
    with file.open("rb") as opened:
        content = opened.read(4 * MAX_PROMPT + 1)
    try:
        text = content.decode()
    except UnicodeDecodeError:
        raise ValueError(f"has {file.name} in it, which is too large or not UTF-8") from None
    if len(text) > MAX_PROMPT:
        raise ValueError(f"has {file.name} in it, which is too large; {MAX_PROMPT:,} characters is the most")
    return text


def _right() -> str:
    return ", ".join(f"{name}.j2" for name in PROMPT_NAMES)


def _misshapen(name: str, tree: nodes.Template) -> Iterator[PromptProblem]:
    """Yield the blocks that are missing or too many, and the variables that will not be there."""
    blocks = [block.name for block in tree.find_all(nodes.Block)]
    if sorted(blocks) != sorted(BLOCKS):
        wanted = " and ".join(f"{{% block {block} %}}" for block in BLOCKS)
        yield PromptProblem(1, f"a step's prompt has one {wanted}; found {', '.join(blocks) or 'none'}")
    known = _VALUES[name]
    unknown = find_undeclared_variables(tree) - known - {"range"} | {"self", "super"}
    for node in tree.find_all(nodes.Name):
        if node.ctx == "load" and node.name in unknown:
            message = f"unknown variable {node.name!r}; known: {', '.join(sorted(known))}"
            yield PromptProblem(node.lineno, message)


def _try(name: str, source: str, spec_fields: Mapping[str, Any]) -> None:
    values = {"spec": dict(spec_fields), **{key: _SAMPLES[key] for key in _VALUES[name] - {"spec"}}}
    render_step_prompt(source, values, MAX_RENDERED)
    if name == "builder":
        render_step_prompt(source, {**values, "current": None, "evidence": None})


def _bounded(pieces: Iterator[str], max_chars: int) -> Iterator[str]:
    length = 0
    for piece in pieces:
        length += len(piece)
        if length > max_chars:
            raise PromptError(f"the prompt is longer than {max_chars:,} characters")
        yield piece


@pass_context
def _data(context: Context, content: Any, tag: Any, **attributes: Any) -> str:
    charge(context, content, tag, *attributes.values())
    return as_data(str(content), str(tag), **{key: str(value) for key, value in attributes.items()})


_sandbox = environment.overlay()
_sandbox.filters = {**environment.filters, "data": _data}
