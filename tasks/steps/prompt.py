"""prompt: a step of the user's own, whose whole code is a template in the spec."""

from __future__ import annotations

from orchestrator.templates import PromptError, render_prompt
from tasks.step import Output, Step, StepError


def run(step: Step) -> Output:
    """Render the template with what the needed steps made, ask, and keep the text; `output` makes it a file too."""
    if step.step.prompt is None:
        raise StepError("no_prompt", f"step {step.step.id} has no prompt")
    needs = {need: _view(step, need) for need in step.step.needs}
    try:
        question = render_prompt(step.step.prompt, step.spec.for_prompts(), needs)
    except PromptError as error:
        raise StepError("prompt", f"the prompt of step {step.step.id}: {error}") from error
    text = step.gateway.generate([{"role": "user", "content": question}], _not_empty)
    return Output(text=text, files={step.step.output: text} if step.step.output else {})


def _view(step: Step, need: str) -> dict[str, object]:
    result = step.result(need)
    text = step.artifact(need, result.text) if result.text else ""
    return {"text": text, "files": step.project_files(need), "data": result.data}


def _not_empty(text: str) -> str:
    if not text.strip():
        raise ValueError("the answer is empty")
    return text
