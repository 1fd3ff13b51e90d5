"""The simulated provider: the same seed gives the same text, failures come as ordered, answers have the right form."""

from __future__ import annotations

import ast
import itertools
import json
import threading
import time
import tomllib

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from providers import Message, Request, Tool
from providers.errors import (
    AuthFailed,
    BadRequest,
    Cancelled,
    ProviderError,
    RateLimited,
    ServerError,
    TimedOut,
)
from providers.instances import NoInstanceError, smallest_instance
from providers.registry import create
from providers.simulated import STATEMENT, SimulatedProvider
from tasks.blueprint import ProjectPlan
from tasks.prompting import as_data

HELLO: list[Message] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Say hello, please."},
]


def fresh() -> SimulatedProvider:
    return SimulatedProvider(calls=itertools.count())


def asked_for(path: str) -> list[Message]:
    return [
        {"role": "user", "content": f"Write this file:\n\n{as_data(path, 'file')}\n\nAnswer with a block."}
    ]


def unfenced(text: str, fence: str) -> str:
    first, *lines, last = text.splitlines()
    assert first.startswith(fence)
    assert last == fence
    return "\n".join(lines) + "\n"


def test_the_registry_knows_it_and_it_names_its_model() -> None:
    assert create("simulated").generate(HELLO).model == "simulated-1"
    assert create("simulated", "other").generate(HELLO).model == "other"


def test_the_same_seed_and_messages_give_the_same_text_in_any_call() -> None:
    one, other = fresh(), fresh()

    texts = {
        one.generate(HELLO, seed=7).text,
        one.generate(HELLO, seed=7).text,
        other.generate(HELLO, seed=7).text,
    }

    assert len(texts) == 1


def test_another_seed_or_another_message_gives_another_text() -> None:
    provider = fresh()

    texts = {
        provider.generate(messages, seed=seed).text for messages in (HELLO, HELLO[1:]) for seed in (1, 2)
    }

    assert len(texts) == 4


def test_text_says_first_that_it_is_simulated() -> None:
    assert fresh().generate(HELLO).text.startswith(STATEMENT)


@pytest.mark.parametrize("tokens", [30, 64, 1000])
def test_text_has_as_many_words_as_asked_for_and_usage_counts_them(tokens: int) -> None:
    completion = fresh().generate(HELLO, tokens_out=tokens)

    assert len(completion.text.split()) == completion.usage.tokens_out == tokens
    assert completion.usage.tokens_in == 5
    assert completion.finish_reason == "stop"


@pytest.mark.parametrize(
    ("name", "error"),
    [("timeout", TimedOut), ("rate_limit", RateLimited), ("server", ServerError), ("auth", AuthFailed)],
)
def test_an_error_without_a_rate_fails_every_call(name: str, error: type[ProviderError]) -> None:
    provider = fresh()

    for _ in range(3):
        with pytest.raises(error) as raised:
            provider.generate(HELLO, error=name)
        assert raised.value.provider == "simulated"


def test_a_rate_limit_says_when_to_come_back() -> None:
    with pytest.raises(RateLimited) as raised:
        fresh().generate(HELLO, error="rate_limit")

    assert raised.value.retry_after_s == 1.0


def outcomes(provider: SimulatedProvider, calls: int, seed: int) -> list[bool]:
    def succeeds() -> bool:
        try:
            provider.generate(HELLO, fail_rate=0.5, seed=seed)
        except ServerError:
            return False
        return True

    return [succeeds() for _ in range(calls)]


def test_a_retry_draws_anew_and_a_new_count_repeats_the_draws() -> None:
    drawn = outcomes(fresh(), 100, seed=3)

    assert 30 < sum(drawn) < 70
    assert drawn == outcomes(fresh(), 100, seed=3)
    assert drawn != outcomes(fresh(), 100, seed=4)


