"""The steps of a DAG, and how their order is written as a tree of series and parallels.

There is such a tree exactly when the order has no "N" (a→c, a→d, b→d and nothing else among the four). It is
found from its leaves up, as cographs are reduced by twins: two neighbours that look alike from outside become
one, until one is left or no two look alike. Sets of steps are the bits of an int.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

Result = TypeVar("Result")
_Key: TypeAlias = tuple[int, int]


@dataclass(frozen=True, slots=True)
class PlannedStep:
    """One step: what it is, and the ids of the steps that must be done before it."""

    id: str
    kind: str
    needs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Series:
    """Two parts or more, each of which runs after all of the one before it; no part is itself a Series."""

    parts: tuple[Tree, ...]


@dataclass(frozen=True, slots=True)
class Parallel:
    """Two parts or more that do not wait for each other, in the given order; no part is itself a Parallel."""

    parts: tuple[Tree, ...]


Tree: TypeAlias = PlannedStep | Series | Parallel


def fold(
    tree: Tree,
    step: Callable[[PlannedStep], Result],
    series: Callable[[list[Result]], Result],
    parallel: Callable[[list[Result]], Result],
) -> Result:
    """Build one value from a tree, leaves first. Not recursive: a tree can be as deep as it has steps."""
    todo: list[tuple[Tree, bool]] = [(tree, False)]
    built: list[Result] = []
    while todo:
        node, parts_are_built = todo.pop()
        if isinstance(node, PlannedStep):
            built.append(step(node))
        elif parts_are_built:
            parts = built[-len(node.parts) :]
            del built[-len(node.parts) :]
            built.append(series(parts) if isinstance(node, Series) else parallel(parts))
        else:
            todo.append((node, True))
            todo.extend((part, False) for part in reversed(node.parts))
    return built[0]


def decompose(steps: Sequence[PlannedStep], order: Sequence[str]) -> Tree | None:
    """Return the tree whose precedence is that of the DAG, or None where there is none.

    Args:
        steps: The steps of a valid plan; the parts of a Parallel come in this order.
        order: Their ids in topological order.
    """
    waiting = _single_steps(steps, order)
    by_parallel_key: dict[_Key, _Module] = {}
    by_head: dict[_Key, _Module] = {}
    by_tail: dict[_Key, _Module] = {}
    module = waiting[-1]
    while waiting:
        module = waiting.pop()
        if twin := by_parallel_key.get(module.parallel_key):
            partner, merged = twin, module.beside(twin)
        elif following := by_head.get(module.tail):
            partner, merged = following, module.then(following)
        elif leading := by_tail.get(module.head):
            partner, merged = leading, leading.then(module)
        else:
            by_parallel_key[module.parallel_key] = by_head[module.head] = by_tail[module.tail] = module
            continue
        del by_parallel_key[partner.parallel_key], by_head[partner.head], by_tail[partner.tail]
        waiting.append(merged)
    return _in_given_order(module.tree, steps) if len(by_parallel_key) == 1 else None


@dataclass(frozen=True, slots=True)
class _Module:
    """Steps that look alike from outside: what is before one of them is before all, and so with after."""

    tree: Tree
    members: int
    before: int
    after: int

    @property
    def parallel_key(self) -> _Key:
        """What two modules share exactly when they can stand beside each other."""
        return self.before, self.after

    @property
    def tail(self) -> _Key:
        """What equals the head of the module that can run right after this one; there is at most one."""
        return self.before | self.members, self.after

    @property
    def head(self) -> _Key:
        """What equals the tail of the module that can run right before this one; there is at most one."""
        return self.before, self.after | self.members

    def beside(self, other: _Module) -> _Module:
        """Put two modules with one parallel key into one."""
        parts = (*_parts(self.tree, Parallel), *_parts(other.tree, Parallel))
        return _Module(Parallel(parts), self.members | other.members, self.before, self.after)

    def then(self, other: _Module) -> _Module:
        """Put two modules into one, `other` after this one."""
        parts = (*_parts(self.tree, Series), *_parts(other.tree, Series))
        return _Module(Series(parts), self.members | other.members, self.before, other.after)


def _parts(tree: Tree, kind: type[Series | Parallel]) -> tuple[Tree, ...]:
    return tree.parts if isinstance(tree, kind) else (tree,)


def _single_steps(steps: Sequence[PlannedStep], order: Sequence[str]) -> list[_Module]:
    by_id = {step.id: step for step in steps}
    bit = {id_: 1 << index for index, id_ in enumerate(order)}
    before = dict.fromkeys(order, 0)
    after = dict.fromkeys(order, 0)
    for id_ in order:
        for need in by_id[id_].needs:
            before[id_] |= before[need] | bit[need]
    for id_ in reversed(order):
        for need in by_id[id_].needs:
            after[need] |= after[id_] | bit[id_]
    return [_Module(by_id[id_], bit[id_], before[id_], after[id_]) for id_ in reversed(order)]


def _in_given_order(tree: Tree, steps: Sequence[PlannedStep]) -> Tree:
    position = {step.id: index for index, step in enumerate(steps)}

    def in_series(parts: list[tuple[int, Tree]]) -> tuple[int, Tree]:
        return min(first for first, _ in parts), Series(tuple(part for _, part in parts))

    def in_parallel(parts: list[tuple[int, Tree]]) -> tuple[int, Tree]:
        ordered = sorted(parts, key=lambda part: part[0])
        return ordered[0][0], Parallel(tuple(part for _, part in ordered))

    return fold(tree, lambda step: (position[step.id], step), in_series, in_parallel)[1]
