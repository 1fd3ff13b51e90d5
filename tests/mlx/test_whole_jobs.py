"""Whole jobs with a real, small model: inside the worker, and behind a server that speaks OpenAI's API."""

from __future__ import annotations

import json

import pytest

pytestmark = pytest.mark.integration

JOB = """
project: small
task_description: anything
options: {{max_tokens: 48, temperature: 0}}
concurrency: 4
{choice}
steps:
  - {{id: hello, prompt: "Say hello."}}
  - {{id: france, prompt: "What is the capital of France? One word."}}
  - {{id: italy, needs: [hello, france], prompt: "What is the capital of Italy? One word.", output: italy.md}}
"""


def events_of(orch, kind: str) -> list[dict]:
    return [event["data"] for event in orch.events() if event["type"] == kind]


@pytest.fixture(params=["mlx", "openai"])
def choice(request, small_model) -> tuple[str, dict[str, str]]:
    """How a spec names the small model, and the environment for it."""
    if request.param == "mlx":
        return f"provider: mlx\nmodel: {small_model}", {}
    server = request.getfixturevalue("mlx_server")
    return f"provider: openai\nmodel: {small_model}", {"OPENAI_BASE_URL": server}


def test_a_job_runs_to_its_end_and_a_second_one_asks_nobody(orch, choice):
    named, env = choice
    spec = orch.spec(JOB.format(choice=named))

    first = orch("run", spec, "--json", timeout=240, **env)

    assert first.code == 0, first.err
    usage = first.json()["usage"]
    assert usage["provider_calls"] >= 3
    assert usage["tokens_in"] > 30
    assert 3 <= usage["tokens_out"] <= 48 * usage["provider_calls"]
    responses = events_of(orch, "llm.response")
    assert {one["finish_reason"] for one in responses} <= {"stop", "length"}
    assert all(0 < one["tokens_out"] <= 48 for one in responses)
    # what runs inside a worker is free; what an unknown model behind an API costs, nobody knows
    assert {one["cost_usd"] for one in responses} == {None if env else 0.0}
    assert (orch.runs[-1] / "outputs" / "small" / "italy.md").read_text().strip()

    second = orch("run", spec, "--json", timeout=240, **env)

    assert second.code == 0, second.err
    assert (second.json()["usage"]["provider_calls"], second.json()["usage"]["cache_hits"]) == (0, 3)


def test_a_worker_that_keeps_a_model_runs_the_steps_that_name_none(
    orch, redis_url, start_worker, small_model
):
    # given one worker for everything but mlx, and one for that model alone
    start_worker(ORCH_WORKER_SERVES="simulated")
    start_worker(ORCH_WORKER_SERVES=f"mlx {small_model}")
    orch.env["ORCH_REDIS_URL"] = redis_url

    job_id = orch("submit", orch.spec(JOB.format(choice="provider: mlx")), "--wait", timeout=240).out.strip()

    assert orch("show", job_id, "--json").json()["status"] == "succeeded"
    told = [json.loads(line) for line in orch("tail", job_id, "--json").out.splitlines()]
    models = {event["data"]["model"] for event in told if event["type"] == "llm.response"}
    assert models == {small_model}


def test_a_model_that_is_too_small_to_plan_ends_with_a_verdict(orch, small_model):
    spec = f"""
project: notes_api
task_description: Create a FastAPI notes app with POST /notes and GET /notes on SQLite
provider: mlx
model: {small_model}
options: {{max_tokens: 48, temperature: 0}}
"""

    ran = orch("run", orch.spec(spec), "--json", timeout=240)

    assert ran.code == 1
    assert "Traceback" not in ran.err
    report = json.loads((orch.runs[-1] / "artifacts" / "qa_report.json").read_text())
    assert (report["verdict"], report["checks"][0]["name"]) == ("failed", "architect")
