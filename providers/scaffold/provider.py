"""The provider: which question is this, and who answers it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, ClassVar

from providers.base import Provider
from providers.config import Config
from providers.errors import BadRequest, Cancelled
from providers.scaffold import files, projects, prompt, review
from providers.scaffold.prompt import Prompt
from providers.types import Completion, Request, Usage

DEFAULT_MODEL = "scaffold-1"


class ScaffoldProvider(Provider):
    """Plans, writes and reviews small projects by rules and templates; it has no model.

    Services with FastAPI, CSV importers for the command line, and libraries of well-known functions.

    It answers the prompts of the built-in steps in the formats that they ask for. The same question has the same
    answer, in any process: everything is made from the prompt.
    """

    name: ClassVar[str] = "scaffold"

    def __init__(self, model: str | None = None, config: Config | None = None) -> None:
        super().__init__(model or DEFAULT_MODEL, config)

    def complete(self, request: Request) -> Completion:
        """Answer one of the built-in steps' questions, or say that there is no model; see Provider."""
        if request.cancelled.is_set():
            raise Cancelled("the call was cancelled", self.name)
        question = prompt.read(request.messages)
        text = json.dumps(_arguments(request.tool.name, question)) if request.tool else _text(question)
        usage = Usage(sum(len(message["content"].split()) for message in request.messages), len(text.split()))
        return Completion(text, usage, "tool" if request.tool else "stop", self.model or DEFAULT_MODEL)


def _arguments(tool: str, question: Prompt) -> dict[str, Any]:
    if tool == "submit_plan":
        named = re.search(r"Plan the project ([\w-]+)\.", question.words)
        return projects.plan_of(named[1] if named else "project", question.first("task_description") or "")
    if tool == "submit_verdict":
        return review.verdict(_plan(question), question.written_files())
    raise BadRequest(f"scaffold knows submit_plan and submit_verdict, not {tool}", ScaffoldProvider.name)


def _text(question: Prompt) -> str:
    path = question.first("file")
    if path is None or question.first("plan") is None:
        return _no_model(question)
    plan = _plan(question)
    named = re.search(r"of the project ([\w-]+):", question.words)
    name = named[1] if named else "project"
    try:
        if path == "README.md":
            return f"````markdown\n{projects.readme_of(name, plan)}````"
        written = projects.text_of(name, plan, path)
    except (KeyError, TypeError, AttributeError) as error:
        raise BadRequest(f"the plan is not one of ProjectPlan: {error!r}", ScaffoldProvider.name) from error
    return _fenced(path, files.unknown(path, _purpose(plan, path)) if written is None else written)


def _fenced(path: str, text: str) -> str:
    fence = "````" if path.endswith(".md") else "```"
    return f"{fence}{'python' if path.endswith('.py') else ''}\n{text}{fence}"


def _plan(question: Prompt) -> Mapping[str, Any]:
    try:
        plan = json.loads(question.first("plan") or "")
    except ValueError as error:
        raise BadRequest(f"the plan is not JSON: {error}", ScaffoldProvider.name) from error
    if not isinstance(plan, dict):
        raise BadRequest("the plan is not a JSON object", ScaffoldProvider.name)
    return plan


def _purpose(plan: Mapping[str, Any], path: str) -> str:
    return next((str(file["purpose"]) for file in plan.get("files", ()) if file.get("path") == path), "")


def _no_model(question: Prompt) -> str:
    asked = " ".join(" ".join([question.words, *(data.text for data in question.data)]).split())[:200]
    return (
        "This text comes from orch's scaffold provider, which has no language model: it writes small projects "
        f"from templates and cannot answer free questions. Asked was: {asked}"
    )
