"""docs: writes the project's README from its plan, while the builder writes the code."""

from __future__ import annotations

import re
from collections.abc import Iterable

from providers.errors import InvalidAnswer
from tasks.answers import only_block
from tasks.blueprint import README, Endpoint, ProjectPlan
from tasks.prompting import render
from tasks.step import Output, Step
from tasks.steps.architect import plan_of

_ORIGIN = re.compile(r"https?://[^/\s]+")
_PARAMETER = re.compile(r"{[^{}/]*}|<[^<>/]*>|(?<=/):\w+")


def run(step: Step) -> Output:
    """Ask for a README that names every endpoint of the plan; those that the model leaves out twice are added."""
    plan = plan_of(step)
    messages = render("docs", step.spec.prompts, spec=step.spec, plan=plan.model_dump_json(indent=1))
    drafts: list[str] = []

    def read(text: str) -> str:
        drafts.append(only_block(text, fence=4))
        return checked(plan, drafts[-1])

    try:
        readme = step.gateway.generate(messages, read)
    except InvalidAnswer:
        if not drafts:
            raise
        readme = with_reference(plan, drafts[-1])
    return Output(text=readme, files={README: readme})


def checked(plan: ProjectPlan, readme: str) -> str:
    """Return the README if it documents what is planned; ValueError names the endpoints that it leaves out."""
    if not readme.strip():
        raise ValueError("the README is empty")
    if missing := missing_endpoints(plan.endpoints, readme):
        names = ", ".join(f"{one.method} {one.path}" for one in missing)
        raise ValueError(f"the README does not name these endpoints by method and path: {names}")
    return readme


def missing_endpoints(endpoints: Iterable[Endpoint], readme: str) -> list[Endpoint]:
    """The endpoints that no line names by method and path; how a parameter is called does not count."""
    lines = [_PARAMETER.sub("{}", _ORIGIN.sub(" ", line)) for line in readme.splitlines()]
    return [one for one in endpoints if not any(_names(one, line) for line in lines)]


def with_reference(plan: ProjectPlan, readme: str) -> str:
    """Return the README with the endpoints that it leaves out, as the plan describes them."""
    missing = missing_endpoints(plan.endpoints, readme)
    rows = [f"- `{one.method} {one.path}`: {' '.join(one.summary.split())}" for one in missing]
    return "\n".join([readme.rstrip("\n"), "", "## Further endpoints, as planned", "", *rows, ""])


def _names(endpoint: Endpoint, line: str) -> bool:
    path = re.escape(_PARAMETER.sub("{}", endpoint.path))
    method = re.search(rf"(?<!\w){endpoint.method}(?!\w)", line, re.IGNORECASE)
    return bool(method and re.search(rf"(?<![\w}}/]){path}(?![\w{{-]|/[\w{{])", line))
