"""The cache as steps use it: which answers are kept, for how long, for whom, and how much room they take."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis
from pydantic import SecretStr

from orchestrator.cache import Cache, Hit, Layer, make_cache
from orchestrator.completions import Entry
from orchestrator.names import FLEET, JobKeys, cache_key
from orchestrator.settings import Settings
from providers import Completion, FinishReason, Provider, ProviderError, Tool
from providers.config import Config
from providers.errors import InvalidAnswer, Refused, TruncatedAnswer
from providers.ollama import OllamaProvider
from providers.openai import OpenAIProvider
from tests.gateway.fleet import QUESTION, Fleet
from tests.gateway.providers import Scripted, completion

pytestmark = pytest.mark.integration
pytest_plugins = ["tests.gateway.fixtures"]

TOOL = Tool("submit", "Hand it in.", {"type": "object", "properties": {"a": {"type": "string"}}})
Ask = Callable[..., str]


@pytest.fixture
def ask(fleet: Fleet) -> Ask:
    """Asks for a step of a new job."""

    def once(provider: Provider, cache: str = "use", **more: Any) -> str:
        return fleet.run(cache=cache).ask(provider, **more)

    return once


def ending(reason: FinishReason) -> Completion:
    return completion("good half of an answer", finish_reason=reason)


# --- what is kept -----------------------------------------------------------------------------------------------------


def good(text: str) -> str:
    if not text.startswith("good"):
        raise ValueError("it is not good")
    return text


@pytest.mark.parametrize(
    ("answers", "error"),
    [
        ([ending("length")] * 4, TruncatedAnswer),
        ([ending("refusal")], Refused),
        (["bad", "worse"], InvalidAnswer),
        (["bad", *[ending("length")] * 4], TruncatedAnswer),
    ],
)
def test_an_answer_that_cannot_be_used_is_not_kept(
    fleet: Fleet,
    ask: Ask,
    answers: list[str | Completion],
    error: type[ProviderError],
) -> None:
    with pytest.raises(error):
        ask(Scripted(*answers), read=good)

    assert fleet.cache.stats() == Layer(0, 0)
    assert fleet.cache.disk.stats() == (0, 0)


def test_an_answer_is_asked_for_once(fleet: Fleet, ask: Ask) -> None:
    provider = Scripted("good answer")

    assert ask(provider, read=good) == "good answer"
    assert ask(provider, read=good) == "good answer"
    fleet.client.flushall()
    assert ask(provider, read=good) == "good answer"


def test_an_answer_to_a_second_question_is_found_under_the_first(fleet: Fleet, ask: Ask) -> None:
    # given a question that had to be asked twice
    provider = Scripted("bad", "good at last")
    assert ask(provider, read=good) == "good at last"

    # then it is not asked again, not even once
    assert ask(provider, read=good) == "good at last"
    assert fleet.cache.stats().entries == 1


def test_another_step_kind_does_not_get_the_answer(ask: Ask) -> None:
    provider = Scripted("good one", "good two")

    assert ask(provider, read=good, kind="docs") == "good one"
    assert ask(provider, read=good, kind="qa") == "good two"


def test_a_kept_answer_that_a_stricter_reader_refuses_is_asked_for_anew_and_replaced(ask: Ask) -> None:
    provider = Scripted("lax", "good now")
    assert ask(provider, read=str) == "lax"

    assert ask(provider, read=good) == "good now"
    assert ask(provider, read=good) == "good now"


@pytest.mark.parametrize("spoilt", ["good \ud83d", "good \udc00 answer"], ids=["first half", "second half"])
def test_half_a_surrogate_pair_in_an_answer_does_not_cost_the_step(ask: Ask, spoilt: str) -> None:
    # given a model whose answer was cut in the middle of an emoji, and which then answers well
    answer = ask(Scripted(spoilt, "good answer"), read=good)

    # then the step gets text that can be stored
    assert answer.encode().decode() == answer


def test_half_a_surrogate_pair_in_arguments_does_not_reach_the_step(fleet: Fleet) -> None:
    read: Callable[[dict[str, Any]], str] = lambda values: str(values["a"])  # noqa: E731

    answer = fleet.run().gateway(Scripted('{"a": "\\ud83d"}', '{"a": "x"}')).tool_call(QUESTION, TOOL, read)

    assert answer.encode().decode() == answer


# --- what a job makes of it -------------------------------------------------------------------------------------------


def test_a_job_without_the_cache_neither_takes_from_it_nor_adds_to_it(fleet: Fleet, ask: Ask) -> None:
    provider = Scripted("one", "two", "three")

    assert ask(provider) == "one"
    assert ask(provider, cache="off") == "two"
    assert ask(provider, cache="off") == "three"
    assert ask(provider) == "one"
    assert fleet.cache.stats().entries == 1


@pytest.mark.parametrize("use", ["off", "refresh"])
def test_a_step_keeps_what_it_paid_for_over_a_park_whatever_the_jobs_use_of_the_cache(
    fleet: Fleet, use: str
) -> None:
    # given a step that asked one question and had to wait before the next
    provider, job = Scripted("paid", "not asked for"), fleet.submit("a", "b", cache=use)
    run = job.claim("a")
    assert run.ask(provider) == "paid"
    run.release(60)
    job.again()

    # when it runs again
    assert job.claim("a").ask(provider) == "paid"

    # then the answer is its own, and another step of the job asks for itself
    assert [one.get("layer") for one in job.events("cache.hit")] == ["step"]
    assert (job.claim("b").ask(provider) == "paid") is (use == "refresh")


def test_a_job_that_refreshes_the_cache_replaces_what_is_in_it(ask: Ask) -> None:
    provider = Scripted("old", "new")
    ask(provider)

    assert ask(provider, cache="refresh") == "new"
    assert ask(provider) == "new"


def test_the_answers_of_a_step_do_not_outlive_its_job_for_ever(fleet: Fleet, client: redis.Redis) -> None:
    # given a step that is slow to notice that its job was cancelled, and has expired
    run = fleet.run(cache="off")
    gateway = run.gateway(Scripted("late"))
    fleet.state.cancel(run.job.id, "enough")
    client.delete(*client.scan_iter(f"{JobKeys(run.job.id).job}*"))

    gateway._cache.put(Entry.of("f" * 64, "scripted", completion("late")))

    assert client.ttl(JobKeys(run.job.id).answers) != -1


def test_the_answers_of_a_step_wait_for_it_for_as_long_as_its_job_lives(
    client: redis.Redis, tmp_path: Path
) -> None:
    fleet = Fleet(client, tmp_path)
    fleet.cache = Cache(client, tmp_path, ttl_s=1)
    run = fleet.run(cache="off")

    run.ask(Scripted("paid"))

    assert client.ttl(JobKeys(run.job.id).answers) == -1
    fleet.state.cancel(run.job.id, "enough")
    assert 0 < client.ttl(JobKeys(run.job.id).answers) <= 100


# --- for how long, and how much ---------------------------------------------------------------------------------------


def entry(number: int, text: str = "x" * 500) -> Entry:
    return Entry.of(f"{number:064x}", "scripted", completion(text))


SIZE = len(entry(0).model_dump_json())
ON_DISK = len(entry(0).model_dump_json(indent=1))


def written_ago(cache: Cache, one: Entry, seconds: float) -> None:
    """Make an entry on disk older."""
    then = time.time() - seconds
    os.utime(cache.disk.folder / f"{one.key}.json", (then, then))


def test_an_entry_on_disk_that_is_too_old_is_a_miss(fleet: Fleet, client: redis.Redis) -> None:
    fleet.cache.put(entry(1))
    client.flushall()

    written_ago(fleet.cache, entry(1), 1001)

    assert fleet.cache.get(entry(1).key) is None


def test_an_entry_does_not_live_longer_because_it_moved_from_the_disk_to_redis(
    fleet: Fleet, client: redis.Redis
) -> None:
    fleet.cache.put(entry(1))
    client.flushall()
    written_ago(fleet.cache, entry(1), 900)

    assert fleet.cache.get(entry(1).key) == Hit(entry(1), "disk")

    assert 0 < client.pttl(cache_key(entry(1).key)) <= 100_000


def test_the_oldest_entries_in_redis_make_room_for_new_ones(tmp_path: Path, client: redis.Redis) -> None:
    cache = Cache(client, tmp_path, 1000, 3 * SIZE)
    for number in range(1, 6):
        client.delete(cache_key(entry(number).key))
        cache.put(entry(number))
        time.sleep(0.002)  # so that each has a time of its own

    found = [client.exists(cache_key(entry(number).key)) for number in range(1, 6)]

    assert found == [0, 0, 1, 1, 1]
    assert cache.stats() == Layer(3, 3 * SIZE)


def test_an_entry_that_is_stored_again_counts_once(tmp_path: Path, client: redis.Redis) -> None:
    cache = Cache(client, tmp_path, 1000, 3 * SIZE)
    for _ in range(5):
        cache.put(entry(1))

    assert cache.stats() == Layer(1, SIZE)


def test_entries_that_have_expired_are_no_longer_counted(tmp_path: Path, client: redis.Redis) -> None:
    cache = Cache(client, tmp_path, 1000)
    cache.put(entry(1))
    client.zadd(FLEET["CACHED"], {entry(1).key: 1})

    cache.put(entry(2))

    assert cache.stats() == Layer(1, SIZE)


def test_an_entry_larger_than_the_layer_is_in_none_and_costs_no_other(
    tmp_path: Path, client: redis.Redis
) -> None:
    cache = Cache(client, tmp_path, 1000, 3 * ON_DISK)
    cache.put(entry(1))

    cache.put(entry(2, "x" * 5 * SIZE))
    cache.disk.tidy()

    assert cache.get(entry(2).key) is None
    assert cache.get(entry(1).key) == Hit(entry(1), "redis")
    assert cache.stats().entries == 1
    assert cache.disk.stats() == (1, ON_DISK)


def test_a_redis_that_lost_the_books_of_the_cache_still_keeps_entries(
    tmp_path: Path, client: redis.Redis
) -> None:
    cache = Cache(client, tmp_path, 1000, 3 * SIZE)
    cache.put(entry(1))
    cache.put(entry(2))
    client.delete(FLEET["CACHED"], FLEET["CACHED_SIZES"])

    for number in range(3, 6):
        cache.put(entry(number))

    assert cache.get(entry(5).key) == Hit(entry(5), "redis")
    assert cache.stats().bytes <= 3 * SIZE


def test_the_disk_is_tidied_of_what_is_old_and_then_of_the_oldest(
    tmp_path: Path, client: redis.Redis
) -> None:
    cache = Cache(client, tmp_path, 1000, 3 * ON_DISK)
    for number in range(1, 7):
        cache.put(entry(number))
        written_ago(cache, entry(number), 2000 if number == 1 else 100 - number)

    cache.disk.tidy()

    kept = {path.stem for path in cache.disk.folder.glob("*.json")}
    assert kept == {entry(number).key for number in (4, 5, 6)}


def test_the_disk_is_tidied_now_and_then_by_itself(tmp_path: Path, client: redis.Redis) -> None:
    cache = Cache(client, tmp_path, 1000, 3 * ON_DISK)

    for number in range(1, 65):
        cache.put(entry(number))

    assert cache.disk.stats() == (3, 3 * ON_DISK)


def test_clearing_empties_a_layer_and_says_how_much_was_in_it(tmp_path: Path, client: redis.Redis) -> None:
    cache = make_cache(client, Settings(_env_file=None, orch_runs_dir=tmp_path))
    for number in (1, 2):
        cache.put(entry(number))

    assert (cache.clear(), cache.disk.clear()) == (2, 2)

    assert (cache.clear(), cache.disk.clear()) == (0, 0)
    assert cache.stats() == Layer(0, 0)
    assert cache.get(entry(1).key) is None
    assert client.dbsize() == 0


def test_another_server_with_a_model_of_the_same_name_is_asked_anew(fleet: Fleet) -> None:
    here = OpenAIProvider("m", Config(openai_base_url="http://127.0.0.1:1/v1"))
    there = OpenAIProvider("m", Config(openai_base_url="http://127.0.0.1:2/v1"))
    theirs = OpenAIProvider("m", Config(openai_api_key=SecretStr("k")))

    assert len({here.source, there.source, theirs.source}) == 3
    assert theirs.source == "openai"
    assert OllamaProvider("m", Config(ollama_host="box")).source == OllamaProvider("m").source
