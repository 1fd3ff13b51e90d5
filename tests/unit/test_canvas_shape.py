"""Which canvas a plan becomes, as Celery itself describes it, and which plans are driven without one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from celery import Celery
from celery.canvas import Signature
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.canvas import LONGEST_CANVAS, choose_driver, compose, message, part, send_canvas
from orchestrator.celery_app import make_app
from orchestrator.names import task_name
from orchestrator.plan import DEFAULT_PIPELINE, Plan, PlannedStep, series_parallel
from orchestrator.state import Dispatch

JOB = "job_0123456789ab"
DEFAULT = Plan.of(DEFAULT_PIPELINE)


@pytest.fixture(scope="module")
def app() -> Celery:
    """An application whose Redis is never spoken to."""
    return make_app("redis://localhost:1/0")


def plan_of(needs: Mapping[str, tuple[str, ...]]) -> Plan:
    return Plan.of(PlannedStep(step, "prompt", those) for step, those in needs.items())


def composed(app: Celery, plan: Plan) -> Signature:
    tree = series_parallel(plan)
    assert tree
    sent = [Dispatch(step.id, step.kind, 1) for step in plan.steps]
    return compose(tree, {one.step: message(app, JOB, one) for one in sent})


def header_of(chord: Any) -> list[Any]:
    """The tasks of a chord's header, which Celery keeps as a group or as the bare tasks of one."""
    header = chord["kwargs"]["header"]
    return list(header["kwargs"]["tasks"] if isinstance(header, dict) else header)


def shape(signature: Any) -> Any:
    """A signature as nested lists: what stands for each step is its id, a group is a set."""
    kind, kwargs = signature["subtask_type"], signature["kwargs"]
    if kind == "chain":
        return [shape(task) for task in kwargs["tasks"]]
    if kind == "group":
        return {"group": [shape(task) for task in kwargs["tasks"]]}
    if kind == "chord":
        return {"chord": [shape(task) for task in header_of(signature)], "body": shape(kwargs["body"])}
    return signature["args"][1]


# --- the default pipeline ---------------------------------------------------------------------------------------------


def test_the_default_pipeline_is_a_chain_of_architect_and_a_chord_with_qa(app: Celery) -> None:
    assert shape(composed(app, DEFAULT)) == ["architect", {"chord": ["builder", "docs"], "body": "qa"}]


def test_a_message_carries_what_finds_its_step_and_its_ticket_and_nothing_else(app: Celery) -> None:
    one = message(app, JOB, Dispatch("builder", "builder", 3))

    assert one["task"] == "orch.builder"
    assert tuple(one["args"]) == (JOB, "builder", 3)
    assert one["kwargs"] == {}
    assert one["immutable"] is True


def test_every_message_of_a_canvas_is_immutable_so_that_no_result_travels(app: Celery) -> None:
    first, chord = composed(app, DEFAULT)["kwargs"]["tasks"]
    messages = [first, chord["kwargs"]["body"], *header_of(chord)]

    assert [one["immutable"] for one in messages] == [True] * 4
    assert [one["task"] for one in messages] == [task_name(k) for k in ("architect", "qa", "builder", "docs")]


# --- shapes -----------------------------------------------------------------------------------------------------------

CANVASES: dict[str, tuple[dict[str, tuple[str, ...]], Any]] = {
    "one step": ({"a": ()}, "a"),
    "a chain": ({"a": (), "b": ("a",), "c": ("b",)}, ["a", "b", "c"]),
    "a chain with a needless need": ({"a": (), "b": ("a",), "c": ("a", "b")}, ["a", "b", "c"]),
    "side by side": ({"a": (), "b": ()}, {"group": ["a", "b"]}),
    "out": ({"a": (), "b": ("a",), "c": ("a",)}, ["a", {"group": ["b", "c"]}]),
    "in": ({"a": (), "b": (), "c": ("a", "b")}, {"chord": ["a", "b"], "body": "c"}),
    "chains side by side": (
        {"a": (), "b": ("a",), "c": (), "d": ("b", "c")},
        {"chord": [["a", "b"], "c"], "body": "d"},
    ),
    "two diamonds": (
        {"a": (), "b": ("a",), "c": ("a",), "d": ("b", "c"), "e": ("d",), "f": ("d",), "g": ("e", "f")},
        ["a", {"chord": ["b", "c"], "body": "d"}, {"chord": ["e", "f"], "body": "g"}],
    ),
}


def flat(found: Any) -> Any:
    """The same shape whether Celery nests what follows a chord into the chord's body or not."""
    if isinstance(found, list):
        parts = [flat(one) for one in found]
        last = parts[-1]
        return [*parts[:-1], *last] if isinstance(last, list) else parts
    if isinstance(found, dict) and "chord" in found:
        header, body = [flat(one) for one in found["chord"]], flat(found["body"])
        if isinstance(body, list):
            return [{"chord": header, "body": body[0]}, *body[1:]]
        return {"chord": header, "body": body}
    return found


@pytest.mark.parametrize(("needs", "wanted"), CANVASES.values(), ids=list(CANVASES))
def test_a_plan_becomes_the_canvas_of_its_shape(
    app: Celery, needs: dict[str, tuple[str, ...]], wanted: Any
) -> None:
    plan = plan_of(needs)

    assert choose_driver(plan, 10) == "canvas"
    assert flat(shape(composed(app, plan))) == wanted


