"""How a body is cut into events: by the rules of EventSource and of JSON lines, wherever its chunks end."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from providers.sse import MAX_DOCUMENT, MAX_LINE, Document, EventStream, Framing, JsonLines, TooLongError


def read(framing: Framing, *chunks: bytes) -> list[tuple[str, str]]:
    events = [tuple(event) for chunk in chunks for event in framing.feed(chunk)]
    return [*events, *(tuple(event) for event in framing.end())]


@pytest.mark.parametrize(
    ("body", "events"),
    [
        (b"data: one\n\ndata: two\n\n", [("", "one"), ("", "two")]),
        (b"data: one\r\n\r\ndata: two\r\n\r\n", [("", "one"), ("", "two")]),
        (b"data: one\r\rdata: two\r\r", [("", "one"), ("", "two")]),
        (b"\xef\xbb\xbfdata: one\n\n", [("", "one")]),
        (b"data:one\n\n", [("", "one")]),
        (b"data:  one\n\n", [("", " one")]),
        (b"data: one\ndata: two\n\n", [("", "one\ntwo")]),
        (b"data\ndata\n\n", [("", "\n")]),
        (b"event: ping\ndata: {}\n\ndata: one\n\n", [("ping", "{}"), ("", "one")]),
        (b"event: lost\n\ndata: one\n\n", [("", "one")]),
        (b": keep-alive\n\n:\nid: 1\nretry: 5\nother: x\ndata: one\n\n", [("", "one")]),
        (b"data: whole\n\ndata: cut off", [("", "whole")]),
        (b"data: whole\n\ndata: cut off\n", [("", "whole")]),
        ("data: a\u2028b\u0085c\x0bd\n\n".encode(), [("", "a\u2028b\u0085c\x0bd")]),
        (b"data: \xff\n\n", [("", "\ufffd")]),
        (b"", []),
    ],
)
def test_events_are_cut_by_the_rules_of_the_standard(body: bytes, events: list[tuple[str, str]]) -> None:
    assert read(EventStream(), body) == events
    assert read(EventStream(), *(bytes([byte]) for byte in body)) == events


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\r\n"))), st.data())
def test_where_chunks_end_makes_no_difference(texts: list[str], data: st.DataObject) -> None:
    ends = data.draw(st.lists(st.sampled_from(["\n", "\r\n", "\r"]), min_size=1))
    body = "".join(f"data: {text}{end}{end}" for text in texts for end in ends).encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=8)))

    pieces = [body[start:end] for start, end in zip([0, *cuts], [*cuts, len(body)], strict=True)]

    assert [text for _, text in read(EventStream(), *pieces)] == [text for text in texts for _ in ends]


def test_json_lines_are_lines_and_the_last_needs_no_end_unless_it_is_cut_off() -> None:
    assert read(JsonLines(), b'{"a": 1}\n\n{"b', b'": 2}') == [("", '{"a": 1}'), ("", '{"b": 2}')]
    assert read(JsonLines(), b'{"a": 1}\r\n{"b": ') == [("", '{"a": 1}')]


def test_a_document_is_whole_at_its_end() -> None:
    assert read(Document(), b'{\n "a":', b" 1}\n") == [("", '{\n "a": 1}\n')]
    assert read(Document(), b" \n") == []


def test_what_does_not_end_is_not_kept() -> None:
    block = b"x" * (MAX_LINE // 2)

    for framing in (EventStream(), JsonLines()):
        with pytest.raises(TooLongError):
            read(framing, b"data: ", block, block, block)
    with pytest.raises(TooLongError):
        read(EventStream(), *[b"data: " + block + b"\n"] * 3)
    with pytest.raises(TooLongError):
        read(Document(), *[block] * (2 * MAX_DOCUMENT // MAX_LINE + 1))
