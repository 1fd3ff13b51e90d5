"""YAML from a user's hand: plain values, and the line that each of them stands on.

Read as YAML 1.2's core schema, which is what people expect: only `true` and `false` are booleans (`no` is
text), a date is text, `012` is twelve and `1e3` a number. Refused, beyond what is no YAML at all: a second
document, a top level that is no mapping, a key that is repeated or no text, merge keys (`<<`), tags other than
the core's, infinite numbers, and what is larger, deeper or (through aliases) more repetitive than a person writes.
"""

from __future__ import annotations

import bisect
import math
import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from yaml.reader import ReaderError

MAX_BYTES = 1024 * 1024
MAX_NODES = 50_000  # 2,000 steps of 25 keys and values each
MAX_DEPTH = 100

Loc: TypeAlias = tuple[str | int, ...]
_CORE = "tag:yaml.org,2002:"


class YamlError(ValueError):
    """A file or text that we do not read. `line` counts from 1; None where the whole file is at fault."""

    def __init__(self, message: str, line: int | None = None) -> None:
        super().__init__(message, line)
        self.message = message
        self.line = line

    def __str__(self) -> str:
        return self.message


@dataclass(frozen=True, slots=True)
class Document:
    """A YAML text, its values (str, int, float, bool, None, list, dict), and where they stand."""

    text: str
    values: dict[str, Any]
    _lines: dict[Loc, int] = field(repr=False)
    _blocks: frozenset[Loc] = field(repr=False)

    def line_of(self, loc: Loc) -> int:
        """Return the line of the key or item that `loc` leads to, or of the nearest around it that exists."""
        while loc and loc not in self._lines:
            loc = loc[:-1]
        return self._lines[loc]

    def line_within(self, loc: Loc, line: int) -> int:
        """Return the line of a line of the text at `loc`: exact in a block (`|`), else where it begins."""
        return self.line_of(loc) + (line if loc in self._blocks else 0)


def load(path: Path) -> Document:
    """Read a file.

    Raises:
        YamlError: It is missing, no regular file, too large, no UTF-8, or no YAML that we read.
    """
    content = _read(path)
    if b"\0" in content:
        raise YamlError("is a binary file; write YAML, as text in UTF-8")
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise YamlError(
            f"byte {content[error.start]:#04x} is not UTF-8; save the file as UTF-8", line
        ) from None
    return parse(text)


def parse(text: str) -> Document:
    """Read a text.

    Raises:
        YamlError: It is too large, or no YAML that we read.
    """
    if len(text.encode(errors="surrogatepass")) > MAX_BYTES:
        raise YamlError(f"is too large; {MAX_BYTES:,} bytes is the most")
    lines = _Lines(text)
    with _translated(text, lines):
        root = _Loader(text, lines).get_single_node()
    if root is None or (isinstance(root, ScalarNode) and not root.value):
        raise YamlError("is empty; write a mapping, such as project: my_app")
    if not isinstance(root, MappingNode):
        raise YamlError("the top level is not a mapping; write one, such as project: my_app", lines.of(root))
    reader = _Values(lines)
    values = reader.value(root, ())
    return Document(text, values, {**reader.lines, (): lines.of(root)}, frozenset(reader.blocks))


class _Lines:
    """Lines as editors count them; PyYAML's marks also count U+0085 and U+2028 as ends of lines."""

    def __init__(self, text: str) -> None:
        self._ends = [found.start() for found in re.finditer(r"\r\n?|\n", text)]

    def at(self, index: int) -> int:
        """Return the line, from 1, of the character with that index."""
        return bisect.bisect_left(self._ends, index) + 1

    def of(self, node: Node) -> int:
        """Return the line that a node begins on."""
        return self.at(node.start_mark.index)


def _read(path: Path) -> bytes:
    """Return a regular file's bytes, never waiting for a pipe or a device."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise YamlError("no such file") from None
    except (OSError, ValueError) as error:
        raise YamlError(f"cannot be opened: {getattr(error, 'strerror', None) or error}") from None
    try:
        if not stat.S_ISREG(mode := os.fstat(handle).st_mode):
            raise YamlError(f"is {'a folder' if stat.S_ISDIR(mode) else 'no regular file'}; name a YAML file")
        with os.fdopen(handle, "rb", closefd=False) as file:
            content = file.read(MAX_BYTES + 1)
    finally:
        os.close(handle)
    if len(content) > MAX_BYTES:
        raise YamlError(f"is too large; {MAX_BYTES:,} bytes is the most")
    return content


@contextmanager
def _translated(text: str, lines: _Lines) -> Iterator[None]:
    """Turn PyYAML's errors into ours."""
    try:
        yield
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        why = f"{error.problem or error.context}"
        if why == "but found another document":
            why = "a second document begins; write one to a file"
        if "\\t" in why:
            why += "; indent with spaces, not tabs"
        if mark is None:
            raise YamlError(f"no valid YAML: {why}") from None
        near = re.split(r"[\r\n]", text[mark.index - mark.column :], maxsplit=1)[0].strip()[:60]
        place = f"column {mark.column + 1}, near {near!r}" if near else f"column {mark.column + 1}"
        raise YamlError(f"no valid YAML: {why} ({place})", lines.at(mark.index)) from None
    except ReaderError as error:
        character = ord(text[error.position])
        line = lines.at(error.position)
        raise YamlError(f"character U+{character:04X} is not allowed in YAML; remove it", line) from None


