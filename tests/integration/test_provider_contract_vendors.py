"""What is each vendor's own: addresses, keys, and the corners of its format."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import Any

import pytest

from providers import Request, Tool, Usage
from providers.errors import NotReady, ProviderError
from providers.registry import create
from tests.wire.anthropic import Anthropic, ending
from tests.wire.ollama import Ollama
from tests.wire.openai_chat import OpenAIChat
from tests.wire.openai_responses import OpenAIResponses
from tests.wire.server import Answer, Serve, Server, hang_up, say_nothing
from tests.wire.vendor import MESSAGES, MODEL, Vendor

pytest_plugins = ["tests.wire.fixtures"]
pytestmark = pytest.mark.integration

TOOL = Tool(
    "count", "Counts.", {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
)
USER = MESSAGES[1:]


def ask_at(vendor: Vendor, server: Server, address: str) -> str:
    """Ask at an address that a user wrote; return the path that the server saw."""
    provider = vendor.provider("", **{vendor.address: address.replace("PORT", str(server.port))})
    assert vendor.ask(provider).text == "Hello"
    return server.asked[-1].path


@pytest.mark.parametrize("name", ["openai", "anthropic"])
def test_without_a_key_a_vendor_is_not_ready_and_the_message_says_what_to_set(name: str) -> None:
    with pytest.raises(NotReady, match=f"{name.upper()}_API_KEY"):
        create(name)


def test_a_server_that_is_not_there_is_found_by_a_check(serve: Serve) -> None:
    for vendor in (OpenAIChat(), Ollama()):
        server = Server(hang_up)
        server.close()

        with pytest.raises(NotReady) as caught:
            vendor.provider(server.url).check()

        assert str(server.port) in str(caught.value)


@pytest.mark.parametrize(
    ("written", "path"),
    [
        ("http://127.0.0.1:PORT/v1", "/v1/chat/completions"),
        ("http://127.0.0.1:PORT/v1/", "/v1/chat/completions"),
        ("http://127.0.0.1:PORT", "/v1/chat/completions"),
        ("http://127.0.0.1:PORT/", "/v1/chat/completions"),
        (" http://localhost:PORT/v1 ", "/v1/chat/completions"),
        ("http://127.0.0.1:PORT/api/openai/v1", "/api/openai/v1/chat/completions"),
        ("http://127.0.0.1:PORT/v1?api-version=1", "/v1/chat/completions?api-version=1"),
    ],
)
def test_openai_takes_the_usual_spellings_of_a_base_url(serve: Serve, written: str, path: str) -> None:
    vendor = OpenAIChat()

    assert ask_at(vendor, serve(vendor.text("Hello")), written) == path


@pytest.mark.parametrize(
    "written", ["http://127.0.0.1:PORT", "http://127.0.0.1:PORT/", "http://127.0.0.1:PORT/v1"]
)
def test_anthropic_takes_the_usual_spellings_of_a_base_url(serve: Serve, written: str) -> None:
    vendor = Anthropic()

    assert ask_at(vendor, serve(vendor.text("Hello")), written) == "/v1/messages"


@pytest.mark.parametrize(
    "written",
    ["127.0.0.1:PORT", "http://127.0.0.1:PORT", "http://127.0.0.1:PORT/", "localhost:PORT", "0.0.0.0:PORT"],
)
def test_ollama_takes_a_host_as_ollama_itself_does(serve: Serve, written: str) -> None:
    vendor = Ollama()

    assert ask_at(vendor, serve(vendor.text("Hello")), written) == "/api/chat"


def test_openai_with_a_server_of_ones_own_needs_no_key(serve: Serve) -> None:
    vendor = OpenAIChat()
    server = serve(vendor.text("Hello"))

    vendor.ask(vendor.provider(server.url, openai_api_key=None))

    assert "authorization" not in server.asked[0].headers


def test_a_login_in_an_address_is_sent_as_one(serve: Serve) -> None:
    vendor = Ollama()
    server = serve(vendor.text("Hello"))

    vendor.ask(vendor.provider(server.url.replace("//", "//someone:hunter2@")))

    assert server.asked[0].headers["authorization"] == "Basic c29tZW9uZTpodW50ZXIy"


# OpenAI Chat Completions


def test_chat_asks_for_the_usage(serve: Serve) -> None:
    vendor = OpenAIChat()
    server = serve(vendor.text("Hello"))

    vendor.ask(vendor.provider(server.url))

    assert server.asked[0].json()["stream_options"] == {"include_usage": True}


def test_chat_needs_no_done_mark_after_a_finish_reason(serve: Serve) -> None:
    vendor = OpenAIChat()
    for closing in (vendor.closing()[:1], vendor.closing()[:2]):
        server = serve(vendor.stream([*vendor.opening("Hello"), *closing]))

        completion = vendor.ask(vendor.provider(server.url))

        assert (completion.text, completion.finish_reason) == ("Hello", "stop")
        assert completion.usage in (Usage(), vendor.usage)


def test_chat_leaves_reasoning_out_of_the_text(serve: Serve) -> None:
    vendor = OpenAIChat()
    role, hello = vendor.opening("Hello")
    thoughts = []
    for name in ("reasoning_content", "reasoning"):
        thought = json.loads(json.dumps(hello))
        thought["choices"][0]["delta"] = {name: "Hm, what do they want?", "content": None}
        thoughts.append(thought)
    server = serve(vendor.stream([role, *thoughts, hello, *vendor.closing()]))

    assert vendor.ask(vendor.provider(server.url)).text == "Hello"


def test_chat_reads_usage_from_chunks_of_other_makes(serve: Serve) -> None:
    vendor = OpenAIChat()
    finish, usage, done = vendor.closing()
    without_choices = {name: value for name, value in usage.items() if name != "choices"}
    with_the_finish = {**finish, "usage": usage["usage"]}
    for closing in (
        [finish, {**usage, "choices": None}, done],
        [finish, without_choices, done],
        [with_the_finish, done],
    ):
        server = serve(vendor.stream([*vendor.opening("Hello"), *closing]))

        assert vendor.ask(vendor.provider(server.url)).usage == vendor.usage


def test_chat_takes_one_call_where_a_server_makes_two(serve: Serve) -> None:
    vendor = OpenAIChat()
    first = vendor.calling(TOOL.name, '{"n"', ": 1}")
    second = json.loads(
        json.dumps(vendor.calling(TOOL.name, '{"n": 2}')[:2]).replace('"index": 0, "id"', '"index": 1, "id"')
    )
    second[1]["choices"][0]["delta"]["tool_calls"][0]["index"] = 1
    server = serve(vendor.stream([*first[:-3], *second, *first[-3:]]))

    assert vendor.provider(server.url).tool_call(MESSAGES, TOOL, **vendor.options) == {"n": 1}


# Words beside a tool call, which a model may always write


def test_chat_arguments_hold_no_words_written_before_the_call(serve: Serve) -> None:
    vendor = OpenAIChat()
    events = [*vendor.opening("I shall count."), *vendor.calling(TOOL.name, '{"n"', ": 1}")]

    assert arguments_of(vendor, serve(vendor.stream(events))) == {"n": 1}


def test_responses_arguments_hold_no_words_written_before_the_call(serve: Serve) -> None:
    vendor = OpenAIResponses()
    events = [*vendor.opening("I shall count."), *vendor.calling(TOOL.name, '{"n"', ": 1}")[2:]]

    assert arguments_of(vendor, serve(vendor.stream(events))) == {"n": 1}


def test_anthropic_arguments_hold_no_words_written_before_the_call(serve: Serve) -> None:
    vendor = Anthropic()
    call = [
        {**event, "index": 1} if "index" in event else event
        for event in vendor.calling(TOOL.name, '{"n"', ": 1}")
    ]
    events = [*vendor.opening("I shall count."), {"type": "content_block_stop", "index": 0}, *call[1:]]

    assert arguments_of(vendor, serve(vendor.stream(events))) == {"n": 1}


def arguments_of(vendor: Vendor, server: Server) -> dict[str, Any]:
    found = vendor.provider(server.url).tool_call(MESSAGES, TOOL, **vendor.options)
    assert len(server.asked) == 1
    return found


# OpenAI Responses


def test_responses_leave_reasoning_out_of_the_text(serve: Serve) -> None:
    vendor = OpenAIResponses()
    item = {"type": "reasoning", "id": "rs_1", "summary": []}
    thoughts = [
        {"type": "response.output_item.added", "output_index": 0, "item": item},
        {"type": "response.reasoning_summary_text.delta", "item_id": "rs_1", "delta": "Hm."},
        {"type": "response.reasoning_text.delta", "item_id": "rs_1", "delta": "Hm."},
        {"type": "response.output_item.done", "output_index": 0, "item": item},
    ]
    opening = vendor.opening("Hello")
    server = serve(vendor.stream([*opening[:2], *thoughts, *opening[2:], *vendor.closing(text="Hello")]))

    assert vendor.ask(vendor.provider(server.url)).text == "Hello"


def test_responses_are_not_stored_at_the_vendor(serve: Serve) -> None:
    vendor = OpenAIResponses()
    server = serve(vendor.text("Hello"))

    vendor.ask(vendor.provider(server.url))

    assert server.asked[0].json()["store"] is False


# Anthropic


@pytest.mark.parametrize(
    ("stop_reason", "finish"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("refusal", "refusal"),
    ],
)
def test_anthropic_stop_reasons(serve: Serve, stop_reason: str, finish: str) -> None:
    vendor = Anthropic()
    server = serve(vendor.stream([*vendor.opening("Hello"), *ending(stop_reason)]))

    assert vendor.ask(vendor.provider(server.url)).finish_reason == finish


def test_anthropic_leaves_thinking_out_of_the_text(serve: Serve) -> None:
    vendor = Anthropic()
    start, *opening = vendor.opening("Hello")
    block = {"type": "thinking", "thinking": "", "signature": ""}
    thoughts = [
        {"type": "content_block_start", "index": 0, "content_block": block},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "Hm."}},
        {
            "type": "content_block_delta",
            "index": 0,
            "delta": {"type": "signature_delta", "signature": "EqQB"},
        },
        {"type": "content_block_stop", "index": 0},
    ]
    server = serve(vendor.stream([start, *thoughts, *opening, *vendor.closing()]))

    assert vendor.ask(vendor.provider(server.url)).text == "Hello"


def test_anthropic_usage_at_the_end_may_tell_the_output_alone(serve: Serve) -> None:
    vendor = Anthropic()
    stop, delta, end = ending("end_turn")
    short = {**delta, "usage": {"output_tokens": 7}}
    server = serve(vendor.stream([*vendor.opening("Hello"), stop, short, end]))

    assert vendor.ask(vendor.provider(server.url)).usage == vendor.usage


def test_anthropic_is_sent_no_system_where_there_is_none(serve: Serve) -> None:
    vendor = Anthropic()
    server = serve(vendor.text("Hello"))

    vendor.provider(server.url).complete(Request(USER))

    assert not server.asked[0].json().get("system")


# Ollama


def test_ollama_names_the_command_that_gets_a_missing_model(serve: Serve) -> None:
    vendor = Ollama()
    server = serve(vendor.error(404, f"model '{MODEL}' not found"))

    with pytest.raises(NotReady, match=f"ollama pull {MODEL}"):
        vendor.ask(vendor.provider(server.url))


def test_ollama_is_always_told_how_large_its_context_is(serve: Serve) -> None:
    vendor = Ollama()
    server = serve(vendor.text("Hello"))
    provider = vendor.provider(server.url)

    vendor.ask(provider)
    vendor.ask(provider, num_ctx=12345)

    first, second = (asked.json()["options"] for asked in server.asked)
    assert first["num_ctx"] >= first["num_predict"]
    assert second["num_ctx"] == 12345


def test_ollama_leaves_thinking_out_of_the_text(serve: Serve) -> None:
    vendor = Ollama()
    (hello,) = vendor.opening("Hello")
    thought = {**hello, "message": {"role": "assistant", "content": "", "thinking": "Hm."}}
    server = serve(vendor.stream([thought, hello, *vendor.closing()]))

    assert vendor.ask(vendor.provider(server.url)).text == "Hello"


def test_ollama_takes_its_own_settings_where_it_looks_for_them(serve: Serve) -> None:
    vendor = Ollama()
    server = serve(vendor.text("Hello"))

    vendor.ask(vendor.provider(server.url), think=False, keep_alive="10m", min_p=0.1, seed=7)

    body = server.asked[0].json()
    assert (body["think"], body["keep_alive"]) == (False, "10m")
    assert (body["options"]["min_p"], body["options"]["seed"]) == (0.1, 7)


def test_ollamas_last_line_needs_no_line_end(serve: Serve) -> None:
    vendor = Ollama()
    answer = vendor.text("Hello")
    server = serve(replace(answer, body=answer.body.rstrip()))

    assert vendor.ask(vendor.provider(server.url)).text == "Hello"


def tags(*names: str) -> Answer:
    """Ollama's list of models. https://docs.ollama.com/api/tags"""
    return Answer(json.dumps({"models": [{"name": name, "model": name} for name in names]}).encode())


