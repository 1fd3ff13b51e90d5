"""The two layers of the completion cache: what is found where, what counts as a miss, and what makes a key."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import redis

from orchestrator.cache import Cache, Entry, Hit, request_key
from orchestrator.gateway import Asker, Gateway
from orchestrator.names import cache_key
from providers import Completion, FinishReason, Message, Provider, ProviderError, Request, Tool, Usage
from providers.errors import InvalidAnswer, Refused, TruncatedAnswer

KEY = "0123456789abcdef" * 4
OTHER = "f" * 64
ENTRY = Entry.of(KEY, "simulated", Completion("an answer, ünïcode\n", Usage(3, None), "stop", "m-1"))
QUESTION: list[Message] = [{"role": "user", "content": "a question"}]


@pytest.fixture
def cache(client: redis.Redis, tmp_path: Path) -> Cache:
    return Cache(client, tmp_path, 1000)


@pytest.fixture
def on_disk(tmp_path: Path) -> Path:
    return tmp_path / ".cache" / f"{KEY}.json"


# --- layers -----------------------------------------------------------------------------------------------------------


def test_what_was_stored_is_found_whole(cache: Cache) -> None:
    cache.put(ENTRY)

    assert cache.get(KEY) == Hit(ENTRY, "redis")
    assert ENTRY.completion() == Completion("an answer, ünïcode\n", Usage(3, None), "stop", "m-1")


def test_what_was_not_stored_is_not_found(cache: Cache) -> None:
    cache.put(ENTRY)

    assert cache.get(OTHER) is None


def test_the_disk_serves_a_new_redis_and_fills_it(client: redis.Redis, cache: Cache) -> None:
    cache.put(ENTRY)
    client.flushall()

    assert cache.get(KEY) == Hit(ENTRY, "disk")
    assert cache.get(KEY) == Hit(ENTRY, "redis")


def test_redis_serves_a_machine_that_has_nothing_on_disk(client: redis.Redis, tmp_path: Path) -> None:
    Cache(client, tmp_path / "one", 1000).put(ENTRY)

    assert Cache(client, tmp_path / "two", 1000).get(KEY) == Hit(ENTRY, "redis")


def test_entries_in_redis_expire_whichever_layer_they_came_from(client: redis.Redis, cache: Cache) -> None:
    cache.put(ENTRY)
    assert 0 < client.ttl(cache_key(KEY)) <= 1000
    client.flushall()

    cache.get(KEY)

    assert 0 < client.ttl(cache_key(KEY)) <= 1000


def test_a_cache_folder_that_cannot_be_written_costs_only_the_disk(
    client: redis.Redis, tmp_path: Path
) -> None:
    (tmp_path / ".cache").write_text("in the way")
    cache = Cache(client, tmp_path, 1000)

    cache.put(ENTRY)

    assert cache.get(KEY) == Hit(ENTRY, "redis")
    client.flushall()
    assert cache.get(KEY) is None


def test_many_threads_may_store_and_read_the_same_entry(client: redis.Redis, cache: Cache) -> None:
    wrong: list[object] = []

    def use() -> None:
        for _ in range(5):
            cache.put(ENTRY)
            if (hit := cache.get(KEY)) is None or hit.entry != ENTRY:
                wrong.append(hit)

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert wrong == []


# --- damage -----------------------------------------------------------------------------------------------------------


def changed(**fields: Any) -> bytes:
    return json.dumps(ENTRY.model_dump() | fields).encode()


WHOLE = ENTRY.model_dump_json().encode()
DAMAGE: Mapping[str, bytes] = {
    "empty": b"",
    "half": WHOLE[: len(WHOLE) // 2],
    "all but the last byte": WHOLE[:-1],
    "no text": b"\xff\xfe\0",
    "no entry": b"[1, 2, 3]",
    "null": b"null",
    "another text": changed(text="a forged answer"),
    "another hash": changed(text_sha256="0" * 64),
    "filed under another key": changed(key=OTHER),
    "a reason that there is not": changed(finish_reason="whatever"),
    "a field too many": changed(extra=1),
    "a number for text": changed(text=5),
    "half a surrogate pair": changed(text="\ud800"),
    "nested too deep": b"[" * 5000,
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=list(DAMAGE))
def test_a_damaged_entry_in_redis_is_a_miss(
    client: redis.Redis, cache: Cache, on_disk: Path, damage: bytes
) -> None:
    cache.put(ENTRY)
    on_disk.unlink()
    client.set(cache_key(KEY), damage)

    assert cache.get(KEY) is None


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=list(DAMAGE))
def test_a_damaged_entry_on_disk_is_a_miss_and_does_not_reach_redis(
    client: redis.Redis, cache: Cache, on_disk: Path, damage: bytes
) -> None:
    cache.put(ENTRY)
    client.flushall()
    on_disk.write_bytes(damage)

    assert cache.get(KEY) is None
    assert client.dbsize() == 0


def test_a_damaged_entry_in_redis_is_replaced_by_the_good_one_on_disk(
    client: redis.Redis, cache: Cache
) -> None:
    cache.put(ENTRY)
    client.set(cache_key(KEY), b"{")

    assert cache.get(KEY) == Hit(ENTRY, "disk")
    assert cache.get(KEY) == Hit(ENTRY, "redis")


def test_a_damaged_entry_is_overwritten_by_the_next_answer(
    client: redis.Redis, cache: Cache, on_disk: Path
) -> None:
    on_disk.parent.mkdir()
    on_disk.write_bytes(b"{")
    cache.put(ENTRY)
    client.flushall()

    assert cache.get(KEY) == Hit(ENTRY, "disk")


def test_a_folder_in_an_entrys_place_is_a_miss(cache: Cache, on_disk: Path) -> None:
    on_disk.mkdir(parents=True)

    assert cache.get(KEY) is None


# --- keys -------------------------------------------------------------------------------------------------------------

TOOL = Tool("submit", "Hand it in.", {"type": "object", "properties": {"a": {"type": "string"}}})
BASE: dict[str, Any] = {
    "provider": "ollama",
    "model": "m",
    "messages": QUESTION,
    "tool": TOOL,
    "options": {"temperature": 0.1, "max_tokens": 100, "stop": ["a", "b"]},
    "kind": "builder",
    "version": "v1",
}


def key_of(**changes: Any) -> str:
    values = BASE | changes
    request = Request(values["messages"], values["tool"], values["options"])
    return request_key(
        values["provider"], values["model"], request, kind=values["kind"], version=values["version"]
    )


def test_a_key_is_the_same_in_every_version_of_orch() -> None:
    # A cache that people have paid for must not be lost by an accident: change this only on purpose.
    request = Request([{"role": "user", "content": "é"}])

    key = request_key("p", None, request, kind="prompt", version="1")

    assert key == "f38007eb90cd4b9ce5a61c37375e1e6d68f7b859caa8762971b7e8e47873d273"


@pytest.mark.parametrize(
    "change",
    [
        {"provider": "openai"},
        {"model": "m:2"},
        {"model": None},
        {"messages": [{"role": "user", "content": "another question"}]},
        {"messages": [{"role": "system", "content": "a question"}]},
        {"messages": [*QUESTION, *QUESTION]},
        {"messages": [{"role": "user", "content": "a question "}]},
        {"messages": []},
        {"tool": None},
        {"tool": replace(TOOL, name="hand_in")},
        {"tool": replace(TOOL, description="Hand it in!")},
        {"tool": replace(TOOL, schema={**TOOL.schema, "required": ["a"]})},
        {"tool": replace(TOOL, schema={"type": "object", "properties": {"a": {"type": "integer"}}})},
        {"options": {**BASE["options"], "temperature": 0.2}},
        {"options": {**BASE["options"], "seed": 1}},
        {"options": {**BASE["options"], "stop": ["b", "a"]}},
        {"options": {"temperature": 0.1}},
        {"options": {}},
        {"kind": "docs"},
        {"version": "v2"},
    ],
    ids=str,
)
def test_whatever_changes_the_answer_changes_the_key(change: Mapping[str, Any]) -> None:
    assert key_of(**change) != key_of()


@pytest.mark.parametrize("option", ["timeout_s", "keep_alive", "latency_s"])
def test_how_an_answer_is_carried_does_not_change_the_key(option: str) -> None:
    assert key_of(options={**BASE["options"], option: 5}) == key_of()


def test_the_order_of_options_does_not_change_the_key() -> None:
    assert key_of(options=dict(reversed(BASE["options"].items()))) == key_of()


def test_fields_do_not_run_into_each_other() -> None:
    assert key_of(kind="a", version="bc") != key_of(kind="ab", version="c")
    assert key_of(messages=[{"role": "user", "content": 'a","role":"user'}]) != key_of(
        messages=[{"role": "user", "content": "a"}, {"role": "user", "content": ""}]
    )


# --- what the gateway keeps -------------------------------------------------------------------------------------------


class Scripted(Provider):
    """Gives prepared answers, one a call; an error among them is raised."""

    name: ClassVar[str] = "scripted"

    def __init__(self, *answers: str | Completion | ProviderError) -> None:
        super().__init__("m")
        self.left = list(answers)

    def complete(self, request: Request) -> Completion:
        answer = self.left.pop(0)
        if isinstance(answer, ProviderError):
            raise answer
        return answer if isinstance(answer, Completion) else Completion(answer, Usage(1, 1), "stop", "m")


def ending(reason: FinishReason) -> Completion:
    return Completion("good half of an answer", Usage(1, 1), reason, "m")


def gateway(cache: Cache, provider: Provider, *, kind: str = "prompt") -> Gateway:
    return Gateway(
        cache,
        Asker(kind, "v1", [provider], {}, lambda *acts: None, threading.Event()),
    )


def good(text: str) -> str:
    if not text.startswith("good"):
        raise ValueError("it is not good")
    return text


@pytest.mark.parametrize(
    ("answers", "error"),
    [
        ([ending("length")], TruncatedAnswer),
        ([ending("refusal")], Refused),
        (["bad", "worse"], InvalidAnswer),
        (["bad", ending("length")], TruncatedAnswer),
    ],
)
def test_an_answer_that_cannot_be_used_is_not_kept(
    client: redis.Redis,
    cache: Cache,
    on_disk: Path,
    answers: list[str | Completion],
    error: type[ProviderError],
) -> None:
    with pytest.raises(error):
        gateway(cache, Scripted(*answers)).generate(QUESTION, good)

    assert client.dbsize() == 0
    assert not on_disk.parent.exists()


def test_an_answer_is_asked_for_once(client: redis.Redis, cache: Cache) -> None:
    provider = Scripted("good answer")

    assert gateway(cache, provider).generate(QUESTION, good) == "good answer"
    assert gateway(cache, provider).generate(QUESTION, good) == "good answer"
    client.flushall()
    assert gateway(cache, provider).generate(QUESTION, good) == "good answer"


def test_an_answer_to_a_second_question_is_found_under_the_first(client: redis.Redis, cache: Cache) -> None:
    # given a question that had to be asked twice
    provider = Scripted("bad", "good at last")
    assert gateway(cache, provider).generate(QUESTION, good) == "good at last"

    # then it is not asked again, not even once
    assert gateway(cache, provider).generate(QUESTION, good) == "good at last"
    assert len(client.keys()) == 1


def test_another_step_kind_does_not_get_the_answer(cache: Cache) -> None:
    provider = Scripted("good one", "good two")

    assert gateway(cache, provider, kind="docs").generate(QUESTION, good) == "good one"
    assert gateway(cache, provider, kind="qa").generate(QUESTION, good) == "good two"


def test_a_kept_answer_that_a_stricter_reader_refuses_is_asked_for_anew_and_replaced(cache: Cache) -> None:
    provider = Scripted("lax", "good now")
    assert gateway(cache, provider).generate(QUESTION, str) == "lax"

    assert gateway(cache, provider).generate(QUESTION, good) == "good now"
    assert gateway(cache, provider).generate(QUESTION, good) == "good now"


@pytest.mark.parametrize("spoilt", ["good \ud83d", "good \udc00 answer"], ids=["first half", "second half"])
def test_half_a_surrogate_pair_in_an_answer_does_not_cost_the_step(cache: Cache, spoilt: str) -> None:
    # given a model whose answer was cut in the middle of an emoji, and which then answers well
    answer = gateway(cache, Scripted(spoilt, "good answer")).generate(QUESTION, good)

    # then the step gets text that can be stored
    assert answer.encode().decode() == answer


def test_half_a_surrogate_pair_in_arguments_does_not_reach_the_step(cache: Cache) -> None:
    read: Callable[[dict[str, Any]], str] = lambda values: str(values["a"])  # noqa: E731

    answer = gateway(cache, Scripted('{"a": "\\ud83d"}', '{"a": "x"}')).tool_call(QUESTION, TOOL, read)

    assert answer.encode().decode() == answer
