"""What users' prompts run in: Jinja2's sandbox with few filters and methods, and a meter on the work they cause.

The sandbox keeps a template from Python; the meter keeps it from eating the machine: each turn of a loop, and
each value that is built or printed, is paid for from one allowance before it is made. What is left: a comparison
costs nothing, so a hostile template can take some seconds, which a step's own time limit has to end.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from jinja2 import StrictUndefined, Undefined, nodes, pass_context
from jinja2.exceptions import SecurityError
from jinja2.filters import FILTERS as JINJA_FILTERS
from jinja2.runtime import Context, LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment, safe_range
from jinja2.visitor import NodeTransformer

METER = " meter"
"""The variable that holds a rendering's meter; the blank keeps templates from naming it, here and below."""

_TEXT_METHODS = {
    *("capitalize", "count", "endswith", "find", "lower", "lstrip", "removeprefix", "removesuffix", "rsplit"),
    *("rstrip", "split", "splitlines", "startswith", "strip", "title", "upper"),
}
METHODS: dict[type, frozenset[str]] = {
    str: frozenset(_TEXT_METHODS),
    dict: frozenset({"get", "items", "keys", "values"}),
    LoopContext: frozenset({"changed", "cycle"}),
}
"""What a prompt may call besides range."""

_FILTERS = {
    *(
        "abs",
        "capitalize",
        "count",
        "d",
        "default",
        "dictsort",
        "first",
        "float",
        "indent",
        "int",
        "items",
        "join",
    ),
    *("last", "length", "list", "lower", "map", "max", "min", "reject", "rejectattr", "replace", "reverse"),
    *("select", "selectattr", "sort", "string", "title", "trim", "truncate", "unique", "upper", "wordcount"),
}
_MOST_BITS = 4_096


class PromptError(ValueError):
    """A template that cannot be used or rendered. `line` counts from 1 in the template, where it is known."""

    def __init__(self, message: str, line: int | None = None) -> None:
        super().__init__(message, line)
        self.message = message
        self.line = line

    def __str__(self) -> str:
        return f"line {self.line} of the prompt: {self.message}" if self.line else self.message


class Meter:
    """What one rendering may still spend: one unit is a character, an item, or a node of a loop's body."""

    def __init__(self, allowance: int) -> None:
        self.left = allowance

    def spend(self, units: int) -> None:
        """Pay before doing; PromptError when there is not enough left."""
        self.left -= units
        if self.left < 0:
            raise PromptError("the prompt asks for too much work; loop over less, or build shorter texts")

    def spend_on(self, *values: object, times: int = 1) -> None:
        """Pay for values as large as these, with everything in them, and that often."""
        stack, cost = [*values], 0
        while stack and cost <= self.left:
            value = stack.pop()
            cost += 1
            if isinstance(value, str | range):
                cost += len(value)
            elif isinstance(value, Mapping):
                stack += (*value.keys(), *value.values())
            elif isinstance(value, Collection):
                stack += value
        self.spend(cost * max(times, 1))


def _meter(context: Context) -> Meter:
    meter: Meter = context.parent[METER]
    return meter


def charge(context: Context, *values: object) -> None:
    """Pay for what a filter makes of values as large as these."""
    _meter(context).spend_on(*values)


