"""Evidence is the same however often a program says it, and short."""

from __future__ import annotations

import pytest

from tasks.evidence import MOST, capped, files_named, normalised


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("7 passed in 0.12s", "7 passed in … s"),
        ("3 failed, 1 passed in 61.02s (0:01:01)", "3 failed, 1 passed in … s"),
        ("<object object at 0x7f54e80a2c00>", "<object object at 0x…>"),
        ("open('/tmp/pytest-of-nobody/pytest-12/test_x0/a.db')", "open('/tmp/pytest/test_x0/a.db')"),
        ("/tmp/tmpab12cd3_/x", "/tmp/…/x"),
        ("at 2026-11-20T09:05:36.123Z and 09:05:36", "at <time> and <time>"),
        ("id 123e4567-e89b-12d3-a456-426614174000", "id <uuid>"),
        ("http://127.0.0.1:43211/notes", "http://127.0.0.1:…/notes"),
        ("\x1b[31mred\x1b[0m \x07", "red \ufffd"),
        ('File "/project/app/main.py", line 3', 'File "app/main.py", line 3'),
        ('File "/venv/lib/python3.11/site-packages/x.py"', 'File "<venv>/lib/python3.11/site-packages/x.py"'),
        ("größe 📚 3 notes", "größe 📚 3 notes"),
        ("assert 201 == 200", "assert 201 == 200"),
    ],
)
def test_what_varies_is_taken_out_and_nothing_else(said: str, kept: str) -> None:
    assert normalised(said) == kept


def test_long_evidence_keeps_its_head_and_its_tail() -> None:
    text = "begin" + "x" * 3 * MOST + "end"

    kept = capped(text)

    assert len(kept) <= MOST
    assert kept.startswith("begin")
    assert kept.endswith("end")
    assert "the middle is left out" in kept
    assert capped("short") == "short"


def test_the_projects_files_are_named_once_in_order() -> None:
    text = 'app/main.py:23: in x\n  File "app/db.py", line 1\nFAILED tests/test_a.py::test_b - app/main.py\nother.py'

    assert files_named(text, {"app/main.py", "app/db.py", "tests/test_a.py"}) == (
        "app/main.py",
        "app/db.py",
        "tests/test_a.py",
    )
