"""The QA report: each check, its evidence, a score with its formula, and the verdict. For programs and for people."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Literal

from tasks.checks import Check

REPORT, READABLE = "qa_report.json", "qa_report.md"

WEIGHTS = {
    "files": 10,
    "syntax": 10,
    "lint": 10,
    "requirements": 10,
    "imports": 20,
    "tests": 30,
    "acceptance": 10,
}
OTHER_WEIGHT = 5

FORMULA = (
    "score = 100 × weights of the checks that passed ÷ weights of those that count, rounded down; every check "
    "counts that passed or failed, and a hard one also when it was not run. Weights: "
    + ", ".join(f"{name} {weight}" for name, weight in WEIGHTS.items())
    + f", any other {OTHER_WEIGHT}."
)

Verdict = Literal["passed", "failed", "incomplete"]


def score(checks: Sequence[Check]) -> int:
    """From 0 to 100; see `FORMULA`."""
    counting = [check for check in checks if check.hard or check.status != "not run"]
    most = sum(_weight(check) for check in counting)
    earned = sum(_weight(check) for check in counting if check.status == "passed")
    return 100 * earned // most if most else 0


def verdict(checks: Sequence[Check]) -> Verdict:
    """What the hard checks say together; "incomplete" when none failed and one was not run."""
    hard = [check.status for check in checks if check.hard]
    if "failed" in hard:
        return "failed"
    return "incomplete" if "not run" in hard else "passed"


def as_json(checks: Sequence[Check], sandbox: str) -> str:
    """The report for programs. `sandbox` says what ran the generated code, or why nothing did."""
    report = {
        "schema_version": 1,
        "verdict": verdict(checks),
        "score": score(checks),
        "formula": FORMULA,
        "sandbox": sandbox,
        "checks": [check.model_dump() for check in checks],
    }
    return json.dumps(report, indent=1, ensure_ascii=False) + "\n"


def as_markdown(checks: Sequence[Check], sandbox: str) -> str:
    """The report for people."""
    lines = [
        "# QA report",
        "",
        f"**{verdict(checks)}**, {score(checks)}/100. Sandbox: {sandbox}.",
        "",
        "| check | status | decides |",
        "|---|---|---|",
        *(f"| {check.name} | {check.status} | {'yes' if check.hard else 'no'} |" for check in checks),
        "",
    ]
    for check in checks:
        lines += [f"## {check.name}: {check.status}", "", *_fenced(check.evidence), ""]
        if check.files:
            lines += [f"Concerns: {', '.join(f'`{path}`' for path in check.files)}", ""]
    return "\n".join([*lines, "## Score", "", FORMULA, ""])


def before_any_check(step: str, message: str) -> dict[str, str]:
    """The reports of a project that was never checked, since a step before the checks failed; by their names."""
    checks = [Check(name=step, status="failed", evidence=message)]
    nothing = "nothing was executed"
    return {REPORT: as_json(checks, nothing), READABLE: as_markdown(checks, nothing)}


def _fenced(text: str) -> list[str]:
    """The text as it is, in a fence that is longer than any in it."""
    fence = "```"
    while fence in text:
        fence += "`"
    return [f"{fence}text", text, fence]


def _weight(check: Check) -> int:
    return WEIGHTS.get(check.name, OTHER_WEIGHT)
