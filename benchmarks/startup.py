"""How long commands take from start to end, as ratios to a bare interpreter's start in the same run.

    python benchmarks/startup.py [RUNS]

Each figure is the median of RUNS runs (default 5), taken in turn so that a drift of the machine hits all alike.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

BIN = Path(sys.executable).parent
EXAMPLE = Path(__file__).parent.parent / "examples" / "notes_api.yaml"

COMMANDS: dict[str, list[str]] = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "orch --help": [str(BIN / "orch"), "--help"],
    "orch validate": [str(BIN / "orch"), "validate", str(EXAMPLE)],
    "celery --help": [str(BIN / "celery"), "--help"],
    "orch run, all asked": [str(BIN / "orch"), "run", "--quiet", str(EXAMPLE)],
    "orch run, all cached": [str(BIN / "orch"), "run", "--quiet", str(EXAMPLE)],
}


def seconds(command: list[str], env: dict[str, str]) -> float:
    """Wall time of one run."""
    start = time.perf_counter()
    subprocess.run(command, env=env, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def measure(runs: int, time_one: Callable[[list[str], dict[str, str]], float]) -> dict[str, list[float]]:
    """Times of every command, in seconds."""
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(runs):
        folder = tempfile.mkdtemp(prefix="orch-bench-")
        env = {**os.environ, "ORCH_RUNS_DIR": folder}
        for name, command in COMMANDS.items():
            times[name].append(time_one(command, env))
        shutil.rmtree(folder)
    return times


def main() -> None:
    """Print a table."""
    times = measure(int(sys.argv[1]) if len(sys.argv) > 1 else 5, seconds)
    bare = statistics.median(times["python -c pass"])
    print(f"{'command':24}{'min ms':>9}{'median ms':>11}{'max ms':>9}{'× python':>10}")
    for name, found in times.items():
        low, middle, high = min(found), statistics.median(found), max(found)
        print(f"{name:24}{low * 1000:9.0f}{middle * 1000:11.0f}{high * 1000:9.0f}{middle / bare:10.1f}")


if __name__ == "__main__":
    main()
