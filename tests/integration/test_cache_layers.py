"""The two layers of the completion cache: what is found where, what counts as a miss, and what makes a key."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis

from orchestrator.cache import Cache, Hit
from orchestrator.completions import TRANSPORT_OPTIONS, Entry, request_key
from orchestrator.names import cache_key
from providers import Completion, Message, Request, Tool, Usage

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


@pytest.mark.parametrize("option", sorted(TRANSPORT_OPTIONS))
def test_how_an_answer_is_carried_does_not_change_the_key(option: str) -> None:
    assert key_of(options={**BASE["options"], option: 5}) == key_of()


def test_the_order_of_options_does_not_change_the_key() -> None:
    assert key_of(options=dict(reversed(BASE["options"].items()))) == key_of()


def test_fields_do_not_run_into_each_other() -> None:
    assert key_of(kind="a", version="bc") != key_of(kind="ab", version="c")
    assert key_of(messages=[{"role": "user", "content": 'a","role":"user'}]) != key_of(
        messages=[{"role": "user", "content": "a"}, {"role": "user", "content": ""}]
    )
