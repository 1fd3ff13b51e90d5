"""From a plan to Celery messages: a canvas where Celery's own can express the plan, single messages where not.

A canvas is sent whole at the start of an attempt, and Celery itself starts what comes next: the default pipeline is
`chain(architect, group(builder, docs), qa)`. With driver "ready" the commit of a step names the steps that have
become ready, and whoever committed sends those.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Literal

from celery import Celery, chain, group
from celery.canvas import Signature

from orchestrator.names import task_name
from orchestrator.plan import Plan, series_parallel
from orchestrator.series_parallel import Parallel, PlannedStep, Series, Tree, fold
from orchestrator.state import Dispatch

Driver = Literal["canvas", "ready"]

LONGEST_CANVAS = 16
"""Steps in a canvas at most: each message of a chain carries all that follow it, so long ones grow with the square."""


def choose_driver(plan: Plan, concurrency: int) -> Driver:
    """Say which driver an attempt at this plan gets."""
    if len(plan.steps) > LONGEST_CANVAS:
        return "ready"
    tree = series_parallel(plan)
    if tree is None or _width(tree) > concurrency or not _celery_can(tree):
        return "ready"
    return "canvas"


def part(plan: Plan, ids: Sequence[str]) -> Plan:
    """The plan of only these steps: needs that are not among them are met."""
    kept = frozenset(ids)
    return Plan.of(
        PlannedStep(step.id, step.kind, tuple(need for need in step.needs if need in kept))
        for step in plan.steps
        if step.id in kept
    )


def compose(tree: Tree, messages: Mapping[str, Signature]) -> Signature:
    """Write a series-parallel tree as a Celery canvas; Celery turns a group with a successor into a chord."""
    return fold(
        tree, lambda step: messages[step.id], lambda parts: chain(*parts), lambda parts: group(*parts)
    )


def send_canvas(app: Celery, job_id: str, sent: Iterable[Dispatch], plan: Plan) -> None:
    """Put a whole attempt on the queue; the plan is that of exactly the steps to be sent."""
    tree = series_parallel(plan)
    if tree is None:
        raise ValueError("not a series-parallel plan")
    compose(tree, {one.step: message(app, job_id, one) for one in sent}).apply_async()


def send_each(app: Celery, job_id: str, sent: Sequence[Dispatch]) -> None:
    """Put single steps on the queue, over one connection."""
    if not sent:
        return
    with app.producer_pool.acquire(block=True) as producer:
        for one in sent:
            message(app, job_id, one).apply_async(producer=producer)


def message(app: Celery, job_id: str, one: Dispatch) -> Signature:
    """The message of one step: what finds its record and its ticket, nothing that grows with the job."""
    return app.signature(
        task_name(one.kind), args=(job_id, one.step, one.ticket), immutable=True, queue=one.queue
    )


def _celery_can(tree: Tree) -> bool:
    """Whether Celery needs neither a group as a chord's body nor a chord within a chord for this tree."""
    groups = [part for part in _parts(tree) if isinstance(part, Parallel)]
    adjacent = any(isinstance(a, Parallel) and isinstance(b, Parallel) for a, b in pairwise(_parts(tree)))
    nested = any(
        isinstance(inner, Parallel) for part in groups for branch in part.parts for inner in _parts(branch)
    )
    return not adjacent and not nested


def _parts(tree: Tree) -> tuple[Tree, ...]:
    return tree.parts if isinstance(tree, Series) else (tree,)


def _width(tree: Tree) -> int:
    return fold(tree, lambda _: 1, lambda parts: max(parts), lambda parts: sum(parts))  # noqa: PLW0108 - for mypy
