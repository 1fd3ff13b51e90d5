from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.templates import PromptError, check_prompt, compile_prompt, render_prompt

FIELDS = ["project", "task_description", "options"]
SPEC: dict[str, Any] = {"project": "notes", "task_description": "A <b>", "options": {"temperature": 0.5}}
NEEDS: dict[str, dict[str, Any]] = {
    "outline": {"text": "One\nTwo", "files": ["a.md", "b.md"], "data": {"count": 2}},
    "my-step": {"text": "mine", "files": [], "data": {}},
    "items": {"text": "things", "files": [], "data": {}},
}


def found(source: str) -> list[tuple[int, str]]:
    return [(problem.line, problem.message) for problem in check_prompt(source, [*NEEDS], FIELDS)]


class TestRendering:
    @pytest.mark.parametrize(
        ("source", "text"),
        [
            ("plain\n", "plain\n"),
            ("{{ spec.task_description }} & {{ spec['project'] }}", "A <b> & notes"),
            ("{{ needs.outline.text }}", "One\nTwo"),
            ("{{ needs['my-step'].text }}", "mine"),
            ("{{ needs.items.text }}", "things"),
            ("{{ spec.options.temperature }}", "0.5"),
            ("{{ needs.outline.data.count + 1 }}", "3"),
            ("{% for id in needs %}{{ id }}={{ needs[id].text | upper | replace('\n', ' ') }};{% endfor %}",
             "outline=ONE TWO;my-step=MINE;items=THINGS;"),
            ("{% for f in needs.outline.files %}{{ loop.index }}/{{ loop.length }}:{{ f }} {% endfor %}",
             "1/2:a.md 2/2:b.md "),
            ("{% for k, v in spec.options.items() %}{{ k }}={{ v }}{% endfor %}", "temperature=0.5"),
            ("{% if spec.options.seed is defined %}x{% else %}y{% endif %}", "y"),
            ("{% set a = 'x' ~ 1 %}{% with b = a * 2 %}{{ b }}{% endwith %}", "x1x1"),
            ("{{ needs.outline.files | join(', ') }}", "a.md, b.md"),
            ("{{ needs.outline.text.splitlines() | map('lower') | list | tojson }}", '["one", "two"]'),
            ("{{ spec.task_description | tojson }}", '"A <b>"'),
            ("{{ 'a\nb' | indent(2) }}", "a\n  b"),
            ("{{ range(3) | list }} {{ 7 % 4 }} {{ 2 ** 10 }}", "[0, 1, 2] 3 1024"),
            ("{% raw %}{{ x }}{% endraw %}{# said to nobody #}", "{{ x }}"),
        ],
    )  # fmt: skip
    def test_a_sound_template_is_filled_in(self, source: str, text: str) -> None:
        assert found(source) == []
        assert render_prompt(source, SPEC, NEEDS) == text

    def test_a_template_cannot_change_what_it_is_given(self) -> None:
        with pytest.raises(PromptError, match="attribute 'append' of 'list' object is unsafe"):
            render_prompt("{{ needs.outline.files.append('x') }}", SPEC, NEEDS)

    @pytest.mark.parametrize(
        ("source", "line", "message"),
        [
            ("a\n{{ spec.options.seed }}", 2, "'dict object' has no attribute 'seed'"),
            ("\n\n{{ needs.gone.text }}", 3, "'dict object' has no attribute 'gone'"),
            ("{{ 1 / 0 }}", 1, "division by zero"),
            ("{{ spec.project + 1 }}", 1, "can only concatenate str"),
            ("{{ needs.outline.text.upper }}", 1, "upper is to be called; write () after it"),
            ("{% if %}", 1, "Expected an expression"),
        ],
    )
    def test_what_cannot_be_rendered_is_named_with_its_line(
        self, source: str, line: int, message: str
    ) -> None:
        with pytest.raises(PromptError) as caught:
            render_prompt(source, SPEC, NEEDS)

        assert caught.value.line == line
        assert message in str(caught.value)
        assert str(caught.value).startswith(f"line {line} of the prompt: ")

    def test_the_text_that_comes_out_has_a_limit(self) -> None:
        template = "{% for i in range(10) %}0123456789{% endfor %}"

        assert len(render_prompt(template, {}, {}, max_chars=100)) == 100
        with pytest.raises(PromptError, match="longer than 99 characters"):
            render_prompt(template, {}, {}, max_chars=99)


