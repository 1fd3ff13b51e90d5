"""Which paths may be written: the same answer for Linux, macOS and Windows."""

from __future__ import annotations

import os
import pickle
import re
from pathlib import PurePosixPath, PureWindowsPath

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from orchestrator.paths import UnsafePath, case_key, safe_relative


@pytest.mark.parametrize(
    "path",
    [
        "README.md",
        "src/notes_api/__init__.py",
        ".env.example",
        ".gitignore",
        ".github/workflows/ci.yml",
        "docs/user guide (draft) [2] #1 @home +x=y,z;w!.md",
        "-rf",
        "a..b/c...d",
        "console.py",
        "com10.txt",
        "nullable/auxiliary.py",
        "a" * 200,
        "/".join(["d"] * 32),
        "/".join(["a" * 200] * 5) + "/" + "b" * 19,  # 1024 bytes
    ],
)
def test_an_ordinary_path_comes_back_unchanged(path: str) -> None:
    assert str(safe_relative(path)) == path


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("", "is empty"),
        ("/", "is absolute"),
        ("/etc/passwd", "is absolute"),
        ("//server/share/x", "is absolute"),
        ("C:/Windows/x", "is absolute"),
        ("c:x", "is absolute"),
        ("C:\\x", "is absolute"),
        ("\\\\server\\share\\x", "is absolute"),
        ("\\\\?\\C:\\x", "is absolute"),
        ("src\\main.py", "backslash"),
        ("..\\x", "backslash"),
        (".", ". or .."),
        ("..", ". or .."),
        ("../x", ". or .."),
        ("a/../../x", ". or .."),
        ("a/./b", ". or .."),
        ("./a", ". or .."),
        ("a/..", ". or .."),
        ("a//b", "empty name"),
        ("a/", "empty name"),
        ("a\0b", "NUL"),
        ("a\nb", "control character"),
        ("a/\x1b[2Jb", "control character"),
        ("a\x7fb", "control character"),
        ("a.", "dot or a space"),
        ("a./b", "dot or a space"),
        ("a /b", "dot or a space"),
        ("...", "dot or a space"),
        (" ", "dot or a space"),
        ("~/x", "begins with ~"),
        ("~root/x", "begins with ~"),
        ("CON", "device"),
        ("nul.txt", "device"),
        ("src/Aux.tar.gz", "device"),
        ("PRN .txt", "device"),
        ("com1", "device"),
        ("a/LPT9.py/b", "device"),
        ("conin$", "device"),
        ("a:stream", "is absolute"),  # to Windows a drive named "a"
        ("main.py:stream", "Windows refuses"),
        ("a<b", "Windows refuses"),
        ('a"b', "Windows refuses"),
        ("what?.md", "Windows refuses"),
        ("*.py", "Windows refuses"),
        ("a|b", "Windows refuses"),
        (".git/config", "git repository"),
        ("sub/.GIT/hooks/pre-commit", "git repository"),
        ("git~1/config", "git repository"),
        (".orch-tmp-0123456789abcdef", "is ours"),
        ("a/.ORCH-TMP-x", "is ours"),
        ("a" * 201, "name that is too long"),
        ("/".join(["a" * 200] * 6), "is too long"),
        ("/".join(["d"] * 33), "is too deep"),
        ("a/" * 1_000_000, "is too long"),
        ("caf\u00e9.md", "not ASCII"),
        ("cafe\u0301.md", "not ASCII"),  # the same, not in NFC
        ("a\u202egnp.exe", "not ASCII"),  # shows the rest backwards
        ("a\u200bb", "not ASCII"),  # zero width
        ("a\uff0fb", "not ASCII"),  # a / to whom normalises by NFKC
        ("\uff0e\uff0e/x", "not ASCII"),
        ("a\ud800b", "not ASCII"),
    ],
)
def test_a_path_that_could_escape_or_mislead_is_refused_with_the_reason(path: str, why: str) -> None:
    with pytest.raises(UnsafePath, match=re.escape(why)):
        safe_relative(path)


def test_the_message_names_the_path_and_is_one_short_line_of_ascii() -> None:
    with pytest.raises(UnsafePath) as refused:
        safe_relative("src/\u202e\n" + "x" * 5_000 + "/end.py")

    message = str(refused.value)
    assert message.startswith(r"path 'src/\u202e\nxxx")
    assert "x/end.py'" in message
    assert "use letters, digits" in message
    assert message.isascii()
    assert message.isprintable()
    assert len(message) < 250


def test_a_refusal_is_a_value_error_and_crosses_a_process_border() -> None:
    with pytest.raises(ValueError, match="is absolute") as refused:
        safe_relative("/x")

    assert str(pickle.loads(pickle.dumps(refused.value))) == str(refused.value)


_PIECES = st.sampled_from([*"/\\.~:*a \0é", "..", "con", "C:", "//", ".git", "\u202e"])


@settings(deadline=None)
@given(st.one_of(st.text(), st.lists(_PIECES, max_size=12).map("".join)))
@example("a/../b")
def test_whatever_is_accepted_stays_below_its_root_on_every_platform(path: str) -> None:
    try:
        safe = safe_relative(path)
    except UnsafePath:
        return

    assert os.path.normpath(f"/root/{path}") == f"/root/{path}" == str(PurePosixPath("/root") / safe)
    windows = PureWindowsPath("R:/root") / path
    assert windows.parts == ("R:\\", "root", *safe.parts)


@settings(deadline=None)
@given(st.text())
def test_case_key_is_the_same_for_every_spelling(path: str) -> None:
    assert case_key(case_key(path)) == case_key(path)


@pytest.mark.parametrize(
    ("one", "other"),
    [("README.md", "readme.MD"), ("Stra\u00dfe", "STRASSE"), ("\u00e9", "E\u0301"), ("\u017frc", "src")],
)
def test_spellings_that_a_mac_or_windows_disk_takes_for_one_file_have_one_key(one: str, other: str) -> None:
    assert case_key(one) == case_key(other)


def test_different_files_have_different_keys() -> None:
    assert len({case_key(path) for path in ("a/b", "a_b", "ab", "a-b", "a.b")}) == 5
