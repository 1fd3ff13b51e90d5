"""The functions of a library: which ones a description asks for, their source, and how they are called."""

from __future__ import annotations

import ast
import builtins
import inspect
import json
import keyword
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from providers.scaffold import catalog
from providers.scaffold.layout import printable
from providers.scaffold.words import snake

MOST = 15  # what a module offers has to fit into the plan
ABOUT = "about"
_CALL = re.compile(r"\b(?P<name>[a-z_][a-z0-9_]{0,39})\((?P<parameters>[^()\n]{0,200})\)")
_SIGNATURE = re.compile(r"^(?P<name>[a-z_][a-z0-9_]*)\((?P<parameters>.*)\)(?: -> .*)?$", re.MULTILINE)
_LISTED = re.compile(
    r"\b(?:functions?|helpers?|funktion(?:en)?)\b\W{0,3}(?P<list>[^.;\n]{1,300})", re.IGNORECASE
)
_NAME = re.compile(r"[a-z][a-z0-9]*(?:_[a-z0-9]+)+")
_NOT_NAMES = {"main", "str", "int", "print", "dict", "list", "open", "len", "range", "set"}
_TAKEN = {*dir(builtins), "date", "functions", "math", "re", "unicodedata"}
_STUB = '''def {name}({parameters}) -> Any:
    """Say that it is not written: no rule of the scaffold covers this function."""
    raise NotImplementedError("{name} is not written yet")
'''
_ABOUT = '''def about() -> str:
    """Return what this library was asked to be: no rule of the scaffold found a function in that."""
    return {goal}
'''
_KINDS = {"str": "", "int": "int", "float": "float", "Sequence[float]": "float"}


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter on the command line: `type` reads it ("" is text), `default` is Python ("" where there is none)."""

    name: str
    type: str = ""
    many: bool = False
    default: str = ""

    @property
    def argument(self) -> str:
        """The arguments of argparse's `add_argument`."""
        name = f"--{self.name}" if self.default else self.name
        typed = f", type={self.type}" if self.type else ""
        many = ', nargs="+"' if self.many else ""
        default = (
            f", default={json.dumps(ast.literal_eval(self.default), ensure_ascii=False)}"
            if self.default
            else ""
        )
        return f'"{name}"{typed}{many}{default}'


@dataclass(frozen=True, slots=True)
class Function:
    """A function: its source, and its cases (arguments and result, as Python); none where it is a stub."""

    name: str
    source: str
    cases: tuple[tuple[str, str], ...] = ()

    @property
    def node(self) -> ast.FunctionDef:
        """The source as a tree."""
        node = ast.parse(self.source).body[0]
        if not isinstance(node, ast.FunctionDef):
            raise TypeError(f"the source of {self.name} is no function")
        return node

    @property
    def purpose(self) -> str:
        """What its docstring says."""
        return ast.get_docstring(self.node) or ""

    @property
    def signature(self) -> str:
        """Its first line without `def`."""
        return self.source.splitlines()[0].removeprefix("def ").removesuffix(":")

    @property
    def asserted(self) -> list[str]:
        """What its tests assert."""
        return [
            f"functions.{self.name}({arguments}) {'is' if result in {'True', 'False'} else '=='} {result}"
            for arguments, result in self.cases
        ]

    @property
    def parameters(self) -> list[Parameter] | None:
        """How it is called from the command line; None where its arguments cannot be typed there."""
        node, found = self.node, []
        arguments = [*node.args.args]
        defaults = [""] * (len(arguments) - len(node.args.defaults)) + [*map(ast.unparse, node.args.defaults)]
        for argument, default in zip(arguments, defaults, strict=True):
            kind = ast.unparse(argument.annotation) if argument.annotation else "Any"
            if kind not in {*_KINDS, "Any"}:
                return None
            found.append(Parameter(argument.arg, _KINDS.get(kind, ""), kind.startswith("Sequence"), default))
        return found

    @property
    def command(self) -> str:
        """Its name on the command line."""
        return self.name.strip("_").replace("_", "-")

    @property
    def example(self) -> tuple[list[str], str] | None:
        """Words to type for the first case, and what is then printed; None where nothing is known to be printed."""
        if not self.cases or not (parameters := self.parameters):
            return None
        values = ast.literal_eval(f"({self.cases[0][0]},)")
        read = {"int": int, "float": float, "": str}
        typed = [
            [read[one.type](item) for item in value] if one.many else read[one.type](value)
            for one, value in zip(parameters, values, strict=False)
        ]
        result = getattr(catalog, catalog.ALIASES.get(self.name, self.name))(*typed)
        words = [str(item) for value in values for item in (value if isinstance(value, list) else [value])]
        return [self.command, *words], str(result)

    @property
    def typed(self) -> str:
        """The first case as one types it."""
        return shlex.join(self.example[0]) if self.example else ""