def test_all_instances_of_a_process_draw_from_one_count() -> None:
    drawn = [outcomes(SimulatedProvider(), 1, seed=5)[0] for _ in range(60)]

    assert len(set(drawn)) == 2


def test_garbage_is_neither_json_nor_a_file() -> None:
    with pytest.raises(ValueError, match="Expecting"):
        json.loads(
            fresh().complete(Request(HELLO, Tool("t", "", {"type": "object"}), {"error": "garbage"})).text
        )
    assert "```" not in fresh().generate(asked_for("a.py"), error="garbage").text


def test_a_truncated_answer_is_cut_and_says_so() -> None:
    whole, cut = fresh().generate(HELLO), fresh().generate(HELLO, error="truncated")

    assert cut.finish_reason == "length"
    assert whole.text.startswith(cut.text)
    assert len(cut.text) < len(whole.text)


def test_latency_is_waited_for() -> None:
    started = time.monotonic()

    fresh().generate(HELLO, latency_s=0.05)

    assert time.monotonic() - started >= 0.05


def test_cancelling_ends_the_wait_at_once() -> None:
    request = Request(HELLO, options={"latency_s": 30})
    threading.Timer(0.05, request.cancelled.set).start()
    started = time.monotonic()

    with pytest.raises(Cancelled):
        fresh().complete(request)

    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    ("option", "value", "right"),
    [
        ("error", "oops", "one of timeout, rate_limit, server, auth, garbage, truncated"),
        ("error", ["server"], "one of timeout"),
        ("fail_rate", 1.5, "a number from 0 to 1"),
        ("fail_rate", float("nan"), "a number from 0 to 1"),
        ("fail_rate", True, "a number from 0 to 1"),
        ("latency_s", -1, "a number from 0 to 3600"),
        ("latency_s", "1", "a number from 0 to 3600"),
        ("tokens_out", 0, "a whole number from 1 to"),
        ("tokens_out", 2.5, "a whole number from 1 to"),
        ("seed", "x", "a whole number from"),
    ],
)
def test_a_wrong_option_is_refused_with_what_would_be_right(option: str, value: object, right: str) -> None:
    with pytest.raises(BadRequest, match=f"option {option} is .*; it must be {right}"):
        fresh().generate(HELLO, **{option: value})


def test_options_of_other_providers_are_ignored() -> None:
    assert fresh().generate(HELLO, temperature=0.1, max_tokens=8, top_p="x") == fresh().generate(HELLO)


@pytest.mark.parametrize(
    "path", ["app/main.py", "run.sh", "Dockerfile", "requirements.txt", "ci.yaml", ".gitignore"]
)
def test_a_file_is_all_comments_that_say_it_is_simulated(path: str) -> None:
    content = unfenced(fresh().generate(asked_for(path)).text, "```")

    assert all(line.startswith("# ") for line in content.splitlines())
    assert STATEMENT in content.replace("\n# ", " ")


def test_files_are_valid_for_their_type() -> None:
    provider = fresh()

    assert json.loads(unfenced(provider.generate(asked_for("a.json")).text, "```")) == {"simulated": True}
    assert tomllib.loads(unfenced(provider.generate(asked_for("a.toml")).text, "```")) == {}
    assert ast.parse(unfenced(provider.generate(asked_for("a.py")).text, "```")).body == []
    assert unfenced(provider.generate(asked_for("README.md")).text, "````").startswith("# README.md\n")


@pytest.mark.parametrize("path", ["tests/test_a.py", "test_b.py", "tests/deep/check.py"])
def test_a_test_file_has_one_test_and_says_that_it_is_simulated(path: str) -> None:
    content = unfenced(fresh().generate(asked_for(path)).text, "```")

    (function,) = ast.parse(content).body
    assert isinstance(function, ast.FunctionDef)
    assert function.name.startswith("test_")
    assert "simulated" in content


def test_a_conftest_has_no_test() -> None:
    assert "def " not in fresh().generate(asked_for("tests/conftest.py")).text


