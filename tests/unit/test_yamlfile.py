from __future__ import annotations

import os
import re
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.yamlfile import MAX_BYTES, Document, YamlError, load, parse


def refusal(text: str) -> YamlError:
    with pytest.raises(YamlError) as caught:
        parse(text)
    return caught.value


class TestValues:
    @pytest.mark.parametrize(
        ("written", "value"),
        [
            *(
                (word, word)
                for word in ["yes", "No", "on", "OFF", "y", "tRue", "2024-05-01", "12:30:00", "1_000"]
            ),
            *((word, None) for word in ["", "~", "null", "Null"]),
            *((word, True) for word in ["true", "True", "TRUE", "!!bool true"]),
            *((word, 12) for word in ["12", "+12", "012", "0o14", "0xC", "!!int '12'"]),
            *((word, 1000.0) for word in ["1000.0", "1e3", "1.e+3", "+1E3"]),
            *((word, "12") for word in ["'12'", '"12"', "!!str 12"]),
            *((word, word) for word in ["1.2.3", "+", ".", "e3", "0b1", "0o8", "<"]),
            ('"\\ud83d\\ude00"', "😀"),
            ("{a: [1, {b: x}], 'c': }", {"a": [1, {"b": "x"}], "c": None}),
        ],
    )
    def test_are_those_of_the_core_schema_of_yaml_1_2(self, written: str, value: object) -> None:
        read = parse(f"key: {written}\n").values["key"]

        assert read == value
        assert type(read) is type(value)

    def test_an_alias_repeats_what_it_stands_for(self) -> None:
        assert parse("a: &x [1, 2]\nb: *x\n").values == {"a": [1, 2], "b": [1, 2]}

    def test_a_byte_order_mark_and_windows_line_ends_are_read_over(self) -> None:
        document = parse("\ufeffa: 1\r\nb: 2\r\n")

        assert document.values == {"a": 1, "b": 2}
        assert document.line_of(("b",)) == 2
        assert document.text == "\ufeffa: 1\r\nb: 2\r\n"

    def test_yes_and_on_are_keys_like_any_other(self) -> None:
        assert parse("on: 1\nyes: 2").values == {"on": 1, "yes": 2}


class TestLines:
    DOCUMENT = """\
# a comment
project: x
list:
  - one
  -
    deep: 1

    block: |
      first
      second
folded: >
  text
"""

    @pytest.fixture
    def document(self) -> Document:
        return parse(self.DOCUMENT)

    @pytest.mark.parametrize(
        ("loc", "line"),
        [
            ((), 2),
            (("project",), 2),
            (("list",), 3),
            (("list", 0), 4),
            (("list", 1), 6),
            (("list", 1, "deep"), 6),
            (("list", 1, "block"), 8),
            (("folded",), 11),
            (("list", 7), 3),
            (("list", 1, "nothing", 3), 6),
            (("nothing",), 2),
        ],
    )
    def test_every_path_has_the_line_of_its_key_or_of_the_nearest_around_it(
        self, document: Document, loc: tuple[str | int, ...], line: int
    ) -> None:
        assert document.line_of(loc) == line

    def test_a_line_within_a_block_is_the_files_line(self, document: Document) -> None:
        assert document.line_within(("list", 1, "block"), 2) == 10
        assert document.line_within(("folded",), 1) == 11

    def test_only_what_editors_end_a_line_at_ends_a_line(self) -> None:
        assert parse('a: "x\u2028\u0085y"\nb: 1\n').line_of(("b",)) == 2

    def test_what_an_alias_repeats_has_its_own_lines(self) -> None:
        document = parse("a: &x\n  k: 1\nb: *x\n")

        assert (document.line_of(("b",)), document.line_of(("b", "k"))) == (3, 2)


