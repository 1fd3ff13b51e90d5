"""architect: plans the whole project before a line of it is written."""

from __future__ import annotations

from providers import Tool
from tasks.blueprint import ProjectPlan, read_plan
from tasks.prompting import render
from tasks.step import Output, Step

PLAN = "plan.json"

SUBMIT_PLAN = Tool("submit_plan", "Hand in the plan of the project.", ProjectPlan.model_json_schema())


def run(step: Step) -> Output:
    """Ask for a plan until it is one that can be built; it is kept as the artifact plan.json."""
    messages = render("architect", step.spec.prompts, spec=step.spec)
    plan = step.gateway.tool_call(messages, SUBMIT_PLAN, read_plan)
    text = plan.model_dump_json(indent=1)
    return Output(text=plan.goal, artifacts={PLAN: text}, data={"next": _commands(plan)})


def plan_of(step: Step) -> ProjectPlan:
    """The plan that a later step works from."""
    return ProjectPlan.model_validate_json(step.artifact(step.upstream("architect"), PLAN))


def _commands(plan: ProjectPlan) -> list[str]:
    """What to type in the finished project."""
    install = ["python -m pip install -r requirements.txt"] if "requirements.txt" in plan.by_path else []
    return [*install, plan.test_command, *([plan.run_command] if plan.run_command.strip() else [])]
