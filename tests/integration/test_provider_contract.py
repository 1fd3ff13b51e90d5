"""What every HTTP provider makes of a good answer, however it is cut into pieces, and what it sends to get one."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from typing import Any

import pytest

from providers import Request, Tool, Usage
from providers.base import arguments, ask, whole
from providers.config import Config
from providers.errors import InvalidAnswer, ProviderError, Refused, TruncatedAnswer
from tests.wire.server import Answer, Asked, Script, Serve, Wire, in_turn, raw
from tests.wire.vendor import ANSWERED, MESSAGES, MODEL, PROMPT, REQUEST_ID, SYSTEM, Vendor, outcome
from tests.wire.vendors import only

pytest_plugins = ["tests.wire.fixtures"]
pytestmark = pytest.mark.integration

DELTAS = ("Grüße, ", "世界! ", "", "👩‍👩‍👧 e\u0301", "\n```py\nx = 1\n```\n", "data: [DONE]\n\nevent: x\n")
"""Two to four bytes a character, a joined emoji, a combining accent, and text that looks like the frame around it."""

UNUSUAL = ("a\u2028b\u2029c\u0085d", "\ufeff", "\u000b\u000c\u001c\t\u0000", "\\u0041", "\r\n\r", "\u202eסוף")
"""What Python, but no vendor, takes for line ends; a byte order mark; escapes; text from right to left."""

TOOL = Tool(
    "write_plan",
    "Writes the plan.",
    {
        "type": "object",
        "properties": {"title": {"type": "string"}, "files": {"type": "array", "items": {"type": "string"}}},
        "required": ["title", "files"],
        "additionalProperties": False,
    },
)
PLAN = {"title": "Größe 📐", "files": ["a.py", "b/c.py"]}


def calls(vendor: Vendor, *fragments: str) -> Script:
    """Answer with a tool's arguments in the way that the request asks for."""

    def script(asked: Asked, wire: Wire) -> None:
        vendor.arguments(asked, TOOL.name, *fragments)(asked, wire)

    return script


def test_a_streamed_answer_becomes_a_completion(vendor: Vendor, serve: Serve) -> None:
    server = serve(vendor.text("Hel", "lo", "!"))

    completion = vendor.ask(vendor.provider(server.url))

    assert completion.text == "Hello!"
    assert completion.usage == vendor.usage
    assert completion.finish_reason == "stop"
    assert completion.model == ANSWERED
    assert completion.request_id == (REQUEST_ID if vendor.request_id else None)


def test_the_request_is_what_the_vendor_documents(vendor: Vendor, serve: Serve) -> None:
    server = serve(vendor.text("Hello"))
    provider = vendor.provider(server.url)

    vendor.ask(provider)

    (asked,) = server.asked
    question = vendor.read(asked)
    assert (asked.method, asked.path) == ("POST", vendor.path)
    assert asked.headers["content-type"] == "application/json"
    assert asked.headers["host"] == f"127.0.0.1:{server.port}"
    assert vendor.credentials.items() <= asked.headers.items()
    assert question.model == MODEL
    assert question.system == SYSTEM
    assert [(turn["role"], turn["content"]) for turn in question.turns] == [("user", PROMPT)]
    assert question.max_tokens == Config().catalog.max_tokens(provider.name)
    assert question.stream is True
    assert question.sampling == {}


def test_nothing_of_our_own_options_reaches_the_vendor(vendor: Vendor, serve: Serve) -> None:
    server = serve(vendor.text("Hello"))

    vendor.ask(vendor.provider(server.url), timeout_s=5)

    assert not {"api", "timeout_s"} & server.asked[0].json().keys()


def test_sampling_and_length_are_sent_when_they_are_asked_for(vendor: Vendor, serve: Serve) -> None:
    server = serve(vendor.text("Hello"))

    vendor.ask(vendor.provider(server.url), temperature=0.25, top_p=0.5, max_tokens=77)

    question = vendor.read(server.asked[0])
    assert question.sampling == {"temperature": 0.25, "top_p": 0.5}
    assert question.max_tokens == 77


def test_a_whole_conversation_keeps_its_order_and_its_unicode(vendor: Vendor, serve: Serve) -> None:
    server = serve(vendor.text("Hello"))
    turns = [
        {"role": role, "content": text + " ".join(DELTAS + UNUSUAL)}
        for role, text in [("user", "1"), ("assistant", "2"), ("user", "3")]
    ]

    vendor.provider(server.url).complete(Request([MESSAGES[0], *turns], options=vendor.options))  # type: ignore[list-item]

    question = vendor.read(server.asked[0])
    assert question.system == SYSTEM
    assert [{"role": turn["role"], "content": turn["content"]} for turn in question.turns] == turns


@pytest.mark.parametrize("framing", ["chunked", "close", "length"])
@pytest.mark.parametrize("piece", [1, 2, 3, 7, None])
@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"], ids=["lf", "crlf"])
def test_the_cuts_between_pieces_make_no_difference(
    vendor: Vendor, serve: Serve, framing: Any, piece: int | None, line_end: bytes
) -> None:
    answer = vendor.text(*DELTAS)
    body = answer.body.replace(b"\n", line_end)
    server = serve(replace(answer, body=body, framing=framing, piece=piece))

    completion = vendor.ask(vendor.provider(server.url))

    assert completion.text == "".join(DELTAS)
    assert completion.usage == vendor.usage


