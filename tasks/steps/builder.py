"""builder: a step for each planned file, in the order in which they depend on each other. It is done with the last."""

from __future__ import annotations

from orchestrator.state import NewStep
from tasks.rounds import RoundStep
from tasks.step import Output, Step, StepError
from tasks.steps.architect import plan_of


def run(step: Step) -> Output:
    """Add the steps; nothing is asked here."""
    files = plan_of(step).in_build_order()
    if strange := [file.path for file in files if "@" in file.path]:
        raise StepError("unsafe_path", f"no file may have an @ in its name: {strange[0]}")
    ids = {file.path: RoundStep(step.step.id, file.path).id for file in files}
    planned = step.upstream("architect")  # which a resume may have to run again, and they after it
    adds = [
        NewStep(ids[file.path], "file", (planned, *(ids[path] for path in file.depends_on))) for file in files
    ]
    return Output(text=f"{len(files)} files", adds=adds, waits=True)
