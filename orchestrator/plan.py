"""The DAG of a job's steps: pure data, valid from the moment it exists.

    PlanError (a ValueError)   `step` names the step at fault, None where it is the plan as a whole
    ├── EmptyPlan              no step at all
    ├── TooManySteps           more than MAX_STEPS
    ├── DuplicateStep          two steps share an id
    ├── SelfNeed               a step needs itself
    ├── UnknownNeed            a step needs one that is not there
    └── CycleError             steps wait for each other in a circle

Its series-parallel form, which is what a Celery canvas can express, comes from `series_parallel`.
"""

from __future__ import annotations

import difflib
import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

from orchestrator.series_parallel import Parallel, PlannedStep, Series, Tree, decompose, fold

__all__ = [
    "DEFAULT_PIPELINE",
    "MAX_STEPS",
    "CycleError",
    "DuplicateStep",
    "EmptyPlan",
    "Parallel",
    "Plan",
    "PlanError",
    "PlannedStep",
    "SelfNeed",
    "Series",
    "TooManySteps",
    "Tree",
    "UnknownNeed",
    "fold",
    "problems",
    "series_parallel",
]

MAX_STEPS = 2_000
_HINTS = 20  # looking for a similar id reads all ids; nobody reads more hints than that


class PlanError(ValueError):
    """Steps that make no plan."""

    step: str | None = None


class EmptyPlan(PlanError):
    """A plan without steps."""

    def __str__(self) -> str:
        return "a plan needs at least one step"


class TooManySteps(PlanError):
    """A plan larger than we promise to handle."""

    def __init__(self, count: int) -> None:
        super().__init__(count)
        self.count = count

    def __str__(self) -> str:
        return f"{self.count} steps are too many; a plan has at most {MAX_STEPS}"


class DuplicateStep(PlanError):
    """Two steps with one id."""

    def __init__(self, step: str) -> None:
        super().__init__(step)
        self.step = step

    def __str__(self) -> str:
        return f"two steps are called {self.step!r}; give each an id of its own"


class SelfNeed(PlanError):
    """A step that waits for itself."""

    def __init__(self, step: str) -> None:
        super().__init__(step)
        self.step = step

    def __str__(self) -> str:
        return f"step {self.step!r} needs itself; remove it from its needs"


class UnknownNeed(PlanError):
    """A need that no step has as its id. `closest` is the id that was probably meant."""

    def __init__(self, step: str, need: str, closest: str | None) -> None:
        super().__init__(step, need, closest)
        self.step = step
        self.need = need
        self.closest = closest

    def __str__(self) -> str:
        hint = f"did you mean {self.closest!r}?" if self.closest else "no step has a similar id"
        return f"step {self.step!r} needs {self.need!r}, which is not a step; {hint}"


class CycleError(PlanError):
    """Steps that wait for each other. `cycle` is in running order; the first is repeated at its end."""

    _SHOWN = 12

    def __init__(self, cycle: tuple[str, ...]) -> None:
        super().__init__(cycle)
        self.cycle = cycle
        self.step = cycle[0]

    def __str__(self) -> str:
        shown = self.cycle
        if len(shown) > self._SHOWN:
            shown = (*shown[: self._SHOWN - 1], "…", shown[-1])
        return f"steps wait for each other in a circle: {' → '.join(shown)}; remove one of these needs"


