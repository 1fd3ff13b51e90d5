"""architect: plans the whole project before a line of it is written."""

from __future__ import annotations

from providers import Tool
from tasks.blueprint import ProjectPlan
from tasks.prompting import render
from tasks.step import Output, Step

PLAN = "plan.json"

SUBMIT_PLAN = Tool("submit_plan", "Hand in the plan of the project.", ProjectPlan.model_json_schema())


def run(step: Step) -> Output:
    """Ask for a plan until it is one that can be built; it is kept as the artifact plan.json."""
    plan = step.gateway.tool_call(
        render("architect", spec=step.spec), SUBMIT_PLAN, ProjectPlan.model_validate
    )
    text = plan.model_dump_json(indent=1)
    commands = [plan.test_command, plan.run_command]
    if any(file.path == "requirements.txt" for file in plan.files):
        commands.insert(0, "python -m pip install -r requirements.txt")
    return Output(text=plan.goal, artifacts={PLAN: text}, data={"next": commands})


def plan_of(step: Step) -> ProjectPlan:
    """The plan that a later step works from."""
    return ProjectPlan.model_validate_json(step.artifact(step.upstream("architect"), PLAN))
