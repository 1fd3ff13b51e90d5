"""The table of step kinds: the built-in ones, and those of installed plug-ins."""

from __future__ import annotations

from tasks.plugins import load_plugins
from tasks.step import StepKind, code_version
from tasks.steps import architect, builder, docs, file, prompt, qa

KINDS: dict[str, StepKind] = load_plugins() | {
    kind.name: kind
    for kind in (
        StepKind("architect", architect.run, code_version(architect, "architect")),
        StepKind("builder", builder.run, code_version(builder)),
        StepKind("file", file.run, code_version(file, "builder")),
        StepKind("docs", docs.run, code_version(docs, "docs")),
        StepKind("qa", qa.run, code_version(qa, "qa")),
        StepKind("prompt", prompt.run, code_version(prompt)),
    )
}
