from __future__ import annotations

import os
import pickle
import re
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from orchestrator.models import JobSpec, StepSpec
from orchestrator.spec import SpecError, load_spec, parse_spec

EXAMPLES = sorted(Path(__file__).parents[2].glob("examples/*.yaml"))

FIELDS = [name for name in JobSpec.model_fields if name != "prompts"]  # which no user writes
HEAD = "project: notes\ntask_description: Write notes\n"
STEPS = """\
project: book
task_description: A book
options: {temperature: 0.5, stop: [a, b], stream: false}
budget: {tokens: 1000, usd: 2.5}
steps:
  - id: outline
    prompt: "List the chapters for: {{ spec.task_description }}"
  - id: draft
    needs: [outline]
    provider: [anthropic, ollama]
    model: m
    options: {temperature: 1}
    timeout_s: 60
    retries: 0
    prompt: |
      Write them:
      {{ needs.outline.text }}
    output: draft.md
"""


def refusal(text: str) -> SpecError:
    with pytest.raises(SpecError) as caught:
        parse_spec(text, "x.yaml")
    return caught.value


def step(text: str) -> str:
    return f"{HEAD}steps:\n  - id: first\n    prompt: Go\n  - id: second\n{text}"


class TestValidSpecs:
    def test_two_lines_are_a_spec_and_the_rest_has_defaults(self) -> None:
        spec = parse_spec(HEAD, "x.yaml").spec

        assert spec == JobSpec(project="notes", task_description="Write notes")
        assert (spec.provider, spec.model, spec.options, spec.concurrency) == ("auto", None, {}, None)
        assert (spec.timeout_s, spec.output_dir, spec.budget, spec.repair_rounds) == (900, None, None, 2)
        assert [s.id for s in spec.plan().steps] == ["architect", "builder", "docs", "qa"]
        assert spec.step("qa") == StepSpec(id="qa", kind="qa", needs=("builder", "docs"))

    def test_a_pipeline_of_ones_own_replaces_the_default(self) -> None:
        spec = parse_spec(STEPS, "x.yaml").spec

        assert spec.options == {"temperature": 0.5, "stop": ["a", "b"], "stream": False}
        assert spec.plan().order == ("outline", "draft")
        draft = spec.step("draft")
        assert (draft.kind, draft.needs, draft.provider) == ("prompt", ("outline",), ("anthropic", "ollama"))
        assert (draft.options, draft.timeout_s, draft.retries) == ({"temperature": 1}, 60, 0)
        assert (draft.output, draft.prompt) == ("draft.md", "Write them:\n{{ needs.outline.text }}\n")
        with pytest.raises(KeyError):
            spec.step("architect")

    def test_built_in_kinds_work_behind_an_architect(self) -> None:
        text = (
            f"{HEAD}steps:\n- {{id: plan, kind: architect}}\n- {{id: think, prompt: Hm, needs: [plan]}}\n"
            "- {id: make, kind: builder, needs: [think]}\n- {id: check, kind: qa, needs: [make]}\n"
        )

        assert parse_spec(text, "x.yaml").spec.plan().order == ("plan", "think", "make", "check")

    @pytest.mark.parametrize("text", [HEAD, STEPS])
    def test_a_spec_survives_json(self, text: str) -> None:
        spec = parse_spec(text, "x.yaml").spec

        assert JobSpec.model_validate_json(spec.model_dump_json()) == spec
        assert JobSpec.model_validate(spec.model_dump()) == spec

    def test_a_spec_cannot_be_changed(self) -> None:
        spec = parse_spec(HEAD, "x.yaml").spec

        with pytest.raises(ValidationError, match="frozen"):
            spec.project = "other"  # type: ignore[misc]

    @pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
    def test_every_example_is_valid_and_kept_as_written(self, path: Path) -> None:
        loaded = load_spec(path)

        assert loaded.source == path.read_text(encoding="utf-8")
        assert loaded.spec.project

    def test_whole_numbers_are_numbers_of_seconds_and_dollars_too(self) -> None:
        spec = parse_spec(f"{HEAD}timeout_s: 60\nbudget: {{usd: 1}}\n", "x.yaml").spec

        assert (spec.timeout_s, spec.budget and spec.budget.usd) == (60, 1)


