"""Makespan ÷ critical path for DAGs of `simulated` steps of given lengths, with workers enough.

    python benchmarks/dispatch.py [SECONDS]

1.00 would mean that every step starts the moment its last need is done and that nothing costs any time. SECONDS is the
length of a step (default 1). Steps of random DAGs take half to one and a half times as long.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable

from fleet import fleet

from orchestrator.progress import Progress
from orchestrator.spec import parse_spec

WORKERS, SLOTS = 4, 64
Dag = dict[str, tuple[list[str], float]]


def n_shape(seconds: float) -> Dag:
    """A→C, A→D, B→D: no canvas can express it."""
    return {"a": ([], seconds), "b": ([], 2 * seconds), "c": (["a"], 2 * seconds), "d": (["a", "b"], seconds)}


def ladder(seconds: float, rungs: int = 8) -> Dag:
    """Two chains with a rung from each step of the left one to the next of the right one."""
    dag: Dag = {"l0": ([], seconds), "r0": ([], seconds)}
    for n in range(1, rungs):
        dag[f"l{n}"] = ([f"l{n - 1}"], seconds)
        dag[f"r{n}"] = ([f"r{n - 1}", f"l{n - 1}"], seconds)
    return dag


def fan(seconds: float, width: int = 200) -> Dag:
    """1 → 200 → 1."""
    middle: Dag = {f"m{n}": (["first"], seconds) for n in range(width)}
    return {"first": ([], seconds), **middle, "last": (list(middle), seconds)}


def chain(seconds: float, length: int = 200) -> Dag:
    """200 in a row; steps are a tenth as long, so that the benchmark ends."""
    return {f"c{n}": ([f"c{n - 1}"] if n else [], seconds / 10) for n in range(length)}


def layers(seconds: float, seed: int = 1) -> Dag:
    """Random layers: each step needs one to three of the layer before."""
    draw, dag, before = random.Random(seed), Dag(), list[str]()
    for layer in range(6):
        names = [f"s{layer}x{n}" for n in range(draw.randint(4, 20))]
        for name in names:
            needs = draw.sample(before, min(len(before), draw.randint(1, 3)))
            dag[name] = (needs, seconds * draw.uniform(0.5, 1.5))
        before = names
    return dag


SHAPES: dict[str, Callable[[float], Dag]] = {
    "N-shape": n_shape,
    "ladder of 8": ladder,
    "1 → 200 → 1": fan,
    "chain of 200": chain,
    "random layers": layers,
}


def critical_path(dag: Dag) -> float:
    """Seconds of the longest way through; needs come before their dependents."""
    ends: dict[str, float] = {}
    for name, (needs, seconds) in dag.items():
        ends[name] = max((ends[need] for need in needs), default=0.0) + seconds
    return max(ends.values())


def spec_of(name: str, dag: Dag) -> str:
    """A spec whose steps take as long as the DAG says."""
    steps = [
        {
            "id": step,
            "needs": needs,
            "prompt": f"{name} {step}",
            "options": {"latency_s": seconds, "tokens_out": 4},
        }
        for step, (needs, seconds) in dag.items()
    ]
    spec = {"project": "bench", "task_description": "Nothing", "provider": "simulated", "concurrency": 1000}
    return json.dumps({**spec, "steps": steps})


def main() -> None:
    """Print a table."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 1.0
    print(f"{'DAG':16}{'steps':>6}{'critical path s':>17}{'makespan s':>12}{'ratio':>7}  driver")
    with fleet() as running:
        for _ in range(WORKERS):
            running.start_worker(SLOTS)
        jobs = running.jobs
        warm = jobs.submit(loaded := parse_spec(spec_of("warm", {"a": ([], 0.0)}), "warm"), loaded.spec)
        _ended(jobs, warm)
        for name, shape in SHAPES.items():
            dag = shape(seconds)
            loaded = parse_spec(spec_of(name, dag), name)
            job_id = jobs.submit(loaded, loaded.spec)
            driver = jobs.state.job(job_id)["driver"]
            progress = _ended(jobs, job_id)
            shortest = critical_path(dag)
            took = ((progress.finished_ms or 0) - (progress.created_ms or 0)) / 1000
            row = f"{name:16}{len(dag):6}{shortest:17.2f}{took:12.2f}{took / shortest:7.3f}  {driver}"
            print(row if progress.status == "succeeded" else f"{name}: {progress.status}", flush=True)


def _ended(jobs: object, job_id: str) -> Progress:
    progress = Progress(job_id)
    for batch in jobs.follow(job_id, wait_ms=5000):  # type: ignore[attr-defined]
        for event in batch:
            progress.apply(event)
        if progress.over:
            break
    return progress


if __name__ == "__main__":
    main()
