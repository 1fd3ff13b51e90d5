"""The table of step kinds."""

from __future__ import annotations

from tasks.step import StepKind, code_version
from tasks.steps import architect, builder, docs, prompt, qa

KINDS: dict[str, StepKind] = {
    kind.name: kind
    for kind in (
        StepKind("architect", architect.run, code_version(architect, "architect")),
        StepKind("builder", builder.run, code_version(builder, "builder")),
        StepKind("docs", docs.run, code_version(docs, "docs")),
        StepKind("qa", qa.run, code_version(qa, "qa")),
        StepKind("prompt", prompt.run, code_version(prompt)),
    )
}