@pytest.mark.parametrize(
    ("asked_for", "there"),
    [
        ("llama3", "llama3:latest"),
        ("llama3:latest", "llama3:latest"),
        ("qwen2.5-coder:14b", "qwen2.5-coder:14b"),
    ],
)
def test_ollama_checks_that_the_model_is_there(serve: Serve, asked_for: str, there: str) -> None:
    server = serve(tags("other:7b", there))

    Ollama().provider(server.url, model=asked_for).check()

    assert [(asked.method, asked.path) for asked in server.asked] == [("GET", "/api/tags")]


@pytest.mark.parametrize("there", [(), ("llama3:8b",), ("llama3-other:latest",)])
def test_ollama_says_how_to_get_a_model_that_is_not_there(serve: Serve, there: tuple[str, ...]) -> None:
    server = serve(tags(*there))

    with pytest.raises(NotReady, match="ollama pull llama3"):
        Ollama().provider(server.url, model="llama3").check()


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b'{"models": null}', b'{"models": [null, 5, {}]}', b"<html>"]
)
def test_ollamas_check_of_something_else_is_a_typed_error(serve: Serve, body: bytes) -> None:
    server = serve(Answer(body))

    with pytest.raises(ProviderError):
        Ollama().provider(server.url).check()


@pytest.mark.parametrize("body", [b"", b"{}", b'{"object": "list", "data": []}', b"<html>"])
def test_the_check_of_a_server_of_ones_own_asks_for_its_models_once(serve: Serve, body: bytes) -> None:
    server = serve(Answer(body))

    OpenAIChat().provider(server.url).check()

    assert [(asked.method, asked.path) for asked in server.asked] == [("GET", "/v1/models")]


def test_a_check_that_gets_no_answer_ends(serve: Serve) -> None:
    started = time.monotonic()

    with pytest.raises(NotReady):
        Ollama().provider(serve(say_nothing).url).check()

    assert time.monotonic() - started < 10