class _Loader(yaml.SafeLoader):
    """SafeLoader's nodes with YAML 1.2's core schema; stops at once where a text is too deep or too long."""

    def __init__(self, text: str, lines: _Lines) -> None:
        super().__init__(text)
        self._lines = lines
        self._depth = self._count = 0

    def compose_node(self, parent: Node | None, index: int) -> Node | None:
        """Compose one node and what is below it."""
        line = self._lines.at(self.peek_event().start_mark.index)  # type: ignore[no-untyped-call]
        self._count += 1
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise YamlError(f"nested more than {MAX_DEPTH} deep; write it flatter", line)
        if self._count > MAX_NODES:
            raise YamlError(f"more than {MAX_NODES:,} values; write fewer", line)
        node: Node | None = super().compose_node(parent, index)
        self._depth -= 1
        return node


_Loader.yaml_implicit_resolvers = {}
# yaml.org/spec/1.2.2, section 10.3.2, tag resolution of the core schema
for _tag, _pattern in (
    ("null", r"~|null|Null|NULL|"),
    ("bool", r"true|True|TRUE|false|False|FALSE"),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"),
):
    _Loader.add_implicit_resolver(_CORE + _tag, re.compile(rf"(?:{_pattern})\Z"), None)


def _integer(text: str) -> int:
    if len(text) > 400:
        raise ValueError("too many digits")
    return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))


def _float(text: str) -> float:
    number = float(re.sub(r"\.(inf|nan)", r"\1", text.lower()))
    if not math.isfinite(number):
        raise ValueError("not finite")
    return number


def _text(text: str) -> str:
    r"""Join the halves of characters that JSON writes as two escapes, such as "\ud83d\ude00"."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16")


_SCALARS: dict[str, tuple[Callable[[str], Any], str]] = {
    "null": (lambda _: None, "null"),
    "bool": (lambda text: {"true": True, "false": False}[text.lower()], "true or false"),
    "int": (_integer, "a whole number of at most 400 digits"),
    "float": (_float, "a finite number"),
    "str": (_text, "text without halves of characters"),
}


class _Values:
    """Turns nodes into values, noting lines. Counts what is there as often as aliases repeat it."""

    def __init__(self, lines: _Lines) -> None:
        self.lines: dict[Loc, int] = {}
        self.blocks: list[Loc] = []
        self._line_of = lines.of
        self._count = self._length = 0
        self._open: list[Node] = []

    def value(self, node: Node, loc: Loc) -> Any:
        """Return the value of a node that stands at `loc`."""
        self._count += 1
        if self._count > MAX_NODES:
            raise YamlError(f"aliases make more than {MAX_NODES:,} values; write fewer", self._line_of(node))
        if len(self._open) >= MAX_DEPTH:
            raise YamlError(f"aliases nest more than {MAX_DEPTH} deep; write it flatter", self._line_of(node))
        if any(node is outer for outer in self._open):
            raise YamlError("an alias stands inside what it repeats; write it out", self._line_of(node))
        self._open.append(node)
        value = self._plain(node, loc)
        self._open.pop()
        return value

    def _plain(self, node: Node, loc: Loc) -> Any:
        if isinstance(node, MappingNode) and node.tag == f"{_CORE}map":
            return self._mapping(node, loc)
        if isinstance(node, SequenceNode) and node.tag == f"{_CORE}seq":
            return [self._item(item, (*loc, index)) for index, item in enumerate(node.value)]
        if isinstance(node, ScalarNode) and (kind := node.tag.removeprefix(_CORE)) in _SCALARS:
            if node.style == "|":
                self.blocks.append(loc)
            return self._scalar(node, *_SCALARS[kind])
        tag = node.tag.replace(_CORE, "!!")
        raise YamlError(f"tag {tag} is not allowed here; write the value without it", self._line_of(node))

    def _item(self, node: Node, loc: Loc) -> Any:
        self.lines[loc] = self._line_of(node)
        return self.value(node, loc)

    def _mapping(self, node: MappingNode, loc: Loc) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = self._key(key_node)
            at = (*loc, key)
            if key in values:
                message = f"key {key[:80]!r} is already on line {self.lines[at]}; leave out one of the two"
                raise YamlError(message, self._line_of(key_node))
            self.lines[at] = self._line_of(key_node)
            values[key] = self.value(value_node, at)
        return values

    def _key(self, node: Node) -> str:
        if not isinstance(node, ScalarNode):
            raise YamlError("a key is a list or a mapping; write text", self._line_of(node))
        if node.tag != f"{_CORE}str":
            raise YamlError(f"key {node.value[:80]!r} is not text; put it in quotes", self._line_of(node))
        if node.value == "<<" and node.style is None:
            raise YamlError(
                "key '<<' merges, which is not supported; write the keys out", self._line_of(node)
            )
        return str(self._scalar(node, *_SCALARS["str"]))

    def _scalar(self, node: ScalarNode, convert: Callable[[str], Any], right: str) -> Any:
        self._length += len(node.value)
        if self._length > MAX_BYTES:
            raise YamlError(
                f"aliases make more than {MAX_BYTES:,} characters; write fewer", self._line_of(node)
            )
        try:
            return convert(node.value)
        except (ValueError, KeyError):
            raise YamlError(
                f"{node.value[:80]!r} is not {right}; write {right}", self._line_of(node)
            ) from None
