"""`orch providers`, `orch cache`, `orch doctor`, and the flags that go past the cache or raise a budget."""

from __future__ import annotations

import json

import pytest

pytestmark = pytest.mark.integration

TINY = """
project: tiny
task_description: anything
provider: simulated
steps:
  - {id: only, prompt: "a question"}
"""


def by_name(rows: list[dict[str, object]]) -> dict[str, dict[str, object]]:
    return {str(row["name"]): row for row in rows}


@pytest.fixture
def fleet(orch, redis_url, client):
    """The command line on an empty Redis that no worker serves."""
    orch.env["ORCH_REDIS_URL"] = redis_url
    return orch


# --- providers --------------------------------------------------------------------------------------------------------


def test_every_provider_is_ready_or_says_what_it_is_missing(orch):
    seen = orch("providers", "--json")

    assert seen.code == 0, seen.err
    providers = by_name(seen.json()["providers"])
    assert {"ollama", "mlx", "anthropic", "openai", "scaffold", "simulated"} <= set(providers)
    assert providers["scaffold"]["ready"] is True
    assert "ANTHROPIC_API_KEY" in providers["anthropic"]["reason"]
    assert "ollama serve" in providers["ollama"]["reason"]
    assert all(bool(one["reason"]) != one["ready"] for one in providers.values())


def test_a_key_makes_a_provider_ready_and_is_not_shown(orch):
    seen = orch(
        "providers", "--json", ANTHROPIC_API_KEY="sk-do-not-show", PROVIDER="anthropic", PROVIDER_MODEL="m-7"
    )

    anthropic = by_name(seen.json()["providers"])["anthropic"]
    assert (anthropic["ready"], anthropic["model"]) == (True, "m-7")
    assert anthropic["cost"] == "not known"
    assert "sk-do-not-show" not in seen.out + seen.err


def test_a_circuit_that_a_job_has_opened_is_shown(fleet, start_worker):
    start_worker(PROVIDER_CB_THRESHOLD="2", PROVIDER_MAX_RETRIES="1", PROVIDER_CB_COOLDOWN_S="600")
    spec = fleet.spec(TINY + "options: {error: server}\n")
    assert fleet("submit", spec, "--wait").code == 1

    seen = fleet("providers", "--json").json()
    circuit = by_name(seen["providers"])["simulated"]["circuit"]

    assert (circuit["state"], circuit["failures"]) == ("open", 2)
    assert circuit["until"]
    assert [one["name"] for one in seen["circuits"]] == ["simulated"]
    assert "circuit: open" in fleet("providers").out


def test_limits_of_the_users_own_file_are_shown_and_a_broken_file_is_told_in_one_line(orch):
    (orch.folder / "models.toml").write_text('[anthropic.models."m"]\nlimits = { concurrency = 3 }\n')
    (orch.folder / "broken.toml").write_text("[anthropic]\nmax_tokens = 'many'\n")
    env = {"ANTHROPIC_API_KEY": "k", "PROVIDER": "anthropic", "PROVIDER_MODEL": "m"}

    seen = orch("providers", "--json", ORCH_MODELS_FILE="models.toml", **env)
    broken = orch("providers", ORCH_MODELS_FILE="broken.toml", **env)

    assert by_name(seen.json()["providers"])["anthropic"]["limits"] == {"concurrency": 3}
    assert broken.code == 3
    assert "broken.toml" in broken.err
    assert "max_tokens" in broken.err
    assert "Traceback" not in broken.err

    (orch.folder / "typo.toml").write_text("[opnai.limits]\nconcurrency = 2\n")
    typo = orch("providers", ORCH_MODELS_FILE="typo.toml", **env)
    assert (typo.code, "no provider 'opnai'" in typo.err) == (3, True), typo.err


# --- the cache --------------------------------------------------------------------------------------------------------


def test_stats_count_what_a_run_left_and_clear_empties_it(orch):
    assert orch("run", orch.spec(TINY)).code == 0

    before = orch("cache", "stats", "--json").json()
    cleared = orch("cache", "clear", "--json").json()
    after = orch("cache", "stats", "--json").json()

    assert (before["disk"]["entries"], before["redis"]) == (1, None)
    assert before["disk"]["bytes"] > 0
    assert cleared["removed"] == {"disk": 1, "redis": None}
    assert after["disk"]["entries"] == 0
    assert orch("run", orch.spec(TINY), "--json").json()["usage"]["cache_hits"] == 0


def test_the_fleets_layer_is_counted_and_emptied_too(fleet, start_worker):
    start_worker()
    assert fleet("submit", fleet.spec(TINY), "--wait").code == 0

    assert fleet("cache", "stats", "--json").json()["redis"]["entries"] == 1
    assert fleet("cache", "clear", "--json").json()["removed"] == {"redis": 1, "disk": 1}
    assert fleet("cache", "stats", "--json").json()["redis"] | {"ttl_s": 0, "max_bytes": 0} == {
        "entries": 0,
        "bytes": 0,
        "ttl_s": 0,
        "max_bytes": 0,
    }


def test_without_the_cache_and_with_refresh_the_provider_is_asked_again(orch):
    spec = orch.spec(TINY)
    usages = [
        orch("run", spec, *flags, "--json").json()["usage"]
        for flags in ((), (), ("--no-cache",), ("--refresh",))
    ]

    calls = [(usage["provider_calls"], usage["cache_hits"]) for usage in usages]
    assert calls == [(1, 0), (0, 1), (1, 0), (1, 0)]


def test_no_cache_leaves_nothing_in_it(orch):
    assert orch("run", orch.spec(TINY), "--no-cache").code == 0

    assert orch("cache", "stats", "--json").json()["disk"]["entries"] == 0
    [entry] = orch.runs[-1].glob(".cache/*.json")
    assert json.loads(entry.read_text())["provider"] == "simulated"