class _Sandbox(ImmutableSandboxedEnvironment):
    """The sandbox, with a price on operators and calls that make much from little."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def getattr(self, obj: Any, attribute: str) -> Any:
        """Prefer a mapping's keys to its methods: a step may be called `items`."""
        if isinstance(obj, dict) and attribute in obj:
            return obj[attribute]
        return super().getattr(obj, attribute)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Compute an intercepted operator."""
        sizes = [side for side in (left, right) if not isinstance(side, int | float)]
        if operator == "%" and sizes:
            raise SecurityError("% works on numbers here; join texts with ~")
        if operator == "+":
            _meter(context).spend_on(left, right)
        elif sizes:
            times = max([side for side in (left, right) if isinstance(side, int)], default=1)
            _meter(context).spend_on(*sizes, times=times)
        elif isinstance(left, int) and isinstance(right, int) and operator != "%":
            bits = left.bit_length() * right if operator == "**" else left.bit_length() + right.bit_length()
            if bits > _MOST_BITS:
                raise SecurityError("a number grows too large")
        return super().call_binop(context, operator, left, right)

    def call(self, context: Context, obj: Any, *args: Any, **kwargs: Any) -> Any:
        """Call what a prompt may call: range, and a few methods of texts, mappings and loops."""
        owner = getattr(obj, "__self__", None)
        if isinstance(obj, Undefined):
            return super().call(context, obj)  # says what is not there
        if obj is safe_range:
            _meter(context).spend(len(safe_range(*args)))
        elif getattr(obj, "__name__", "") in METHODS.get(type(owner), ()):
            _meter(context).spend_on(owner if isinstance(owner, str | dict) else args)
        else:
            raise SecurityError(f"{getattr(obj, '__name__', 'this value')} cannot be called in a prompt")
        return super().call(context, obj, *args, **kwargs)


class Metering(NodeTransformer):
    """Sends what a template builds or loops over through filters that charge for it."""

    def _charged(self, node: Any, name: str, *args: nodes.Expr) -> nodes.Filter:
        self.generic_visit(node)
        return nodes.Filter(
            node, name, [*args], [], None, None, lineno=node.lineno, environment=node.environment
        )

    def visit_For(self, node: nodes.For) -> nodes.For:  # noqa: N802 - the visitor's naming
        """Charge each turn with the size of the loop's body."""
        cost = nodes.Const(sum(1 for _ in node.find_all(nodes.Node)), lineno=node.lineno)
        self.generic_visit(node)
        node.iter = nodes.Filter(
            node.iter, " turns", [cost], [], None, None, lineno=node.lineno, environment=node.environment
        )
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Filter:  # noqa: N802
        """Charge `~`, which the sandbox does not let us intercept."""
        parts = nodes.List(node.nodes, lineno=node.lineno, environment=node.environment)
        return self._charged(parts, " concat")

    def visit_List(self, node: nodes.List) -> nodes.Filter:  # noqa: N802
        """Charge a list with all that is in it: twice itself, forty times over, is a large list."""
        return self._charged(node, " built")

    def visit_Dict(self, node: nodes.Dict) -> nodes.Filter:  # noqa: N802
        """Charge a mapping likewise."""
        return self._charged(node, " built")

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:  # noqa: N802
        """Charge a tuple likewise, unless it is what a loop or an assignment unpacks into."""
        return self._charged(node, " built") if node.ctx == "load" else node


@pass_context
def _turns(context: Context, items: Any, cost: int) -> Iterator[Any]:
    for item in items:
        _meter(context).spend(cost)
        yield item


@pass_context
def _built(context: Context, value: Any) -> Any:
    _meter(context).spend_on(value)
    return value


@pass_context
def _concat(context: Context, parts: list[Any]) -> str:
    _meter(context).spend_on(parts)
    return "".join(map(str, parts))


@pass_context
def _printed(context: Context, value: Any) -> str:
    if callable(value) and not isinstance(value, Undefined):
        raise PromptError(f"{getattr(value, '__name__', 'this')} is to be called; write () after it")
    _meter(context).spend_on(value)
    return str(value)


@pass_context
def _tojson(context: Context, value: Any) -> str:
    _meter(context).spend_on(value)
    return json.dumps(value, ensure_ascii=False)


def _metered(name: str) -> Any:
    """Return Jinja's filter of that name, paid for by the size of what goes in and of what may come out."""

    @pass_context
    def call(context: Context, value: Any, *args: Any, **kwargs: Any) -> Any:
        # A generator (of map, select, …) is as long as something that was paid for.
        value = [*value] if isinstance(value, Iterator) else value
        given = [*args, *kwargs.values()]
        meter = _meter(context)
        meter.spend_on(value)
        meter.spend_on(given, times=_repeats(name, value, given))
        return context.environment.call_filter(f" {name}", value, args, kwargs, context=context)

    return call


def _repeats(name: str, value: Any, given: list[Any]) -> int:
    """Say how often a filter may write its arguments into its result."""
    match name:
        case "join" if isinstance(value, Collection):
            return len(value)
        case "replace":
            return max([str(value).count(str(old)) for old in given], default=1)
        case "indent":
            widths = [width for width in given if isinstance(width, int)]
            return (str(value).count("\n") + 1) * max([1, *widths])
    return 1


environment = _Sandbox(
    undefined=StrictUndefined, optimized=False, keep_trailing_newline=True, finalize=_printed
)
environment.globals = {"range": safe_range}
environment.filters = {
    **{name: _metered(name) for name in _FILTERS},
    **{f" {name}": JINJA_FILTERS[name] for name in _FILTERS},
    "tojson": _tojson,
    " turns": _turns,
    " built": _built,
    " concat": _concat,
}