def test_a_tool_is_answered_with_the_first_example_of_its_schema() -> None:
    schema = ProjectPlan.model_json_schema()

    answer = fresh().complete(Request(HELLO, Tool("submit_plan", "", schema)))

    assert json.loads(answer.text) == schema["examples"][0]
    assert answer.finish_reason == "tool"
    ProjectPlan.model_validate_json(answer.text)


def test_without_an_example_the_answer_is_made_from_the_schema() -> None:
    schema = ProjectPlan.model_json_schema()
    del schema["examples"]

    answer = json.loads(fresh().complete(Request(HELLO, Tool("submit_plan", "", schema))).text)

    jsonschema.validate(answer, schema)


def test_a_schema_that_nothing_fits_is_refused() -> None:
    with pytest.raises(BadRequest, match="cannot be simulated"):
        fresh().complete(Request(HELLO, Tool("t", "", {"$ref": "#/$defs/missing"})))


BOUNDS = st.integers(-1000, 1000)
LEAVES = st.one_of(
    st.sampled_from(
        [{"type": "boolean"}, {"type": "null"}, {"const": {"a": [1]}}, {"enum": ["x", 2]}, True, {}]
    ),
    st.builds(
        lambda low, more: {"type": "integer", "minimum": low, "maximum": low + abs(more)}, BOUNDS, BOUNDS
    ),
    st.builds(lambda low: {"type": "integer", "exclusiveMinimum": low, "multipleOf": 7}, BOUNDS),
    st.builds(lambda high: {"type": "number", "exclusiveMaximum": high}, BOUNDS),
    st.builds(lambda low: {"type": "number", "exclusiveMinimum": low, "exclusiveMaximum": low + 0.5}, BOUNDS),
    st.builds(lambda low: {"type": "string", "minLength": low, "maxLength": low + 3}, st.integers(0, 40)),
    st.sampled_from(
        [{"type": "string", "pattern": pattern} for pattern in (r"^[a-z]+$", r"^/", r"^\d+$", r"^[A-Z]")]
    ),
    st.sampled_from([{"$ref": "#/$defs/node"}, {"type": ["string", "null"]}]),
)
SCHEMAS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.builds(
            lambda item, low: {"type": "array", "items": item, "minItems": low}, inner, st.integers(0, 3)
        ),
        st.builds(
            lambda items: {"type": "array", "prefixItems": items, "minItems": len(items)},
            st.lists(inner, min_size=1),
        ),
        st.builds(lambda options: {"anyOf": options}, st.lists(inner, min_size=1, max_size=3)),
        st.builds(
            lambda known: {"type": "object", "properties": known, "required": list(known)},
            st.dictionaries(st.sampled_from("abcd"), inner),
        ),
    ),
    max_leaves=8,
)
NODE = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1},
        "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]},
    },
    "required": ["name", "next"],
}


@given(SCHEMAS)
def test_an_instance_made_from_a_schema_is_valid(schema: object) -> None:
    document = {
        "type": "object",
        "properties": {"value": schema},
        "required": ["value"],
        "$defs": {"node": NODE},
    }

    jsonschema.validate(smallest_instance(document), document)


def test_unique_items_differ_and_all_of_is_one() -> None:
    unique = {"type": "array", "items": {"type": "integer", "minimum": 5}, "minItems": 3, "uniqueItems": True}
    both = {"allOf": [{"type": "string", "minLength": 2}, {"minLength": 4}], "maxLength": 9}

    assert len(set(smallest_instance(unique))) == 3
    assert 4 <= len(smallest_instance(both)) <= 9


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"},
        {"type": "string", "pattern": "^never [0-9]{40}$"},
        {"type": "integer", "minimum": 2, "maximum": 1},
        {"not": {}},
        {"type": "nonsense"},
    ],
)
def test_a_schema_without_an_instance_is_an_error(schema: dict[str, object]) -> None:
    with pytest.raises(NoInstanceError):
        smallest_instance(schema)