@pytest.mark.parametrize("piece", [1, None])
def test_characters_that_python_takes_for_line_ends_are_text(
    vendor: Vendor, serve: Serve, piece: int | None
) -> None:
    server = serve(replace(vendor.text(*UNUSUAL), piece=piece))

    assert vendor.ask(vendor.provider(server.url)).text == "".join(UNUSUAL)


def test_a_character_that_is_escaped_in_two_halves_is_one_or_an_error(vendor: Vendor, serve: Serve) -> None:
    halves = [json.dumps(event) for event in vendor.opening("\ud83d", "\ude00")]
    server = serve(vendor.stream([*halves, *vendor.closing(text="😀")]))

    got = outcome(lambda: vendor.ask(vendor.provider(server.url)))

    assert isinstance(got, ProviderError) or got.text.encode()


def test_comments_pings_and_blank_lines_are_no_part_of_the_answer(vendor: Vendor, serve: Serve) -> None:
    ignored = (
        b"\n\n" if vendor.name == "ollama" else b": ping\n\n:\n\nid: 7\nretry: 3000\n\nevent: ping\n\n\n"
    )
    frames = [
        vendor.encode([event]) for event in (*vendor.opening("Hel", "lo"), *vendor.closing(text="Hello"))
    ]
    server = serve(replace(vendor.text(), body=ignored + ignored.join(frames) + ignored, piece=5))

    assert vendor.ask(vendor.provider(server.url)).text == "Hello"


@only("openai-chat", "openai-responses", "anthropic")
def test_an_event_may_have_no_blank_after_its_colon_and_two_lines_of_data(
    vendor: Vendor, serve: Serve
) -> None:
    answer = vendor.text("Hel", "lo")
    body = answer.body.replace(b"data: {", b"data:{\ndata: ").replace(b"event: ", b"event:")
    server = serve(replace(answer, body=body))

    assert vendor.ask(vendor.provider(server.url)).text == "Hello"


@only("openai-responses", "anthropic")
def test_events_of_a_kind_that_nobody_knows_yet_are_passed_over(vendor: Vendor, serve: Serve) -> None:
    new = {"type": "response.something_new", "sequence_number": 9, "delta": "not text", "index": 0}
    server = serve(vendor.stream([new, *vendor.opening("Hello"), new, *vendor.closing(text="Hello")]))

    assert vendor.ask(vendor.provider(server.url)).text == "Hello"


def test_a_server_that_does_not_stream_is_understood(vendor: Vendor, serve: Serve) -> None:
    body = json.dumps(vendor.plain("Grüße"), indent=None if vendor.name == "ollama" else 1).encode()
    server = serve(Answer(body, piece=9, headers={vendor.request_id or "x-none": REQUEST_ID}))

    completion = vendor.ask(vendor.provider(server.url))

    assert (completion.text, completion.usage, completion.model) == ("Grüße", vendor.usage, ANSWERED)
    assert completion.finish_reason == "stop"


def test_a_compressed_answer_is_unpacked_where_it_was_asked_for(vendor: Vendor, serve: Serve) -> None:
    plain = vendor.text("Grüße")
    packed = replace(plain, body=gzip.compress(plain.body), headers={"Content-Encoding": "gzip"}, piece=11)

    def script(asked: Asked, wire: Wire) -> None:
        (packed if "gzip" in asked.headers.get("accept-encoding", "") else plain)(asked, wire)

    assert vendor.ask(vendor.provider(serve(script).url)).text == "Grüße"


