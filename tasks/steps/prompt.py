"""prompt: a step of the user's own, whose whole code is a template in the spec."""

from __future__ import annotations

from orchestrator.records import StepResult
from orchestrator.templates import PromptError, render_prompt
from tasks.step import Output, Step, StepError


def run(step: Step) -> Output:
    """Render the template with what the needed steps made, ask, and keep the text; `output` makes it a file too."""
    if step.step.prompt is None:
        raise StepError("no_prompt", f"step {step.step.id} has no prompt")
    try:
        question = render_prompt(step.step.prompt, step.spec.for_prompts(), _needs(step, step.step.prompt))
    except PromptError as error:
        raise StepError("prompt", f"the prompt of step {step.step.id}: {error}") from error
    text = step.gateway.generate([{"role": "user", "content": question}], _not_empty)
    return Output(text=text, files={step.step.output: text} if step.step.output else {})


def _needs(step: Step, prompt: str) -> dict[str, dict[str, object]]:
    """What the template sees of the needed steps; their files are fetched only for one that speaks of files."""
    results = dict(zip(step.step.needs, step.results(step.step.needs), strict=True))
    texts = {need: _text_of(result) for need, result in results.items()}
    contents = step.contents(sha256 for sha256 in texts.values() if sha256)
    return {
        need: {
            "text": contents.get(texts[need], ""),
            "files": step.project_files(need) if "files" in prompt else {},
            "data": result.data,
        }
        for need, result in results.items()
    }


def _text_of(result: StepResult) -> str:
    """The sha256 of a result's text, "" where it has none."""
    return next((one.sha256 for one in result.artifacts if one.name == result.text), "")


def _not_empty(text: str) -> str:
    if not text.strip():
        raise ValueError("the answer is empty")
    return text