def asked(description: str) -> tuple[Function, ...]:
    """Return the functions that a description names: as calls, in a list, or by topic."""
    found: dict[str, Function] = {}
    for name, parameters in _mentioned(description):
        function = named(name, parameters)
        found.setdefault(function.name, function)
    return tuple(found.values())[:MOST]


def offered(interface: str, goal: str) -> tuple[Function, ...]:
    """Return the functions that a plan says a module offers, one a line."""
    found = [named(match["name"], match["parameters"]) for match in _SIGNATURE.finditer(interface)]
    return tuple(about(goal) if one.name == ABOUT and not one.cases else one for one in found)


def about(goal: str) -> Function:
    """Return the one function of a library whose description names none."""
    words = " ".join(printable(goal).translate({ord("\\"): "/", ord('"'): "'"}).split())
    most = 60 if words.isascii() else 30  # other characters may be two columns wide
    said = f'"{words if len(words) <= most else words[:most].rstrip() + "…"}"'
    return Function(ABOUT, _ABOUT.format(goal=said), (("", said),))


def named(name: str, parameters: str | None = None) -> Function:
    """Return the function of that name: the catalog's where it can be called like that, else a stub."""
    name = _identifier(name, "function")
    given = [_identifier(re.split(r"[:=]", one)[0], "value") for one in _split(parameters or "")]
    known = catalog.ALIASES.get(name, name)
    if known in catalog.CASES:
        arguments = inspect.signature(getattr(catalog, known)).parameters.values()
        needed = sum(one.default is inspect.Parameter.empty for one in arguments)
        if not given or needed <= len(given) <= len(arguments):
            source = inspect.getsource(getattr(catalog, known))
            return Function(name, source.replace(f"def {known}(", f"def {name}(", 1), catalog.CASES[known])
    return _stub(name, list(dict.fromkeys(given)))


def _mentioned(description: str) -> Iterator[tuple[str, str | None]]:
    calls = [(match["name"], match["parameters"]) for match in _CALL.finditer(description)]
    calls = [call for call in calls if call[0] not in _NOT_NAMES]
    yield from calls
    listed = [name for match in _LISTED.finditer(description) for name in _NAME.findall(match["list"])]
    words = [
        word
        for word in re.findall(r"\w+", description)
        if word in catalog.CASES or ("_" in word and word in catalog.ALIASES)
    ]
    yield from ((name, None) for name in [*listed, *words])
    if not calls and not listed and not words:
        for pattern, names in catalog.TOPICS:
            if re.search(rf"\b(?:{pattern})\b", description, re.IGNORECASE):
                yield from ((name, None) for name in names)


def _stub(name: str, parameters: list[str]) -> Function:
    typed = ", ".join(f"{one}: Any" for one in parameters)
    fits = len(name) + len(typed) < 80
    return Function(name, _STUB.format(name=name, parameters=typed if fits else "*values: Any"))


def _split(parameters: str) -> list[str]:
    """Part parameters at the commas that are in no brackets."""
    flat = re.sub(r"\[[^\[\]]*\]", "", re.sub(r"\[[^\[\]]*\]", "", parameters))
    return [one.strip(" *") for one in flat.split(",") if one.strip(" */")]


def _identifier(text: str, otherwise: str) -> str:
    name = snake(text) or otherwise
    return f"{name}_" if keyword.iskeyword(name) or name in _TAKEN else name