READY: dict[str, dict[str, tuple[str, ...]]] = {
    "an N": {"a": (), "b": (), "c": ("a", "b"), "d": ("b",)},
    "a group after a group": {"a": (), "b": (), "c": ("a", "b"), "d": ("a", "b")},
    "a chord within a chord": {
        "a": (),
        "b": ("a",),
        "c": ("a",),
        "d": ("b", "c"),
        "e": (),
        "f": ("d", "e"),
    },
    "a group at the end of a branch": {"a": (), "b": ("a",), "c": ("a",), "d": (), "e": ("b", "c", "d")},
}


@pytest.mark.parametrize("needs", READY.values(), ids=list(READY))
def test_a_plan_that_celery_would_make_wait_or_nest_is_driven_by_ready(
    needs: dict[str, tuple[str, ...]],
) -> None:
    assert choose_driver(plan_of(needs), 10) == "ready"


@pytest.mark.parametrize(
    ("concurrency", "driver"), [(1, "ready"), (2, "canvas"), (3, "canvas"), (1000, "canvas")]
)
def test_a_plan_that_is_wider_than_its_job_may_be_is_driven_by_ready(concurrency: int, driver: str) -> None:
    assert choose_driver(DEFAULT, concurrency) == driver


def test_a_chain_needs_no_width() -> None:
    assert choose_driver(plan_of({"a": (), "b": ("a",), "c": ("b",)}), 1) == "canvas"


def test_width_counts_branches_not_their_length() -> None:
    branches = plan_of({"a": (), "b": ("a",), "c": ("b",), "x": (), "y": ("x",)})

    assert choose_driver(branches, 2) == "canvas"
    assert choose_driver(branches, 1) == "ready"


@pytest.mark.parametrize(("length", "driver"), [(LONGEST_CANVAS, "canvas"), (LONGEST_CANVAS + 1, "ready")])
def test_a_long_plan_is_driven_by_ready(length: int, driver: str) -> None:
    chain = plan_of({f"s{n}": (f"s{n - 1}",) if n else () for n in range(length)})

    assert choose_driver(chain, 10) == driver


# --- parts of a plan --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("left", "wanted"),
    [
        (["builder", "docs", "qa"], {"chord": ["builder", "docs"], "body": "qa"}),
        (["docs", "qa"], ["docs", "qa"]),
        (["qa"], "qa"),
    ],
)
def test_what_is_left_of_a_plan_is_a_canvas_of_its_own(app: Celery, left: list[str], wanted: Any) -> None:
    assert shape(composed(app, part(DEFAULT, left))) == wanted


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    shapes = draw(st.lists(st.sets(st.integers(0, 7), max_size=3), min_size=1, max_size=8))
    return plan_of(
        {f"s{n}": tuple(f"s{need}" for need in sorted(needs) if need < n) for n, needs in enumerate(shapes)}
    )


@st.composite
def staged_plans(draw: st.DrawFn) -> Plan:
    """Stages one after the other, each of branches side by side, each of steps in a row."""
    stages = draw(st.lists(st.lists(st.integers(1, 3), min_size=1, max_size=3), min_size=1, max_size=4))
    needs: dict[str, tuple[str, ...]] = {}
    before: tuple[str, ...] = ()
    for stage in stages:
        last = []
        for length in stage:
            previous = before
            for _ in range(length):
                step = f"s{len(needs)}"
                needs[step], previous = previous, (step,)
            last += previous
        before = tuple(last)
    return plan_of(needs)


@settings(max_examples=300, deadline=None)
@given(plan=staged_plans() | plans(), concurrency=st.integers(2, 9))
def test_a_canvas_starts_no_step_before_its_needs_and_none_twice(plan: Plan, concurrency: int) -> None:
    # given a plan that gets a canvas
    if choose_driver(plan, concurrency) == "ready":
        return
    app = make_app("redis://localhost:1/0")
    after: dict[str, set[str]] = {}

    # when the canvas is read as Celery runs it
    def walk(node: Any, before: set[str]) -> set[str]:
        """Note what each step comes after; returns the steps of the node."""
        if isinstance(node, str):
            assert node not in after
            after[node] = set(before)
            return {node}
        if isinstance(node, list):
            inside: set[str] = set()
            for one in node:
                inside |= walk(one, before | inside)
            return inside
        header = set().union(*(walk(one, before) for one in node.get("chord", node.get("group"))))
        return header | (walk(node["body"], before | header) if "body" in node else set())

    found = walk(shape(composed(app, plan)), set())

    # then it holds every step, each exactly after all that it needs, directly or not
    assert found == {step.id for step in plan.steps}
    wanted: dict[str, set[str]] = {}
    for id_ in plan.order:
        wanted[id_] = set().union(*({need} | wanted[need] for need in plan.by_id[id_].needs))
    assert after == wanted


@settings(max_examples=100, deadline=None)
@given(plan=plans(), data=st.data())
def test_what_is_left_of_a_canvas_can_always_be_written_as_a_tree(plan: Plan, data: st.DataObject) -> None:
    # given a series-parallel plan of which a closed set of steps is done
    if series_parallel(plan) is None:
        return
    done: set[str] = set()
    for id_ in plan.order:
        if done.issuperset(plan.by_id[id_].needs) and data.draw(st.booleans()):
            done.add(id_)
    left = [step.id for step in plan.steps if step.id not in done]

    # then so is the rest
    assert not left or series_parallel(part(plan, left))


def test_a_plan_that_is_not_series_parallel_is_not_sent_as_a_canvas(app: Celery) -> None:
    plan = plan_of(READY["an N"])

    with pytest.raises(ValueError, match="not a series-parallel plan"):
        send_canvas(app, JOB, [Dispatch(step.id, "prompt", 1) for step in plan.steps], plan)