class TestChecking:
    @pytest.mark.parametrize(
        ("source", "problems"),
        [
            ("{{ name }}", [(1, "unknown variable 'name'; known: spec, needs")]),
            ("{{ loop.index }}", [(1, "unknown variable 'loop'; known: spec, needs")]),
            ("{{ self }}", [(1, "unknown variable 'self'; known: spec, needs")]),
            ("{{ namespace() }}", [(1, "unknown variable 'namespace'; known: spec, needs")]),
            ("{% if false %}{{ x }}{% endif %}", [(1, "unknown variable 'x'; known: spec, needs")]),
            ("{{ needs.outlin.text }}",
             [(1, "'outlin' is not among the step's needs; declared: outline, my-step, items")]),
            ("\n{{ needs['draft'] }}",
             [(2, "'draft' is not among the step's needs; declared: outline, my-step, items")]),
            ("{{ needs.outline.txt }}", [(1, "'outline' has no 'txt'; did you mean 'text'?")]),
            ("{{ needs['outline']['words'] }}", [(1, "'outline' has no 'words'; known: text, files, data")]),
            ("{{ spec.projct }}", [(1, "the spec has no 'projct'; did you mean 'project'?")]),
            ("{{ spec['xyz'] }}", [(1, "the spec has no 'xyz'; known: project, task_description, options")]),
            ("{{ spec.__class__ }}",
             [(1, "the spec has no '__class__'; known: project, task_description, options")]),
            ("{% set needs = 1 %}", [(1, "'needs' is given; choose another name for a variable")]),
            ("{% for spec in needs %}{% endfor %}",
             [(1, "'spec' is given; choose another name for a variable")]),
            ("{{ spec.project | uper }}", [(1, "unknown filter 'uper'; did you mean 'upper'?")]),
            ("{{ spec.project is strng }}", [(1, "unknown test 'strng'; did you mean 'string'?")]),
            ("a\n{% macro m() %}{% endmacro %}",
             [(2, "a prompt has no macro; use {{ … }}, if, for, set and with")]),
            ("{% include 'x' %}", [(1, "a prompt has no include; use {{ … }}, if, for, set and with")]),
            ("{% set x %}y{% endset %}",
             [(1, "a prompt has no set … endset; use {{ … }}, if, for, set and with")]),
            ("{% for x in needs recursive %}{% endfor %}",
             [(1, "a prompt has no recursive for; use {{ … }}, if, for, set and with")]),
            ("a\n{{ spec.project", [(2, "unexpected end of template, expected 'end of print statement'.")]),
            ("{{ a }}\n{{ b }}\n{{ a }}{{ a }}",
             [(n, f"unknown variable '{v}'; known: spec, needs") for n, v in ((1, "a"), (2, "b"), (3, "a"))]),
        ],
    )  # fmt: skip
    def test_every_problem_has_its_line_and_what_would_be_right(
        self, source: str, problems: list[tuple[int, str]]
    ) -> None:
        assert found(source) == problems

    def test_an_id_with_a_hyphen_is_to_be_written_in_brackets(self) -> None:
        assert (
            1,
            "'my' is not among the step's needs; write needs['my-step'], for a dot ends at the hyphen",
        ) in (found("{{ needs.my-step.text }}"))

    def test_a_step_that_needs_nothing_is_told_to_declare_it(self) -> None:
        (problem,) = check_prompt("{{ needs.outline.text }}", [], FIELDS)

        assert problem.message == "'outline' is not among the step's needs; add needs: [outline]"

    @pytest.mark.parametrize(
        "source",
        [
            "{{ " + "(" * 5_000 + "1" + ")" * 5_000 + " }}",
            "{{ 1" + " + 1" * 5_000 + " }}",
            "{% if 1 %}" * 200 + "{% endif %}" * 200,
            "{% for x in [1] %}" * 25 + "{% endfor %}" * 25,
            "{{ " + "not " * 5_000 + "1 }}",
        ],
    )
    def test_a_template_of_great_depth_is_a_problem_and_no_crash(self, source: str) -> None:
        assert [message for _, message in found(source)] == [
            "the template is nested too deeply; write it flatter"
        ]
        with pytest.raises(PromptError, match="nested too deeply"):
            compile_prompt(source)

    def test_a_number_too_long_to_read_is_a_problem(self) -> None:
        assert found("{{ " + "9" * 5_000 + " }}") == [
            (1, "a number has more digits than can be read; write it shorter")
        ]

    @given(st.text(alphabet="{}%# specnd.[]()'|~*+if for\nx1", max_size=50))
    @settings(max_examples=200, deadline=None)
    def test_any_text_is_checked_and_rendered_or_refused(self, source: str) -> None:
        problems = check_prompt(source, [*NEEDS], FIELDS)

        assert all(1 <= problem.line <= source.count("\n") + 1 for problem in problems)
        try:
            assert isinstance(render_prompt(source, SPEC, NEEDS), str)
        except PromptError as error:
            assert str(error)  # noqa: PT017 - either outcome is right