class TestRefusals:
    @pytest.mark.parametrize(
        ("text", "line", "message"),
        [
            ("", None, "is empty"),
            ("# only\n\n# comments\n", None, "is empty"),
            ("---\n", None, "is empty"),
            ("- a\n", 1, "the top level is not a mapping"),
            ("\nproject\n", 2, "the top level is not a mapping"),
            ("a: 1\n---\nb: 2\n", 2, "a second document begins"),
            ("a: 1\nb: c: d\n", 2, "mapping values are not allowed here (column 5, near 'b: c: d')"),
            ("a:\n\t- b\n", 2, "indent with spaces, not tabs"),
            ("a: [1, 2\nb: 3\n", 2, "no valid YAML"),
            ("a: 'open\n", 2, "no valid YAML"),
            ("a: 1\nb: 2\na: 3\n", 3, "key 'a' is already on line 1; leave out one of the two"),
            ("s:\n  - k: 1\n    'k': 2\n", 3, "key 'k' is already on line 2"),
            ("a: 1\n2: b\n", 2, "key '2' is not text; put it in quotes"),
            ("true: b\n", 1, "key 'true' is not text"),
            ("?\n: b\n", 1, "key '' is not text"),
            ("? [a]\n: b\n", 1, "a key is a list or a mapping"),
            (
                "a: &x {k: 1}\nb:\n  <<: *x\n",
                3,
                "key '<<' merges, which is not supported; write the keys out",
            ),
            (
                "a: !!python/object/apply:os.system [x]\n",
                1,
                "tag !!python/object/apply:os.system is not allowed",
            ),
            ("a: 1\nb: !custom x\n", 2, "tag !custom is not allowed here; write the value without it"),
            ("a: !!binary aGk=\n", 1, "tag !!binary is not allowed"),
            ("a: !!timestamp 2024-01-01\n", 1, "tag !!timestamp is not allowed"),
            ("a: !!set {b}\n", 1, "tag !!set is not allowed"),
            ("a: !!map [b]\n", 1, "tag !!map is not allowed"),
            ("a: !!str [b]\n", 1, "tag !!str is not allowed"),
            ("a: !!int four\n", 1, "'four' is not a whole number"),
            ("a: !!bool yes\n", 1, "'yes' is not true or false; write true or false"),
            ("a: 1\nb: .inf\n", 2, "'.inf' is not a finite number"),
            ("a: -.INF\n", 1, "'-.INF' is not a finite number"),
            ("a: .nan\n", 1, "'.nan' is not a finite number"),
            ("a: 1e999\n", 1, "'1e999' is not a finite number"),
            (f"a: {'9' * 401}\n", 1, "at most 400 digits"),
            (f"a: {'9' * 5000}\n", 1, "at most 400 digits"),
            ('a: "\\ud800"\n', 1, "text without halves of characters"),
            ("a: 1\nb: \x07\n", 2, "character U+0007 is not allowed in YAML; remove it"),
            ("a: *nothing\n", 1, "found undefined alias 'nothing'"),
            ("a: 1\nb: &x [*x]\n", 2, "an alias stands inside what it repeats"),
            ("a: &x {b: *x}\n", 1, "an alias stands inside what it repeats"),
            ("a:\n " + "[" * 200 + "]" * 200, 2, "nested more than 100 deep"),
            ("a: " + "[" * 100_000, 1, "nested more than 100 deep"),
            ("a:\n" + "- 1\n" * 50_001, 49_999, "more than 50,000 values"),
        ],
    )
    def test_name_the_line_and_what_is_wrong(self, text: str, line: int | None, message: str) -> None:
        error = refusal(text)

        assert message in str(error)
        assert error.line == line

    def test_a_billion_laughs_are_refused_before_they_are_told(self) -> None:
        bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
            f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 10)
        )
        started = time.perf_counter()

        assert "aliases make more than 50,000 values" in str(refusal(bomb))
        assert time.perf_counter() - started < 1

    def test_aliases_of_a_long_text_are_refused_before_it_is_copied(self) -> None:
        text = f"a: &a {'x' * 200_000}\nb: [{', '.join(['*a'] * 2_000)}]\n"

        assert "aliases make more than 1,048,576 characters" in str(refusal(text))

    def test_aliases_do_not_nest_deeper_than_people_write(self) -> None:
        text = "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}]\n" for i in range(1, 1_500))

        assert "aliases nest more than 100 deep" in str(refusal(text))

    @given(st.text(alphabet="ab: -[]{}&*!|>'\"\n#?%@,.0\\~", max_size=60))
    @settings(max_examples=200, deadline=None)
    def test_any_text_is_either_read_or_refused(self, text: str) -> None:
        try:
            read: object = parse(text).values
        except YamlError as error:
            read = error

        if isinstance(read, YamlError):
            assert read.line is None or 1 <= read.line <= text.count("\n") + 1
        else:
            assert isinstance(read, dict)


