"""Random faults at random times over many jobs: all of them succeed, each step committed once.

The seed decides jobs and faults and is printed; `CHAOS_SEEDS=7,8 pytest tests/chaos/test_schedule.py` runs others.
"""

from __future__ import annotations

import os
import random
import time
from contextlib import suppress

import psutil
import pytest

pytestmark = [pytest.mark.integration, pytest.mark.alone]

SEEDS = [int(seed) for seed in os.environ.get("CHAOS_SEEDS", "1").split(",")]
WORKERS = 3


def any_job(dice: random.Random, number: int) -> dict:
    """A default pipeline, or a random DAG of up to eight steps."""
    options = {"latency_s": round(dice.uniform(0, 0.5), 2), "seed": number}
    if dice.random() < 0.4:
        return {"provider": "simulated", "options": options, "project": f"p{number}"}
    steps = []
    for n in range(dice.randint(2, 8)):
        needs = [one["id"] for one in steps if dice.random() < 0.4]
        latency = {"latency_s": round(dice.uniform(0, 0.5), 2)}
        steps.append({"id": f"s{n}", "prompt": f"step {n}", "needs": needs, "options": latency})
        if dice.random() < 0.5:
            steps[-1]["output"] = f"s{n}.md"
    return {"provider": "simulated", "options": options, "steps": steps, "concurrency": dice.randint(1, 4)}


class Storm:
    """The faults. Each begins at once and returns when it has been undone, but for what the fleet makes good itself."""

    def __init__(self, fleet, dice: random.Random, lease_s: float) -> None:
        self.fleet, self.dice, self.lease_s = fleet, dice, lease_s
        self.networks = {}
        for _ in range(WORKERS):
            self.start_worker()

    def start_worker(self) -> None:
        network = self.fleet.network()
        self.networks[self.fleet.worker(network.url)] = network

    def somebody(self):
        """A worker that runs no step alone: what dies alone is to blame, and its job fails as it should."""
        alone = {
            name.removesuffix(b" alone").decode()
            for name in self.fleet.client.hvals("orch:held")
            if name.endswith(b" alone")
        }
        living = [worker for worker in self.networks if worker.celery() and worker.name not in alone]
        return self.dice.choice(living) if living else None

    def strike(self) -> str:
        """One fault; its name."""
        faults = [getattr(self, name) for name in sorted(dir(self)) if name.startswith("fault_")]
        fault = self.dice.choice(faults)
        worker = self.somebody()
        with suppress(psutil.NoSuchProcess, AssertionError):
            if worker:
                fault(worker)
        return fault.__name__.removeprefix("fault_")

    def a_while(self, longest_s: float | None = None) -> None:
        time.sleep(self.dice.uniform(0, longest_s or 1.5 * self.lease_s))

    def fault_kill(self, worker) -> None:
        worker.kill()

    def fault_kill_group(self, worker) -> None:
        worker.kill_group()
        del self.networks[worker]
        self.start_worker()

    def fault_leave(self, worker) -> None:
        worker.ask()
        del self.networks[worker]
        self.start_worker()

    def fault_sleep(self, worker) -> None:
        worker.stop()
        self.a_while()
        worker.go_on()

    def fault_cut(self, worker) -> None:
        self.networks[worker].cut()
        self.a_while()
        self.networks[worker].heal()

    def fault_blackhole(self, worker) -> None:
        self.networks[worker].blackhole()
        self.a_while()
        self.networks[worker].heal()

    def fault_restart_redis(self, _) -> None:
        self.fleet.server.kill()
        self.a_while(1)
        self.fleet.server.start()

    def fault_freeze_redis(self, _) -> None:
        self.fleet.server.freeze()
        self.a_while()
        self.fleet.server.thaw()

    def fault_fill_redis(self, _) -> None:
        self.fleet.server.fill()
        self.a_while()
        self.fleet.server.relieve()

    def fault_lose_a_message(self, _) -> None:
        self.fleet.client.rpop("orch:celery:orch")


def weather(fleet, seed: int, jobs: int, faults: int, lease_s: float) -> None:
    dice = random.Random(seed)
    print(f"seed {seed}")
    storm = Storm(fleet, dice, lease_s)
    for worker in list(storm.networks):
        worker.until_ready()
    watched = [fleet.submit(any_job(dice, number)) for number in range(jobs - faults)]
    began = time.monotonic()
    for _ in range(faults):
        watched.append(fleet.submit(any_job(dice, len(watched))))
        print(f"{time.monotonic() - began:5.1f} s  {storm.strike()}")
        storm.a_while(0.5)
    fleet.check(*watched)
    print(f"{time.monotonic() - began:5.1f} s  all {len(watched)} jobs are done")


@pytest.mark.parametrize("seed", SEEDS)
def test_eight_jobs_outlive_a_storm(fleet, lease_s, seed):
    weather(fleet, seed, jobs=8, faults=6, lease_s=lease_s)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [*SEEDS, 2, 3] if SEEDS == [1] else SEEDS)
def test_fifty_jobs_outlive_a_long_storm(fleet, lease_s, seed):
    weather(fleet, seed, jobs=50, faults=40, lease_s=lease_s)