@dataclass(frozen=True, slots=True)
class Plan:
    """A valid DAG: ids are unique, every need is a step, there is no circle.

    Attributes:
        steps: The steps in the order in which they were given.
        order: Ids such that each comes after its needs; ties keep the given order.
        dependents: For each id, the ids that need it, in the given order.

    Raises:
        PlanError: The first thing that is wrong with the steps; `problems` lists all.
    """

    steps: tuple[PlannedStep, ...]
    order: tuple[str, ...] = field(init=False, repr=False, compare=False)
    dependents: Mapping[str, tuple[str, ...]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for problem in problems(self.steps):
            raise problem
        dependents = _dependents(self.steps)
        object.__setattr__(self, "dependents", dependents)
        object.__setattr__(self, "order", tuple(_topological(self.steps, dependents)))

    @classmethod
    def of(cls, steps: Iterable[PlannedStep]) -> Self:
        """Make the plan of these steps."""
        return cls(tuple(steps))

    @property
    def by_id(self) -> dict[str, PlannedStep]:
        """The steps by their ids."""
        return {step.id: step for step in self.steps}

    @property
    def roots(self) -> tuple[str, ...]:
        """Ids of the steps that need nothing."""
        return tuple(step.id for step in self.steps if not step.needs)

    @property
    def width(self) -> int | None:
        """The most steps that can be in flight at once; None for a plan that is not series-parallel.

        That is the size of the largest antichain. In general it costs a matching on the transitive closure;
        on the tree of a series-parallel plan it is a sum or a maximum at each node.
        """
        tree = series_parallel(self)
        return None if tree is None else fold(tree, lambda _: 1, max, sum)

    def levels(self) -> tuple[tuple[str, ...], ...]:
        """Ids by the length of the longest way to them from a root; within a level in the given order."""
        by_id = self.by_id
        level: dict[str, int] = {}
        for id_ in self.order:
            level[id_] = 1 + max((level[need] for need in by_id[id_].needs), default=-1)
        found: list[list[str]] = [[] for _ in range(max(level.values()) + 1)]
        for step in self.steps:
            found[level[step.id]].append(step.id)
        return tuple(map(tuple, found))


DEFAULT_PIPELINE = (
    PlannedStep("architect", "architect"),
    PlannedStep("builder", "builder", ("architect",)),
    PlannedStep("docs", "docs", ("architect",)),
    PlannedStep("qa", "qa", ("builder", "docs")),
)


def series_parallel(plan: Plan) -> Tree | None:
    """Write a plan as nested series and parallels; None where that would add or lose a precedence.

    A comes before B in the tree exactly when B is reachable from A in the DAG: redundant needs change nothing.
    """
    return decompose(plan.steps, plan.order)


def problems(steps: Sequence[PlannedStep]) -> Iterator[PlanError]:
    """Yield all that keeps these steps from being a plan; a circle only when the ids are sound."""
    if not steps:
        yield EmptyPlan()
    if len(steps) > MAX_STEPS:
        yield TooManySteps(len(steps))
        return
    sound = True
    for problem in _wrong_names(steps):
        sound = False
        yield problem
    if sound and (cycle := _cycle(steps)):
        yield CycleError(cycle)


def _wrong_names(steps: Sequence[PlannedStep]) -> Iterator[PlanError]:
    ids = dict.fromkeys(step.id for step in steps)
    seen: set[str] = set()
    hints = _HINTS
    for step in steps:
        if step.id in seen:
            yield DuplicateStep(step.id)
        seen.add(step.id)
        for need in step.needs:
            if need == step.id:
                yield SelfNeed(step.id)
            elif need not in ids:
                closest = _closest(need, [id_ for id_ in ids if id_ != step.id]) if hints else None
                hints -= bool(hints)
                yield UnknownNeed(step.id, need, closest)


def _closest(need: str, ids: list[str]) -> str | None:
    return next(iter(difflib.get_close_matches(need, ids, n=1)), None)


def _cycle(steps: Sequence[PlannedStep]) -> tuple[str, ...]:
    """Return one circle in running order, or nothing. Every need must be a step."""
    done = set(_topological(steps, _dependents(steps)))
    stuck = {step.id: step.needs for step in steps if step.id not in done}
    if not stuck:
        return ()
    # Each stuck step has a stuck need, so a walk along them must come round.
    walk = [next(iter(stuck))]
    position = {walk[0]: 0}
    while True:
        need = next(need for need in stuck[walk[-1]] if need in stuck)
        if need in position:
            circle = walk[position[need] :][::-1]
            first = circle.index(next(id_ for id_ in stuck if id_ in set(circle)))
            return (*circle[first:], *circle[:first], circle[first])
        position[need] = len(walk)
        walk.append(need)


def _dependents(steps: Sequence[PlannedStep]) -> dict[str, tuple[str, ...]]:
    found: dict[str, list[str]] = {step.id: [] for step in steps}
    for step in steps:
        for need in dict.fromkeys(step.needs):
            found[need].append(step.id)
    return {id_: tuple(dependents) for id_, dependents in found.items()}


def _topological(steps: Sequence[PlannedStep], dependents: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """Yield ids, each after its needs, the earliest given first; what hangs on a circle is left out."""
    position = {step.id: index for index, step in enumerate(steps)}
    waiting = {step.id: len(set(step.needs)) for step in steps}
    ready = [position[id_] for id_, count in waiting.items() if not count]
    while ready:
        id_ = steps[heapq.heappop(ready)].id
        yield id_
        for dependent in dependents[id_]:
            waiting[dependent] -= 1
            if not waiting[dependent]:
                heapq.heappush(ready, position[dependent])