NAME = "write a name of a-z, 0-9, _ and - (ASCII) that begins with a letter, at most 64 characters"
SECONDS = "write a number of seconds above 0, at most 604800 (7 days)"

BROKEN: list[tuple[str, int, str, str]] = [
    # text, line, the start of what is said, its end
    ("project: a b\ntask_description: x", 1, "project: 'a b' is not a valid name", NAME),
    ("project: Notes\ntask_description: x", 1, "project: 'Notes' is not a valid name", NAME),
    ("project: nötes\ntask_description: x", 1, "project: 'nötes' is not a valid name", NAME),
    (f"project: {'n' * 65}\ntask_description: x", 1, f"project: '{'n' * 65}' is not a valid name", NAME),
    ('project: "a\\n"\ntask_description: x', 1, "project: 'a\\n' is not a valid name", NAME),
    ("project: 12\ntask_description: x", 1, "project: 12 is not text", f"{NAME}, in quotes if that is meant"),
    ("project:\ntask_description: x", 1, "project: null is not text", NAME),
    ("\ntask_description: x", 2, "project: is missing", NAME),
    ("project: a", 1, "task_description: is missing", "text that says what to build, at most 100,000 characters"),
    ("project: a\ntask_description: ' '", 2, "task_description: ' ' is blank", "at most 100,000 characters"),
    ("project: a\ntask_description: ''", 2, "task_description: '' is empty", "at most 100,000 characters"),
    (f"project: a\ntask_description: {'x' * 100_001}", 2, "task_description: 'xxxxx", "at most 100,000 characters"),
    (f"{HEAD}concurrency: 5000", 3, "concurrency: 5000 is too large", "write a whole number from 1 to 1000"),
    (f"{HEAD}concurrency: 0", 3, "concurrency: 0 is too small", "write a whole number from 1 to 1000"),
    (f"{HEAD}concurrency: '4'", 3, "concurrency: '4' is not a whole number", "from 1 to 1000, without quotes"),
    (f"{HEAD}concurrency: true", 3, "concurrency: true is not a whole number", "write a whole number from 1 to 1000"),
    (f"{HEAD}concurrency: 4.5", 3, "concurrency: 4.5 is not a whole number", "write a whole number from 1 to 1000"),
    (f"{HEAD}concurrency: {'9' * 100}", 3, "concurrency: 9999", "write a whole number from 1 to 1000"),
    (f"{HEAD}concurency: 4", 3, "unknown key 'concurency'", "did you mean 'concurrency'?"),
    (f"{HEAD}zzz: 4", 3, "unknown key 'zzz'; the known keys are project, task_description,", "prompts_dir, steps"),
    (f"{HEAD}'\\e[31mred': 4".replace("'", '"'), 3, "unknown key '\\x1b[31mred'", "prompts_dir, steps"),
    (f"{HEAD}timeout_s: 0", 3, "timeout_s: 0 is too small", SECONDS),
    (f"{HEAD}timeout_s: 604801", 3, "timeout_s: 604801 is too large", SECONDS),
    (f"{HEAD}timeout_s: 10m", 3, "timeout_s: '10m' is not a number", SECONDS),
    (f"{HEAD}timeout_s: false", 3, "timeout_s: false is not a number", SECONDS),
    (f"{HEAD}timeout_s: .inf", 3, "'.inf' is not a finite number", "write a finite number"),
    (f"{HEAD}repair_rounds: 11", 3, "repair_rounds: 11 is too large", "write a whole number from 0 to 10"),
    (f"{HEAD}provider: olama", 3, "provider: 'olama' is not one of the names allowed here; did you mean 'ollama'?",
     "or a list without auto"),
    (f"{HEAD}provider: [ollama, auto]", 3, "provider[1]: 'auto' is not one of the names allowed here",
     "write scaffold, ollama, openai, anthropic, mlx or simulated"),
    (f"{HEAD}provider:\n  - ollama\n  - ollama", 5, "provider[1]: 'ollama' is listed twice",
     "leave out one of the two"),
    (f"{HEAD}provider: []", 3, "provider: [] is empty", "or a list without auto"),
    (f"{HEAD}provider: {{name: ollama}}", 3, "provider: {'name': 'ollama'} is not one of the names",
     "or a list without auto"),
    (f"{HEAD}model: ''", 3, "model: '' is empty", "write the provider's name of a model, at most 200 characters"),
    (f"{HEAD}model: 4", 3, "model: 4 is not text", "in quotes if that is meant"),
    (f"{HEAD}options: [a]", 3, "options: ['a'] is not a mapping", "such as {temperature: 0.1}"),
    (f"{HEAD}options:\n  a: {{b: 1}}", 4, "options.a: {'b': 1} is not an option's value",
     "write text, a number, true, false, null or a list of those"),
    (f"{HEAD}options:\n  a: [[1]]", 4, "options.a: [[1]] is not an option's value", "a list of those"),
    (HEAD + "options: {" + ", ".join(f"k{i}: 1" for i in range(51)) + "}", 3, "options: {'k0': 1",
     "write a mapping of at most 50 options, such as {temperature: 0.1}"),
    (f"{HEAD}budget: {{}}", 3, "budget: the budget limits nothing", "write tokens, usd or both"),
    (f"{HEAD}budget: 4", 3, "budget: 4 is not a mapping", "such as {tokens: 200000, usd: 2.5}"),
    (f"{HEAD}budget:\n  tokens: 0", 4, "budget.tokens: 0 is too small", "write a whole number from 1 to 1000000000000"),
    (f"{HEAD}budget:\n  usd: -1", 4, "budget.usd: -1 is too small", "write a number above 0, at most 1000000"),
    (f"{HEAD}budget:\n  dollars: 1", 4, "budget: unknown key 'dollars'", "the known keys are tokens, usd"),
    (f"{HEAD}output_dir: ' '", 3, "output_dir: ' ' is blank", "write the path of a folder, at most 4,096 characters"),
    (f"{HEAD}steps: []", 3, "steps: [] is empty", "write a list of at least 1 step and at most 2,000, such as"
     " [{id: draft, prompt: Write it}]"),
    (f"{HEAD}steps:", 3, "steps: null is not a list", "or leave out steps"),
    (f"{HEAD}steps: {{a: 1}}", 3, "steps: {'a': 1} is not a list", "[{id: draft, prompt: Write it}]"),
    (f"{HEAD}steps:\n- draft", 4, "steps[0]: 'draft' is not a mapping", "such as {id: draft, prompt: Write it}"),
    (HEAD + "steps:\n" + "- {id: a, prompt: x}\n" * 2_001, 3, "steps: [{'id': 'a'", "[{id: draft, prompt: Write it}]"),
    (f"{HEAD}steps:\n- prompt: x", 4, "steps[0].id: is missing", NAME),
    (step("    prompt: ''\n"), 7, "steps[1].prompt: '' is empty",
     "write the text of a prompt, at most 100,000 characters"),
    (step("    needs: [first]\n"), 6, "steps[1]: step 'second' has no prompt",
     "write prompt: <text>, or a kind that has one"),
    (step("    kind: qa\n    prompt: x\n"), 8, "steps[1].prompt: a qa step brings its own prompt",
     "remove this one, or write kind: prompt"),
    (step("    kind: biulder\n"), 7, "steps[1].kind: 'biulder' is no kind of step; did you mean 'builder'?"
     " the kinds installed here are architect, builder, docs, qa, prompt", "entry points orch.steps)"),
    (step("    prompt: x\n    promt: y\n"), 8, "steps[1]: unknown key 'promt'", "did you mean 'prompt'?"),
    (step("    prompt: x\n    needs: first\n"), 8, "steps[1].needs: 'first' is not a list",
     "write a list of step ids, each once"),
    (step("    prompt: x\n    needs:\n    - first\n    - first\n"), 10, "steps[1].needs[1]: 'first' is listed twice",
     "leave out one of the two"),
    (step("    prompt: x\n    needs:\n    - frist\n"), 9, "steps[1].needs[0]: step 'second' needs 'frist', which is not"
     " a step", "did you mean 'first'?"),
    (step("    prompt: x\n    needs: [second]\n"), 8, "steps[1].needs[0]: step 'second' needs itself",
     "remove it from its needs"),
    (step("    prompt: x\n  - id: first\n    prompt: y\n"), 8, "steps[2]: two steps are called 'first'",
     "give each an id of its own"),
    (f"{HEAD}steps:\n- {{id: a, prompt: x, needs: [b]}}\n- {{id: b, prompt: x, needs: [a]}}", 4,
     "steps[0]: steps wait for each other in a circle: a → b → a", "remove one of these needs"),
    (step("    kind: builder\n    needs: [first]\n"), 6,
     "steps[1]: builder step 'second' works from an architect's plan",
     "let it need a step of that kind"),
    (step("    prompt: x\n    timeout_s: '60'\n"), 8, "steps[1].timeout_s: '60' is not a number", "without quotes"),
    (step("    prompt: x\n    retries: -1\n"), 8, "steps[1].retries: -1 is too small",
     "write a whole number from 0 to 20"),
    (step("    prompt: x\n    output: ../x\n"), 8, "steps[1].output: '../x' has a . or .. in it",
     "write the path that is meant"),
    (step("    prompt: x\n    output: /etc/passwd\n"), 8, "steps[1].output: '/etc/passwd' is absolute",
     "start at the project's folder"),
    (step("    prompt: x\n    output: a.md\n  - {id: c, prompt: x, output: A.md}\n"), 9,
     "steps[2].output: 'A.md' collides with the output of step 'second'", "give each its own file"),
    (step("    prompt: x\n    output: a/b\n  - {id: c, prompt: x, output: a}\n"), 9,
     "steps[2].output: 'a' collides with the output of step 'second'", "give each its own file"),
    (step("    prompt: '{{ nam }}'\n"), 7, "steps[1].prompt: unknown variable 'nam'", "known: spec, needs"),
    (step("    prompt: |\n      a\n      {{ needs.first.text }}\n"), 9,
     "steps[1].prompt: 'first' is not among the step's needs", "add needs: [first]"),
    (step("    prompt: '{{ spec.budgt }}'\n"), 7, "steps[1].prompt: the spec has no 'budgt'", "did you mean 'budget'?"),
    (step("    prompt: |\n      a\n      b {% if %}\n"), 9, "steps[1].prompt: Expected an expression",
     "got 'end of statement block'"),
    ("project: a\nproject: b\n", 2, "key 'project' is already on line 1", "leave out one of the two"),
    ("project: a\n  b: c\n", 2, "no valid YAML: mapping values are not allowed here", "near 'b: c')"),
    ("project: !!python/name:os.system\n", 1, "tag !!python/name:os.system is not allowed here", "without it"),
]  # fmt: skip