@pytest.mark.parametrize(
    "before", [b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"]
)
def test_interim_responses_are_passed_over(vendor: Vendor, serve: Serve, before: bytes) -> None:
    answer = replace(vendor.text("Hello"), framing="close")
    server = serve(raw(before + answer.head() + answer.body))

    assert vendor.ask(vendor.provider(server.url)).text == "Hello"


def test_an_old_server_without_chunks_is_understood(vendor: Vendor, serve: Serve) -> None:
    answer = vendor.text("Hello")
    head = f"HTTP/1.0 200 OK\r\ncontent-type: {answer.content_type}; charset=utf-8\r\n\r\n".encode()
    server = serve(raw(head + answer.body))

    assert vendor.ask(vendor.provider(server.url)).text == "Hello"


def test_an_empty_answer_is_an_answer(vendor: Vendor, serve: Serve) -> None:
    server = serve(vendor.text(finish="stop"))

    completion = vendor.ask(vendor.provider(server.url))

    assert (completion.text, completion.finish_reason) == ("", "stop")


@only("openai-chat", "openai-responses")
def test_the_longest_answer_of_todays_models_is_read_whole(vendor: Vendor, serve: Serve) -> None:
    tokens = 128_000
    first, last = vendor.opening()[-1], vendor.opening("word ")[-1]
    many = vendor.encode([last]) * tokens
    answer = vendor.stream([*vendor.opening(), *vendor.closing(text="word " * tokens)])
    frame = vendor.encode([first])
    server = serve(replace(answer, body=answer.body.replace(frame, frame + many, 1)))

    assert vendor.ask(vendor.provider(server.url)).text == "word " * tokens


def test_an_answer_at_the_token_limit_is_never_taken_for_a_whole_one(vendor: Vendor, serve: Serve) -> None:
    server = serve(vendor.text("def half(", finish="length"))

    completion = vendor.ask(vendor.provider(server.url))

    assert completion.finish_reason == "length"
    assert completion.usage == vendor.usage
    with pytest.raises(TruncatedAnswer):
        whole(completion)


def test_a_refusal_is_told_as_one(vendor: Vendor, serve: Serve) -> None:
    for events in vendor.refusing():
        server = serve(vendor.stream(events))

        completion = vendor.ask(vendor.provider(server.url))

        assert completion.finish_reason == "refusal"
        with pytest.raises(Refused):
            whole(completion)


def test_usage_that_is_not_told_is_not_made_up(vendor: Vendor, serve: Serve) -> None:
    server = serve(vendor.stream([*vendor.opening("Hello"), *without_usage(vendor.closing(text="Hello"))]))

    completion = vendor.ask(vendor.provider(server.url))

    assert completion.text == "Hello"
    if vendor.name != "anthropic":  # it tells the prompt's share at the start
        assert completion.usage == Usage(None, None)


def without_usage(value: Any) -> Any:
    if isinstance(value, list):
        return [without_usage(item) for item in value]
    if isinstance(value, dict):
        told = ("usage", "eval_count", "prompt_eval_count")
        return {name: without_usage(item) for name, item in value.items() if name not in told}
    return value


def test_a_tool_is_described_and_the_model_is_told_to_use_it(vendor: Vendor, serve: Serve) -> None:
    server = serve(calls(vendor, json.dumps(PLAN)))

    vendor.ask(vendor.provider(server.url), tool=TOOL)

    body = server.asked[0].json()
    assert json.dumps(dict(TOOL.schema)) in json.dumps(body)
    if not vendor.structured(server.asked[0]):
        forced = body["tool_choice"] not in ("auto", "none") and body["tool_choice"] != {"type": "auto"}
        assert forced or TOOL.name in json.dumps(body["system"])


@pytest.mark.parametrize("size", [1, 2, 5, 1000])
def test_fragments_of_a_tools_arguments_become_one_object(vendor: Vendor, serve: Serve, size: int) -> None:
    text = json.dumps(PLAN, ensure_ascii=False)
    fragments = [text[start : start + size] for start in range(0, len(text), size)]
    server = serve(calls(vendor, *fragments))

    completion = vendor.ask(vendor.provider(server.url), tool=TOOL)

    assert json.loads(completion.text) == PLAN
    assert completion.finish_reason in ("tool", "stop")
    assert whole(completion).usage == vendor.usage


def test_arguments_that_do_not_fit_are_asked_for_once_more_with_the_reason(
    vendor: Vendor, serve: Serve
) -> None:
    server = serve(in_turn(calls(vendor, '{"title": 5, "files": []}'), calls(vendor, json.dumps(PLAN))))
    provider = vendor.provider(server.url)

    assert provider.tool_call(MESSAGES, TOOL, **vendor.options) == PLAN

    first, second = (vendor.read(asked).turns for asked in server.asked)
    assert [turn["role"] for turn in second] == ["user", "assistant", "user"]
    assert second[: len(first)] == first
    assert json.loads(second[1]["content"]) == {"title": 5, "files": []}
    assert "title does not fit type" in second[2]["content"]


@pytest.mark.parametrize("arguments_given", ['{"title": "no files"}', "[]", '"text"', "{}"])
def test_arguments_that_never_fit_are_an_invalid_answer_after_the_second(
    vendor: Vendor, serve: Serve, arguments_given: str
) -> None:
    server = serve(calls(vendor, arguments_given))
    provider = vendor.provider(server.url)

    with pytest.raises(InvalidAnswer):
        ask(
            provider.complete,
            Request(MESSAGES, TOOL, vendor.options),
            lambda completion: arguments(completion, TOOL),
        )

    assert len(server.asked) == 2


def test_text_where_a_tool_was_wanted_is_an_invalid_answer(vendor: Vendor, serve: Serve) -> None:
    server = serve(vendor.text("I would rather talk."))

    with pytest.raises(InvalidAnswer):
        vendor.provider(server.url).tool_call(MESSAGES, TOOL, **vendor.options)

    assert len(server.asked) == 2


def test_half_a_tool_call_at_the_token_limit_is_truncated(vendor: Vendor, serve: Serve) -> None:
    server = serve(vendor.text('{"title": "half', finish="length"))

    with pytest.raises(TruncatedAnswer):
        vendor.provider(server.url).tool_call(MESSAGES, TOOL, **vendor.options)

    assert len(server.asked) == 1
