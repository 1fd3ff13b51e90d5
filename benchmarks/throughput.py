"""Jobs a second of the default DAG's shape, beside the same canvas of empty tasks in Celery alone.

    python benchmarks/throughput.py [JOBS [ROUNDS]]

Both run in one call on one Redis (AOF on) with one worker (threads pool), in turn. orch's steps are `prompt` steps of
the `simulated` provider without latency, each another question: claim, cache miss, provider call, cache entry, commit
and all events are in the figure. The ratio is the figure to look at; absolute ones depend on the machine.
"""

from __future__ import annotations

import statistics
import sys
import time
from dataclasses import dataclass
from typing import Any

import redis
from celery import chain, group
from fleet import Fleet, fleet

from orchestrator.names import JobKeys
from orchestrator.spec import parse_spec

SLOTS = 8
DIAMOND = """
project: bench
task_description: Nothing to build
provider: simulated
concurrency: 4
options: {{seed: {seed}, tokens_out: 16}}
steps:
  - {{id: architect, prompt: "plan {seed}"}}
  - {{id: builder, needs: [architect], prompt: "build {seed}"}}
  - {{id: docs, needs: [architect], prompt: "document {seed}"}}
  - {{id: qa, needs: [builder, docs], prompt: "check {seed}"}}
"""


@dataclass(frozen=True)
class Figures:
    """One round."""

    jobs_per_s: float
    p50_ms: float


def run_orch(running: Fleet, count: int, seed: int) -> Figures:
    """Submit jobs at once, wait for all; then time single ones."""
    jobs = running.jobs

    specs = {
        number: parse_spec(DIAMOND.format(seed=number), "bench.yaml")
        for number in range(seed, seed + count + 20)
    }

    def submit(number: int) -> str:
        return jobs.submit(specs[number], specs[number].spec)

    def wait(job_id: str) -> None:
        for batch in jobs.follow(job_id, wait_ms=5000):
            if any(event.type == "job.succeeded" for event in batch):
                return

    start = time.perf_counter()
    submitted = [submit(seed + number) for number in range(count)]
    for job_id in submitted:
        wait(job_id)
    rate = count / (time.perf_counter() - start)
    latencies = []
    for number in range(20):
        start = time.perf_counter()
        wait(submit(seed + count + number))
        latencies.append((time.perf_counter() - start) * 1000)
    return Figures(rate, statistics.median(latencies))


def run_raw(running: Fleet, count: int) -> Figures:
    """The same with empty tasks."""
    app = running.jobs.app

    def submit(number: int) -> None:
        def step() -> Any:
            return app.signature("raw.step", immutable=True)

        last = app.signature("raw.last", args=(str(number),), immutable=True)
        chain(step(), group(step(), step()), last).apply_async()

    def wait(jobs: int) -> None:
        for _ in range(jobs):
            running.client.blpop(["raw:done"], timeout=30)

    start = time.perf_counter()
    for number in range(count):
        submit(number)
    wait(count)
    rate = count / (time.perf_counter() - start)
    latencies = []
    for number in range(20):
        start = time.perf_counter()
        submit(number)
        wait(1)
        latencies.append((time.perf_counter() - start) * 1000)
    return Figures(rate, statistics.median(latencies))


def commands(client: redis.Redis) -> int:
    """Commands that Redis has processed."""
    return int(client.info("stats")["total_commands_processed"])


def main() -> None:
    """Print rates, latencies, ratio, round trips a step and bytes a job."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 3
    orch, raw = [], []
    for number in range(rounds):
        with fleet() as running:
            running.start_raw_worker(SLOTS)
            run_raw(running, 5)
            raw.append(run_raw(running, count))
        with fleet() as running:
            running.start_worker(SLOTS)
            run_orch(running, 5, -1000)
            before, memory = commands(running.client), running.client.info("memory")["used_memory"]
            orch.append(run_orch(running, count, number * 10_000))
            done = count + 20
            per_step = (commands(running.client) - before) / done / 4
            per_job = (running.client.info("memory")["used_memory"] - memory) / done
            keys = running.client.keys(JobKeys("*").job + "*")
    ratios = [one.jobs_per_s / other.jobs_per_s for one, other in zip(orch, raw, strict=True)]
    print(
        f"{'':12}{'jobs/s':>10}{'p50 ms':>10}   (median of {rounds} rounds of {count} jobs, {SLOTS} threads)"
    )
    for name, figures in (("orch", orch), ("raw Celery", raw)):
        rate, p50 = (
            statistics.median(getattr(one, what) for one in figures) for what in ("jobs_per_s", "p50_ms")
        )
        print(f"{name:12}{rate:10.1f}{p50:10.1f}")
    print(f"orch / raw Celery: {statistics.median(ratios):.2f} (from {min(ratios):.2f} to {max(ratios):.2f})")
    print(f"Redis commands a step (Celery's and those within scripts included): {per_step:.1f}")
    print(f"Redis memory a job: {per_job / 1024:.1f} KiB in {len(keys) / done:.1f} keys")


if __name__ == "__main__":
    main()
