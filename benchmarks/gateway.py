"""What the gateway costs: many slow calls at once in one threaded worker, told apart and all the same.

    python benchmarks/gateway.py [CALLS] [SECONDS]

The time from the first `llm.request` to the last `llm.response`, divided by the length of one call: 1.00 would mean
that calls do not wait for each other. For identical questions, the time from the first request to the end of the last
step.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from fleet import Fleet, fleet

from orchestrator.events import Event
from orchestrator.spec import parse_spec


def spec_of(prompts: Sequence[str], seconds: float) -> str:
    """A spec with a step for each prompt, all side by side."""
    steps = [{"id": f"s{n}", "prompt": prompt} for n, prompt in enumerate(prompts)]
    about = {"project": "bench", "task_description": "anything", "provider": "simulated"}
    return json.dumps(
        {**about, "options": {"latency_s": seconds}, "concurrency": len(prompts), "steps": steps}
    )


def run(here: Fleet, prompts: Sequence[str], seconds: float) -> list[Event]:
    """Run a job of these prompts; what its stream told."""
    jobs, loaded = here.jobs, parse_spec(spec_of(prompts, seconds), "bench")
    job_id = jobs.submit(loaded, loaded.spec)
    told: list[Event] = []
    for batch in jobs.follow(job_id):
        told += batch
        if told and told[-1].type in ("job.succeeded", "job.failed"):
            return told
    raise AssertionError("a job's stream ended before the job")


def between(told: Sequence[Event], first: str, last: str) -> float:
    """Seconds from the first event of one type to the last of another."""
    begun = min(event.at_ms for event in told if event.type == first)
    return (max(event.at_ms for event in told if event.type == last) - begun) / 1000


def main(calls: int = 64, seconds: float = 1.0) -> None:
    """Measure both, twice; the first round warms up."""
    with fleet() as here:
        here.start_worker(calls)
        for warm in (True, False):
            mark = "warm-up" if warm else "measured"
            distinct = run(here, [f"{mark} {n}" for n in range(calls)], seconds)
            same = run(here, [f"{mark}, the same"] * calls, seconds)
        apart = between(distinct, "llm.request", "llm.response") / seconds
        shared = between(same, "llm.request", "step.succeeded") / seconds
        asked = sum(event.type == "llm.request" for event in same)
        print(f"{calls} distinct calls: {apart:5.2f} × one call")
        print(f"{calls} identical ones: {shared:5.2f} × one call; {asked} asked")


if __name__ == "__main__":
    main(*(kind(given) for kind, given in zip((int, float), sys.argv[1:], strict=False)))
