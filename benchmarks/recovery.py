"""How long after kill -9 of a worker its step is running again, for several leases.

    python benchmarks/recovery.py [ROUNDS]

Two workers; the one that runs the step is killed. Printed: seconds from the kill to the next step.started, and the
part of it that is not the lease (the promise is 5 s at most).
"""

from __future__ import annotations

import statistics
import sys
import time

import psutil
from fleet import Fleet, fleet

from orchestrator.spec import parse_spec

SPEC = """
project: bench
task_description: One long step
provider: simulated
concurrency: 1
options: {{latency_s: 600, seed: {seed}}}
steps: [{{id: only, prompt: "wait {seed}"}}]
"""


def once(running: Fleet, seed: int, lease: str) -> float:
    """Seconds from the kill to the step's second start."""
    jobs = running.jobs
    job_id = jobs.submit(loaded := parse_spec(SPEC.format(seed=seed), "bench"), loaded.spec)
    killed_at, starts = 0.0, 0
    for batch in jobs.follow(job_id):
        for event in batch:
            if event.type == "step.started":
                starts += 1
                if starts == 2:
                    took = time.time() - killed_at
                    jobs.state.cancel(job_id, "measured")
                    return took
                psutil.Process(int(str(event.get("worker")).rpartition(":")[2])).kill()
                killed_at = time.time()
                running.start_worker(2, ORCH_LEASE_S=lease)
    raise AssertionError("unreachable")


def main() -> None:
    """Print a table."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    print(f"{'lease s':>8}{'median s':>10}{'worst s':>9}{'worst beyond the lease s':>26}")
    for lease in ("3", "6", "15"):
        with fleet() as running:
            for _ in range(2):
                running.start_worker(2, ORCH_LEASE_S=lease)
            times = [once(running, seed, lease) for seed in range(rounds)]
        print(
            f"{lease:>8}{statistics.median(times):10.1f}{max(times):9.1f}{max(times) - float(lease):26.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
