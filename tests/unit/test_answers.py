"""Reading one file out of a model's answer: exactly one, whole, or not at all."""

from __future__ import annotations

import time
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.answers import only_block, syntax_error


@pytest.mark.parametrize(
    ("answer", "content"),
    [
        ("```\nx\n```", "x\n"),
        ("```python\nx = 1\n```\n", "x = 1\n"),
        ("```python title=app.py\nx = 1\n```", "x = 1\n"),
        ("Here it is:\n\n```py\nx\n```\n\nI hope it helps.", "x\n"),
        ("```\n```", ""),
        ("```\n\n\n```", "\n\n"),
        ("```\n  x\n\ty  \n```", "  x\n\ty  \n"),
        ("```\nx\n```   \t\n", "x\n"),
        ("````markdown\n# A\n\n```sh\nmake\n```\n````", "# A\n\n```sh\nmake\n```\n"),
        ("```\na `b` ``c`` ```d```\n```", "a `b` ``c`` ```d```\n"),
        ("```\n    ```\n```", "    ```\n"),
        ("Use ``` to fence.\n```\nx\n```", "x\n"),
        ("```\nü 你 🙂\n```", "ü 你 🙂\n"),
        ("```\na\u2028b\x0cc\n```", "a\u2028b\x0cc\n"),
    ],
)
def test_the_content_of_the_one_block_is_returned_byte_for_byte(answer: str, content: str) -> None:
    assert only_block(answer) == content


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ("", "none"),
        ("x = 1", "none"),
        ("```python\nx = 1\n", "none"),
        ("```python\nx = 1", "none"),
        ("x = 1\n```", "none"),
        ("```x = 1```", "none"),
        ("```\na\n```\n```\nb\n```", "2"),
        ("```\na\n```\n\n````\nb\n````", "2"),
        ("```\n" * 6, "3"),
        ("~~~\nx\n~~~", "none"),
    ],
)
def test_no_block_or_more_than_one_is_refused_with_their_number(answer: str, found: str) -> None:
    with pytest.raises(ValueError, match=f"found {found}"):
        only_block(answer)


def test_shorter_fences_do_not_count_where_a_longer_one_is_asked_for() -> None:
    readme = "````markdown\n# A\n```sh\nmake\n```\n````"

    assert only_block(readme, fence=4) == "# A\n```sh\nmake\n```\n"
    assert only_block(f"```sh\nls\n```\n\n{readme}", fence=4) == "# A\n```sh\nmake\n```\n"
    with pytest.raises(ValueError, match="found none"):
        only_block("```markdown\n# A\n```", fence=4)


@pytest.mark.parametrize(
    "answer",
    [
        "```python\ntext = '''\n```\n'''\n```",
        "```markdown\n# A\n\n```sh\nmake\n```",
        "```\nfirst half\n```\nand the rest\n```",
    ],
    ids=["a fence in the content", "a block that was not closed", "a fence too many"],
)
def test_a_fence_that_stays_unpaired_is_refused_since_half_a_file_is_never_used(answer: str) -> None:
    with pytest.raises(ValueError, match="fence"):
        only_block(answer)


def test_a_model_that_ends_its_lines_like_windows_is_understood() -> None:
    assert only_block("Here:\r\n```python\r\nx = 1\r\n```\r\n").splitlines() == ["x = 1"]


def test_a_closing_fence_may_be_longer_than_the_opening_one() -> None:
    # https://spec.commonmark.org/0.31.2/#fenced-code-blocks
    assert only_block("```\nx\n`````\n") == "x\n"


@settings(max_examples=200, deadline=None)
@given(
    content=st.text(alphabet="ab`~\n #", max_size=40),
    before=st.text(alphabet="ab \n", max_size=10),
    after=st.text(alphabet="ab \n", max_size=10),
)
def test_any_content_in_a_fence_longer_than_its_own_comes_back(content: str, before: str, after: str) -> None:
    fence = "`" * (3 + content.count("`"))
    body = content if not content or content.endswith("\n") else content + "\n"

    assert only_block(f"{before}\n{fence}text\n{body}{fence}\n{after}", fence=len(fence)) == body


def test_an_answer_full_of_open_fences_takes_no_more_than_its_length() -> None:
    # A worker's heartbeat stands still while an expression is matched, so a long answer must not cost its square.
    def seconds(lines: int) -> float:
        answer = "".join(f"```a{number}\n" for number in range(lines))
        best = float("inf")
        for _ in range(3):
            start = time.process_time()
            with pytest.raises(ValueError, match="fence"):
                only_block(answer)
            best = min(best, time.process_time() - start)
        return best

    # eight times the text: eight times the time, or 64 times
    assert seconds(4000) < 24 * seconds(500) + 0.01


# --- syntax -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("a.py", ""),
        ("a.py", "x = 1\n"),
        ("a.py", "x = '\\d'\n"),  # only a warning
        ("a.py", "# ü\n"),
        ("a.txt", "def ("),
        ("a.json", "{"),
        ("py", "def ("),
    ],
)
def test_what_its_language_can_read_has_no_error(path: str, content: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert syntax_error(path, content) is None


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("x = 1\ndef f(:\n", "a.py line 2"),
        ("if x:\nprint()\n", "a.py line 2"),
        ("x = 1\n\n\ny = '", "a.py line 4"),
        ("x = 1\0", "a.py"),
        ("x = '\ud800'\n", "a.py"),
        ("(" * 10_000, "a.py"),
        ("-" * 200_000 + "1", "a.py"),
        ("print 'python 2'\n", "a.py line 1"),
    ],
    ids=["def", "indent", "quote", "nul", "surrogate", "brackets", "deep", "python 2"],
)
def test_what_it_cannot_read_is_said_with_file_and_line(content: str, said: str) -> None:
    error = syntax_error("a.py", content)

    assert error is not None
    assert error.startswith(said)
    assert len(error) < 300
