"""docs: writes the project's README from its plan, while the builder writes the code."""

from __future__ import annotations

from tasks.answers import only_block
from tasks.blueprint import ProjectPlan
from tasks.prompting import render
from tasks.step import Output, Step
from tasks.steps.architect import plan_of

README = "README.md"


def run(step: Step) -> Output:
    """Ask for a README that names every endpoint of the plan."""
    plan = plan_of(step)
    messages = render("docs", spec=step.spec, plan=plan.model_dump_json(indent=1))
    readme = step.gateway.generate(messages, lambda text: _checked(plan, only_block(text, fence=4)))
    return Output(text=readme, files={README: readme})


def _checked(plan: ProjectPlan, readme: str) -> str:
    """Return the README if it documents what is planned; ValueError names the endpoints that it leaves out."""
    missing = [f"{one.method} {one.path}" for one in plan.endpoints if one.path not in readme]
    if missing:
        raise ValueError(f"the README does not mention {', '.join(missing)}")
    return readme