def doubled(how: str) -> str:
    return "{% set a0 = ['x'] %}" + "".join(
        f"{{% set a{i + 1} = {how.replace('$', f'a{i}')} %}}" for i in range(60)
    )


class TestBounds:
    OURS = "too much work|grows too large|cannot be called|works on numbers|Range too big|longer than"

    @pytest.mark.parametrize(
        "source",
        [
            "{{ 'a' * 10**10 }}",
            "{{ 10**10 * 'a' }}",
            "{{ [0] * 10**9 }}",
            "{{ [needs.outline.text * 1000] * 10000 }}",
            "{{ 10**99999999 }}",
            "{{ (10**1000) * (10**1000) }}",
            "{{ '%99999999999d' % 1 }}",
            "{{ '{:999999999}'.format(1) }}",
            "{{ 'a'.ljust(999999999) }}",
            "{{ 'a'.zfill(999999999) }}",
            "{{ 'a'.replace('a', 'b') }}",
            "{{ 'a\n' | indent(999999999) }}",
            "{{ 'a\n' | indent(width=999999999) }}",
            "{{ range(99999) | join('x' * 999999) }}",
            "{{ range(99999) | map('string') | join(d='x' * 999999) }}",
            "{{ needs.big.text | replace('x', needs.big.text) }}",
            "{{ needs.big.text | replace(old='x', new=needs.big.text) }}",
            "{{ needs.big.text | replace('', needs.big.text) }}",
            "{% for i in range(10**9) %}x{% endfor %}",
            "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
            "{% set r = range(9999) | list %}{% for i in r %}{% for j in r %}{% endfor %}{% endfor %}",
            "{% for i in range(9999) %}{{ range(9999) | list | length }}{% endfor %}",
            "{% for i in range(99999) %}{{ needs.big.text | length }}{% endfor %}",
            "{% for i in range(99999) %}{% set x = needs.big.text.upper() %}{% endfor %}",
            doubled("[$, $]") + "{{ a60 == 1 }}",
            doubled("{1: $, 2: $}"),
            doubled("$ + $"),
            doubled("$ ~ $"),
            "{{ [" + "needs.big.text, " * 5_000 + "] }}",
            "{{ needs.big.text }}" * 3,
        ],
    )  # fmt: skip
    def test_what_would_eat_the_machine_is_refused_in_time(self, source: str) -> None:
        needs = {**NEEDS, "big": {"text": "x" * 500_000, "files": [], "data": {}}}
        started = time.perf_counter()

        with pytest.raises(PromptError, match=self.OURS):  # and not MemoryError, which would come too late
            render_prompt(source, SPEC, needs)

        assert time.perf_counter() - started < 10

    @pytest.mark.parametrize(
        "source",
        [
            "{{ ''.__class__.__mro__ }}",
            "{{ spec.__init__.__globals__ }}",
            "{{ needs.outline.text.upper.__self__ }}",
            "{{ ''['__class__'] }}",
            "{{ [''] | map(attribute='__class__') | list }}",
            "{{ range.__globals__ }}",
            "{{ ''.format.__globals__ }}",
            "{{ (1).bit_length() }}",
            "{{ spec.update({}) }}",
        ],
    )
    def test_no_template_reaches_python(self, source: str) -> None:
        with pytest.raises(PromptError):
            render_prompt(source, SPEC, NEEDS)

    def test_checking_computes_nothing(self) -> None:
        started = time.perf_counter()

        check_prompt(
            "{{ 'a' * 10**10 }}{{ 'a' | indent(999999999) }}{{ range(99999) | join('x' * 99999) }}", [], []
        )

        assert time.perf_counter() - started < 1

    def test_ordinary_work_is_well_within_the_allowance(self) -> None:
        needs = {"a": {"text": "line\n" * 100_000, "files": [f"f{i}" for i in range(2_000)], "data": {}}}
        source = (
            "{{ needs.a.text | trim }}{% for f in needs.a.files %}- {{ f }}: {{ loop.index }}\n{% endfor %}"
        )

        assert check_prompt(source, ["a"], []) == []
        assert len(render_prompt(source, {}, needs)) > 500_000