class TestInvalidSpecs:
    @pytest.mark.parametrize(("text", "line", "start", "end"), BROKEN)
    def test_are_refused_with_file_line_value_and_what_would_be_right(
        self, text: str, line: int, start: str, end: str
    ) -> None:
        error = refusal(text)

        assert str(error).startswith(f"x.yaml:{line}: {start}")
        assert str(error).endswith(end)
        assert [problem.line for problem in error.problems] == [line]
        assert error.exit_code == 2
        assert "\n" not in str(error)
        assert len(str(error)) < 400

    def test_two_thousand_steps_are_a_spec_that_is_checked_within_seconds(self) -> None:
        started = time.perf_counter()
        chain = "".join(
            f"  - id: s{i}\n    needs: [s{i - 1}]\n    provider: simulated\n    model: m\n    timeout_s: 60\n"
            f"    prompt: Go on from {{{{ needs.s{i - 1}.text }}}}\n    output: out/{i}.md\n"
            for i in range(1, 2_000)
        )

        spec = parse_spec(f"{HEAD}steps:\n  - {{id: s0, prompt: Begin}}\n{chain}", "x.yaml").spec

        assert len(spec.plan().steps) == 2_000
        assert time.perf_counter() - started < 10

    def test_all_problems_are_named_at_once_in_the_order_of_the_file(self) -> None:
        text = "timeout_s: -1\nproject: A\nsteps:\n- {id: 1, promt: x}\n- {id: b, prompt: x, output: ''}\n"

        assert str(refusal(text)).splitlines() == [
            "x.yaml has 6 problems:",
            "  x.yaml:1: task_description: is missing; write text that says what to build, at most 100,000 characters",
            f"  x.yaml:1: timeout_s: -1 is too small; {SECONDS}",
            f"  x.yaml:2: project: 'A' is not a valid name; {NAME}",
            f"  x.yaml:4: steps[0].id: 1 is not text; {NAME}, in quotes if that is meant",
            "  x.yaml:4: steps[0]: unknown key 'promt'; did you mean 'prompt'?",
            "  x.yaml:5: steps[1].output: '' is empty; name a file, such as src/main.py",
        ]

    def test_of_many_problems_twenty_are_shown(self) -> None:
        error = refusal(HEAD + "".join(f"k{i}: 1\n" for i in range(30)))

        assert len(error.problems) == 30
        assert len(str(error).splitlines()) == 22
        assert str(error).endswith("  … and 10 more")

    def test_every_field_says_what_would_be_right(self) -> None:
        text = "".join(f"{name}: {{a: {{}}}}\n" for name in FIELDS if name != "steps")
        error = refusal(
            f"{text}steps:\n- " + "  ".join(f"{name}: {{a: {{}}}}\n" for name in StepSpec.model_fields)
        )

        named = " ".join(problem.where for problem in error.problems)
        assert all(re.search(rf"\b{name}\b", named) for name in [*FIELDS, *StepSpec.model_fields])
        assert not [problem for problem in error.problems if "another value" in problem.message]

    def test_a_long_value_is_shortened_and_control_characters_are_escaped(self) -> None:
        error = refusal(HEAD + 'model: ["\\e[2J\\u202e' + "y" * 500 + '"]\n')

        assert "\\x1b[2J\\u202e" in str(error)
        assert str(error).isprintable()
        assert len(str(error)) < 250

    def test_control_characters_in_a_files_name_are_escaped(self) -> None:
        with pytest.raises(SpecError) as caught:
            parse_spec("a: 1\nb: 2\n", "x\n\x1b.yaml")

        assert all(line.isprintable() for line in str(caught.value).splitlines())
        assert "x\\n\\x1b.yaml:1" in str(caught.value)

    def test_files_that_cannot_be_read_are_refused_by_name(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        for name, message in {
            "none.yaml": "no such file",
            ".": "is a folder",
            "pipe": "is no regular file",
        }.items():
            with pytest.raises(SpecError) as caught:
                load_spec(tmp_path / name)

            assert str(caught.value).startswith(f"{tmp_path / name}: {message}")

    def test_an_error_survives_pickling(self) -> None:
        error = refusal("a: 1\n")

        again = pickle.loads(pickle.dumps(error))

        assert (str(again), again.problems) == (str(error), error.problems)

    def test_thousands_of_problems_are_named_within_seconds(self) -> None:
        started = time.perf_counter()

        refusal(HEAD + "options: {" + ", ".join(f"k{i}: {{}}" for i in range(4_000)) + "}\n")
        refusal(HEAD + "".join(f"key-number-{i}: 1\n" for i in range(4_000)))

        assert time.perf_counter() - started < 10

    @given(
        st.dictionaries(
            st.sampled_from([*JobSpec.model_fields, "x"]),
            st.recursive(
                st.sampled_from(
                    ["null", "true", "0", "1", "-1", "2.5", "1e300", "a", "'{{ x }}'", "ollama", "''"]
                ),
                lambda value: (
                    st.lists(value, max_size=3).map(lambda items: f"[{', '.join(items)}]")
                    | st.dictionaries(st.sampled_from([*StepSpec.model_fields]), value, max_size=4).map(
                        lambda items: "{" + ", ".join(f"{k}: {v}" for k, v in items.items()) + "}"
                    )
                ),
                max_leaves=8,
            ),
        )
    )
    @settings(max_examples=200, deadline=None)
    def test_any_mapping_is_a_spec_or_one_error_with_lines(self, fields: dict[str, str]) -> None:
        text = "".join(f"{key}: {value}\n" for key, value in fields.items()) or "{}"
        try:
            found: object = parse_spec(text, "x.yaml").spec
        except SpecError as error:
            found = error

        if isinstance(found, SpecError):
            assert found.problems
            assert all(1 <= (problem.line or 0) <= len(fields) + 1 for problem in found.problems)
            assert "another value" not in str(found)
        else:
            assert isinstance(found, JobSpec)
