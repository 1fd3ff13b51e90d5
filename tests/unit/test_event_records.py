"""Records and errors that cross process borders come out as they went in."""

from __future__ import annotations

import importlib
import inspect
import json
import pickle
from types import ModuleType
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from orchestrator.events import EVENT_TYPES, FINAL, Event, Level, from_stream, id_order, iso, to_fields
from orchestrator.records import Artifact, Failure, Job, OutputFile, StepResult
from providers.errors import ProviderError

JOB = "job_0123456789ab"

text = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=20)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=8,
)
times = st.integers(0, 4_000_000_000_000)


@st.composite
def events(draw: st.DrawFn) -> Event:
    ms = draw(times)
    return Event(
        id=f"{ms}-{draw(st.integers(0, 10**6))}",
        ts=iso(ms),
        level=draw(st.sampled_from(get_args(Level))),
        job_id=JOB,
        type=draw(st.sampled_from(EVENT_TYPES)),
        step=draw(st.none() | st.from_regex(r"[a-z][a-z0-9_-]{0,63}", fullmatch=True)),
        data=draw(st.none() | st.dictionaries(text, json_values, min_size=1, max_size=4)),
    )


# --- events -----------------------------------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(event=events())
def test_an_event_comes_back_from_its_line(event: Event) -> None:
    line = event.to_line()

    assert line.endswith("\n")
    assert line.count("\n") == 1
    assert Event.model_validate_json(line) == event
    assert None not in json.loads(line).values()


@settings(max_examples=200, deadline=None)
@given(event=events())
def test_an_event_comes_back_from_its_stream_entry(event: Event) -> None:
    fields = {name.encode(): value.encode() for name, value in to_fields(event).items()}

    assert from_stream(JOB, event.id, fields) == event


@settings(max_examples=200, deadline=None)
@given(first=times, second=times)
def test_times_sort_as_text_like_they_do_as_numbers(first: int, second: int) -> None:
    assert (iso(first) < iso(second)) == (first < second)


@pytest.mark.parametrize(
    ("earlier", "later"), [("9-0", "10-0"), ("5-9", "5-10"), ("5", "5-1"), ("0", "1-0"), ("99-99", "100-0")]
)
def test_ids_are_ordered_as_numbers(earlier: str, later: str) -> None:
    assert id_order(earlier) < id_order(later)


def test_a_stream_entry_without_step_and_data_has_neither_in_its_line() -> None:
    event = from_stream(JOB, "5-0", {b"type": b"job.started", b"level": b"INFO", b"step": b"", b"data": b""})

    assert set(json.loads(event.to_line())) == {"id", "ts", "level", "job_id", "type"}


@pytest.mark.parametrize(
    "wrong",
    [
        {"id": "x"},
        {"id": "1"},
        {"ts": "2026-01-01"},
        {"ts": "2026-01-01T00:00:00.000+00:00"},
        {"level": "DEBUG"},
        {"job_id": "job_1"},
        {"job_id": "job_0123456789AB"},
        {"type": "step.dreamt"},
        {"extra": 1},
    ],
    ids=str,
)
def test_what_is_no_event_is_refused(wrong: dict[str, Any]) -> None:
    right = {"id": "1-0", "ts": iso(1), "level": "INFO", "job_id": JOB, "type": "job.started"}
    Event.model_validate(right)

    with pytest.raises(ValidationError):
        Event.model_validate(right | wrong)


def test_the_types_are_those_of_the_contract() -> None:
    assert set(EVENT_TYPES) == {
        *(f"job.{what}" for what in ("submitted", "started", "resumed", "succeeded", "failed", "cancelled")),
        *(
            f"step.{what}"
            for what in ("queued", "started", "succeeded", "failed", "skipped", "retrying", "lost")
        ),
        *("llm.request", "llm.response", "cache.hit", "cache.miss", "plan.expanded", "file.written"),
        *(f"breaker.{what}" for what in ("opened", "half_open", "closed")),
        *("provider.fallback", "budget.exceeded", "qa.check", "qa.repair"),
    }
    assert {"job.succeeded", "job.failed", "job.cancelled"} == FINAL


# --- records ----------------------------------------------------------------------------------------------------------

