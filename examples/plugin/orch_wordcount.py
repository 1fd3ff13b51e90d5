"""A step kind of one's own: counts the words of the steps that it needs, and writes them to a file."""

from __future__ import annotations

from tasks.step import Output, Step, StepError


def run(step: Step) -> Output:
    """Count the words of each needed step's text; the counts are a file, and `needs.<id>.data` for later prompts."""
    if not step.step.needs:
        raise StepError("wordcount", f"step {step.step.id} counts the words of its needs, and has none")
    counts = {need: len(text_of(step, need).split()) for need in step.step.needs}
    lines = [f"{words:>7}  {need}" for need, words in counts.items()]
    report = "\n".join([*lines, f"{sum(counts.values()):>7}  total", ""])
    return Output(text=report, files={step.step.output or "wordcount.txt": report}, data={"words": counts})


def text_of(step: Step, need: str) -> str:
    """The text that an earlier step left, "" where it left none."""
    name = step.result(need).text
    return step.artifact(need, name) if name else ""