@pytest.mark.parametrize(
    "flags",
    [
        ("--no-cache", "--refresh"),
        ("--budget-tokens", "5"),
        ("--budget-usd", "0"),
        ("--budget-tokens", "many"),
    ],
    ids=" ".join,
)
def test_flags_that_do_not_go_together_or_make_no_sense_are_refused(orch, flags):
    ran = orch("run", orch.spec(TINY), *flags)

    assert ran.code == 2
    assert orch.runs == []


# --- the budget -------------------------------------------------------------------------------------------------------

TWO = """
project: tiny
task_description: anything
provider: simulated
options: {tokens_out: 50}
budget: {tokens: 80}
steps:
  - {id: first, prompt: "a question"}
  - {id: second, needs: [first], prompt: "another question"}
"""


def test_a_job_over_its_budget_fails_and_goes_on_when_it_is_raised(orch):
    ran = orch("run", orch.spec(TWO), "--json")

    assert ran.code == 1
    job = ran.json()
    assert [(one["step"], one["kind"]) for one in job["failures"]] == [("second", "budget")]
    [exceeded] = [event for event in orch.events() if event["type"] == "budget.exceeded"]
    assert exceeded["data"]["tokens"] == 80
    assert job["usage"]["provider_calls"] == 1

    assert orch("run", "--resume", job["job_id"]).code == 1
    raised = orch("run", "--resume", job["job_id"], "--budget-tokens", "200", "--json")
    assert (raised.code, raised.json()["usage"]["provider_calls"]) == (0, 2)


# --- the doctor -------------------------------------------------------------------------------------------------------


def test_a_machine_without_a_fleet_is_in_good_health(orch):
    seen = orch("doctor", "--json")

    assert seen.code == 0, seen.out
    checks = by_name(seen.json()["checks"])
    assert {"python", "disk", "redis", "provider scaffold"} <= set(checks)
    assert all(check["fix"] for check in checks.values() if check["status"] != "ok")


def test_a_redis_that_does_not_answer_is_told_with_what_to_do(orch):
    seen = orch("doctor", "--json", ORCH_REDIS_URL="redis://127.0.0.1:9/0")

    assert seen.code == 1
    assert by_name(seen.json()["checks"])["redis"]["status"] == "fail"


def test_jobs_that_nobody_works_on_are_told_of(fleet):
    assert fleet("submit", fleet.spec(TINY)).code == 0

    seen = fleet("doctor", "--json")

    workers = by_name(seen.json()["checks"])["workers"]
    assert (seen.code, workers["status"]) == (1, "fail")
    assert "orch worker" in workers["fix"]


def test_a_model_that_no_worker_serves_is_named(fleet, start_worker, eventually):
    start_worker(ORCH_WORKER_SERVES="simulated")
    eventually(lambda: by_name(fleet("doctor", "--json").json()["checks"])["workers"]["status"] == "ok")
    spec = TINY.replace("provider: simulated", "provider: mlx\nmodel: /no/such/model")
    assert fleet("submit", fleet.spec(spec)).code == 0

    seen = fleet("doctor", "--json")

    models = by_name(seen.json()["checks"])["models"]
    assert seen.code == 1
    assert "mlx /no/such/model" in models["detail"]
    assert "orch worker --provider mlx --model /no/such/model" in models["fix"]


# --- a worker for one provider ----------------------------------------------------------------------------------------


def test_a_worker_for_one_provider_leaves_other_steps_to_others(fleet, start_worker, eventually):
    # given a worker that serves simulated alone, and a job of scaffold
    start_worker(ORCH_WORKER_SERVES="simulated", ORCH_RUNS_DIR="runs-of-one")
    job_id = fleet("submit", fleet.spec(TINY.replace("simulated", "scaffold"))).out.strip()
    eventually(lambda: _waits_for(fleet, job_id, "a worker that serves scaffold"))

    # when one comes that serves everything
    start_worker()

    # then the job ends, run by that one
    eventually(lambda: fleet("show", job_id, "--json").json()["status"] == "succeeded")
    told = [json.loads(line) for line in fleet("tail", job_id, "--json").out.splitlines()]
    assert len({event["data"]["worker"] for event in told if event["type"] == "step.started"}) == 2


def _waits_for(fleet, job_id: str, what: str) -> bool:
    waiting = fleet("show", job_id, "--json").json()["steps"]["only"]["waiting"]
    return bool(waiting) and what in waiting["reason"]


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        (("--model", "m"), 2, "--provider"),
        (("--provider", "nobody"), 2, "nobody"),
        (("--provider", "anthropic"), 3, "ANTHROPIC_API_KEY"),
        (("--provider", "mlx", "--model", "./no-such-folder"), 3, "no-such-folder"),
    ],
    ids=["a model alone", "no such provider", "no key", "no model"],
)
def test_a_worker_that_could_serve_nothing_does_not_start(fleet, flags, code, words):
    ran = fleet("worker", *flags)

    assert ran.code == code
    assert words in ran.err
    assert "Traceback" not in ran.err


@pytest.mark.parametrize(
    "command", [("cache", "stats"), ("list",), ("doctor",), ("providers",)], ids=" ".join
)
def test_a_redis_that_wants_another_password_is_told_as_that(orch, own_redis, command):
    wrong = own_redis.url.replace(own_redis.PASSWORD, "another")

    ran = orch(*command, ORCH_REDIS_URL=wrong)

    assert "another password" in ran.out.replace("\n", " ") + ran.err
    assert ran.code == {"doctor": 1, "providers": 0}.get(command[0], 3)