SHA = "a" * 64
RECORDS: list[BaseModel] = [
    Artifact(name="plan.json", sha256=SHA, size_bytes=0),
    OutputFile(path="p/a.txt", sha256=SHA, size_bytes=1, mode=0o755),
    StepResult(),
    StepResult(
        text="a.txt",
        artifacts=(Artifact(name="a.txt", sha256=SHA, size_bytes=1),),
        files=(OutputFile(path="p/ü", sha256=SHA, size_bytes=1),),
        data={"x": [1, 2.5, None, {"y": "é"}]},
    ),
    Failure(step=None, kind="timeout", message="line\nline"),
    Job(job_id=JOB, project="p", status="queued", attempt=1, provider="scaffold", created_at="now"),
]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_a_record_comes_back_from_json_and_from_pickle(record: BaseModel) -> None:
    assert type(record).model_validate_json(record.model_dump_json()) == record
    assert type(record).model_validate(json.loads(json.dumps(record.model_dump()))) == record
    assert pickle.loads(pickle.dumps(record)) == record


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_a_record_is_frozen_and_closed(record: BaseModel) -> None:
    with pytest.raises(ValidationError):
        setattr(record, next(iter(type(record).model_fields)), None)
    with pytest.raises(ValidationError):
        type(record).model_validate(record.model_dump() | {"extra": 1})


@pytest.mark.parametrize("wrong", ["", "a" * 63, "A" * 64, "g" * 64, "a" * 64 + "\n"])
def test_what_is_no_sha256_is_refused(wrong: str) -> None:
    with pytest.raises(ValidationError):
        Artifact(name="a", sha256=wrong, size_bytes=1)


# --- errors -----------------------------------------------------------------------------------------------------------

MODULES = [
    "providers.errors",
    *(
        f"orchestrator.{name}"
        for name in ("errors", "spec", "embedded", "publish", "paths", "filestore", "plan", "models")
    ),
    "tasks.step",
]
ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "EmptyPlan": (),
    "TooManySteps": (3000,),
    "DuplicateStep": ("a",),
    "SelfNeed": ("a",),
    "UnknownNeed": ("a", "b", None),
    "CycleError": (("a", "b", "a"),),
    "UnsafePath": ("/etc", "is absolute"),
    "ContentRefused": ("a", "is too long"),
    "StepError": ("qa", "it did not work"),
}


def errors_of(module: ModuleType) -> list[type[Exception]]:
    found = (value for _, value in inspect.getmembers(module, inspect.isclass))
    return [one for one in found if issubclass(one, Exception) and one.__module__ == module.__name__]


def all_errors() -> list[type[Exception]]:
    return [one for name in MODULES for one in errors_of(importlib.import_module(name))]


def made(error: type[Exception]) -> Exception:
    if issubclass(error, ProviderError):
        return error("it did not work", "ollama", 429, 1.5)
    if error.__name__ == "SpecError":
        return made_spec_error(error)
    if error.__name__ == "Flaws":
        models = importlib.import_module("orchestrator.models")
        return error(models.Flaw(("steps", 1), "is wrong"), models.Flaw((), "is odd"))
    return error(*ARGUMENTS.get(error.__name__, ("it did not work",)))


def made_spec_error(error: type[Exception]) -> Exception:
    spec = importlib.import_module("orchestrator.spec")
    with pytest.raises(error) as raised:
        spec.parse_spec("project: 5\n", "spec.yaml")
    return raised.value


@pytest.mark.parametrize("error", all_errors(), ids=lambda error: error.__name__)
def test_an_error_survives_pickle_whole(error: type[Exception]) -> None:
    before = made(error)

    after = pickle.loads(pickle.dumps(before))

    assert type(after) is error
    assert str(after) == str(before)
    assert str(before)
    assert after.args == before.args
    assert vars(after) == vars(before)


@pytest.mark.parametrize("error", all_errors(), ids=lambda error: error.__name__)
def test_an_error_rebuilds_from_its_args_as_celery_does(error: type[Exception]) -> None:
    before = made(error)

    after = error(*before.args)

    assert str(after) == str(before)


def test_kinds_of_provider_errors_are_distinct() -> None:
    module = importlib.import_module("providers.errors")
    kinds = [one.kind for one in errors_of(module) if issubclass(one, ProviderError)]

    assert len(set(kinds)) == len(kinds)


def test_an_error_keeps_what_the_vendor_said() -> None:
    from_the_wire = pickle.loads(pickle.dumps(ProviderError("busy", "openai", 429, 2.5)))

    assert (from_the_wire.provider, from_the_wire.status, from_the_wire.retry_after_s) == ("openai", 429, 2.5)
    assert str(from_the_wire) == "openai: busy"
