"""What each vendor is sent for a request: names of fields, and where options go."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import SecretStr

from providers import Message, Request, Tool
from providers.anthropic import AnthropicProvider
from providers.config import Config
from providers.errors import NotReady
from providers.ollama import OllamaProvider
from providers.openai import OpenAIProvider
from providers.remote import RemoteProvider

KEY = SecretStr("sk-1")
OPENAI = OpenAIProvider("m", Config(openai_api_key=KEY))
COMPATIBLE = OpenAIProvider("m", Config(openai_base_url="http://localhost:1"))
ANTHROPIC = AnthropicProvider("m", Config(anthropic_api_key=KEY))
OLLAMA = OllamaProvider("m")
TOOL = Tool("plan", "Plans.", {"type": "object", "properties": {"n": {"type": "integer"}}})
MESSAGES: list[Message] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hello"},
]


def sent(
    provider: RemoteProvider, tool: Tool | None = None, messages: list[Message] = MESSAGES, **options: Any
) -> dict[str, Any]:
    return dict(provider._question(Request(messages, tool, options), dict(options)).body)


def test_openai_is_asked_for_a_response_that_it_does_not_store() -> None:
    assert sent(OPENAI, seed=7) == {
        "model": "m",
        "instructions": "Be brief.",
        "input": [{"role": "user", "content": "Hello"}],
        "max_output_tokens": 16384,
        "store": False,
        "stream": True,
        "seed": 7,
    }


def test_a_compatible_server_is_asked_for_a_chat_completion() -> None:
    assert sent(COMPATIBLE, max_tokens=5, stop=["x"]) == {
        "model": "m",
        "messages": MESSAGES,
        "max_tokens": 5,
        "stream": True,
        "stream_options": {"include_usage": True},
        "stop": ["x"],
    }


def test_openai_takes_the_newer_name_for_the_length_in_chat_too() -> None:
    body = sent(OPENAI, api="chat", max_tokens=5)

    assert body["max_completion_tokens"] == 5
    assert "max_tokens" not in body


def test_effort_and_verbosity_go_where_a_response_has_them() -> None:
    body = sent(OPENAI, TOOL, reasoning_effort="low", verbosity="low", structured="json_schema")

    assert body["reasoning"] == {"effort": "low"}
    assert body["text"]["verbosity"] == "low"
    assert body["text"]["format"]["schema"] == TOOL.schema
    assert not {"reasoning_effort", "verbosity", "structured", "tools"} & body.keys()
    assert sent(COMPATIBLE, reasoning_effort="low")["reasoning_effort"] == "low"


def test_a_tool_is_forced_by_name_at_openai_and_by_being_the_only_one_elsewhere() -> None:
    named = {"type": "function", "name": "plan"}

    assert sent(OPENAI, TOOL)["tool_choice"] == named
    assert sent(OPENAI, TOOL, api="chat")["tool_choice"] == {
        "type": "function",
        "function": {"name": "plan"},
    }
    assert sent(COMPATIBLE, TOOL)["tool_choice"] == "required"


def test_a_schema_for_the_text_is_also_told_to_the_model_in_words() -> None:
    for body in (sent(COMPATIBLE, TOOL, structured="json_schema"), sent(OLLAMA, TOOL)):
        first = body["messages"][0]

        assert first["role"] == "system"
        assert first["content"].startswith("Be brief.\n\nplan: Plans. ")
        assert '"integer"' in first["content"]
        assert body["messages"][1:] == MESSAGES[1:]
        assert "tools" not in body


def test_anthropic_is_not_told_to_force_a_tool_which_its_models_refuse() -> None:
    body = sent(ANTHROPIC, TOOL)

    assert body["tool_choice"] == {"type": "auto", "disable_parallel_tool_use": True}
    assert body["tools"][0]["input_schema"] == TOOL.schema
    assert "plan" in body["system"]
    forced = {"type": "tool", "name": "plan"}
    assert sent(ANTHROPIC, TOOL, tool_choice=forced)["tool_choice"] == forced


def test_anthropics_options_have_their_places() -> None:
    body = sent(ANTHROPIC, effort="low", output_config={"x": 1}, stop="END", top_k=3)

    assert body["output_config"] == {"x": 1, "effort": "low"}
    assert body["stop_sequences"] == ["END"]
    assert body["top_k"] == 3
    assert body["system"] == "Be brief."
    assert not {"effort", "stop", "temperature"} & body.keys()


def test_anthropic_is_sent_no_empty_turn() -> None:
    turns: list[Message] = [*MESSAGES, {"role": "assistant", "content": " "}, MESSAGES[1]]

    assert [turn["content"] for turn in sent(ANTHROPIC, messages=turns)["messages"]] == [
        "Hello",
        "(nothing)",
        "Hello",
    ]


def test_ollamas_options_have_their_places() -> None:
    body = sent(OLLAMA, max_tokens=5, think="low", keep_alive="5m", top_k=3, options={"min_p": 0.1})

    assert body["options"] == {"num_predict": 5, "num_ctx": 8192, "min_p": 0.1, "top_k": 3}
    assert (body["think"], body["keep_alive"], body["truncate"], body["shift"]) == ("low", "5m", False, False)


@pytest.mark.parametrize(
    ("prompt", "options", "context"),
    [
        ("x", {"max_tokens": 10}, 8192),
        ("x" * 30_000, {"max_tokens": 10}, 16_384),
        ("x", {}, 16_384),
        ("x" * 30_000, {"max_tokens": 10, "num_ctx": 4096}, 4096),
    ],
)
def test_ollama_is_given_room_for_prompt_and_answer(
    prompt: str, options: dict[str, int], context: int
) -> None:
    body = sent(OLLAMA, messages=[{"role": "user", "content": prompt}], **options)

    assert body["options"]["num_ctx"] == context


def test_options_cannot_take_the_place_of_the_question() -> None:
    for provider in (OPENAI, COMPATIBLE, ANTHROPIC, OLLAMA):
        body = sent(provider, stream=False, model="other")

        assert (body["stream"], body["model"]) == (True, "m")


def test_without_a_model_nobody_is_asked() -> None:
    provider = OpenAIProvider("m", Config(openai_base_url="http://localhost:1"))
    provider.model = None

    with pytest.raises(NotReady, match="--model"):
        provider.generate(MESSAGES)