class TestFiles:
    def refusal(self, path: Path) -> YamlError:
        with pytest.raises(YamlError) as caught:
            load(path)
        return caught.value

    def test_a_file_is_read_as_it_stands(self, tmp_path: Path) -> None:
        file = tmp_path / "a.yaml"
        file.write_bytes("a: käse # ☃\r\n".encode())

        assert load(file).values == {"a": "käse"}
        assert load(file).text == "a: käse # ☃\r\n"

    def test_a_link_to_a_file_is_followed(self, tmp_path: Path) -> None:
        (tmp_path / "a.yaml").write_text("a: 1")
        (tmp_path / "link.yaml").symlink_to("a.yaml")

        assert load(tmp_path / "link.yaml").values == {"a": 1}

    def test_a_missing_file_is_refused(self, tmp_path: Path) -> None:
        assert str(self.refusal(tmp_path / "none.yaml")) == "no such file"
        assert "cannot be opened" in str(self.refusal(tmp_path / ("n" * 300)))
        assert "cannot be opened" in str(self.refusal(Path("a\0b")))

    def test_a_folder_is_refused(self, tmp_path: Path) -> None:
        assert str(self.refusal(tmp_path)) == "is a folder; name a YAML file"

    def test_a_pipe_and_a_device_are_refused_without_waiting(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")

        assert str(self.refusal(tmp_path / "pipe")) == "is no regular file; name a YAML file"
        assert str(self.refusal(Path("/dev/zero"))) == "is no regular file; name a YAML file"

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
    def test_an_unreadable_file_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "a.yaml").write_text("a: 1")
        (tmp_path / "a.yaml").chmod(0)

        assert "cannot be opened: Permission denied" in str(self.refusal(tmp_path / "a.yaml"))

    @pytest.mark.parametrize(
        ("content", "line", "message"),
        [
            (b"a: 1\nb: \xff\n", 2, "byte 0xff is not UTF-8"),
            ("a: 1\n".encode("utf-16"), None, "is a binary file"),
            (b"\x7fELF\0\0", None, "is a binary file"),
            (b"", None, "is empty"),
            (b"#" * (MAX_BYTES + 1), None, "is too large; 1,048,576 bytes is the most"),
        ],
    )
    def test_what_is_no_text_is_refused(
        self, tmp_path: Path, content: bytes, line: int | None, message: str
    ) -> None:
        (tmp_path / "a.yaml").write_bytes(content)

        error = self.refusal(tmp_path / "a.yaml")

        assert re.search(message, str(error))
        assert error.line == line

    def test_a_file_of_exactly_one_mebibyte_is_read_and_a_text_of_one_byte_more_is_not(
        self, tmp_path: Path
    ) -> None:
        text = "a: |\n" + " x\n" * ((MAX_BYTES - 5) // 3)
        text += " " * (MAX_BYTES - len(text))
        (tmp_path / "a.yaml").write_text(text)

        assert load(tmp_path / "a.yaml").values["a"].startswith("x\nx\n")
        assert "is too large" in str(refusal(text + "\n"))
