"""Chat Completions as a real server speaks them: mlx_lm's own, with the small model."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from pydantic import SecretStr

from providers.base import Provider
from providers.config import Config
from providers.errors import Cancelled, InvalidAnswer, ProviderError, TruncatedAnswer
from providers.registry import create
from providers.types import Message, Request, Tool

YES = Tool(
    "yes",
    "Say yes.",
    {
        "type": "object",
        "properties": {"yes": {"const": True}},
        "required": ["yes"],
        "additionalProperties": False,
    },
)


def say(text: str) -> list[Message]:
    return [{"role": "system", "content": "Be brief."}, {"role": "user", "content": text}]


@pytest.fixture
def server(mlx_server: str) -> Provider:
    return create(
        "openai", "default_model", Config(openai_base_url=mlx_server, openai_api_key=SecretStr("none"))
    )


def test_a_server_is_there(server: Provider) -> None:
    server.check()


def test_an_answer_is_counted_and_cut_at_the_limit(server: Provider) -> None:
    completion = server.generate(say("Tell me a long story"), max_tokens=8)

    assert completion.finish_reason == "length"
    assert completion.usage.tokens_out == 8
    assert (completion.usage.tokens_in or 0) > 8
    assert completion.text


def test_an_answer_that_ends_by_itself_says_so(server: Provider) -> None:
    completion = server.generate(say("Hi"), max_tokens=64)

    assert completion.finish_reason == "stop"
    assert 0 < (completion.usage.tokens_out or 0) < 64


def test_a_request_is_cancelled_in_the_midst_of_its_answer(server: Provider) -> None:
    request = Request(say("Tell me a long story"), options={"max_tokens": 2000})

    with ThreadPoolExecutor(1) as threads:
        answer = threads.submit(server.complete, request)
        threading.Event().wait(1)  # nothing tells from outside that the server has begun
        request.cancelled.set()
        since = time.monotonic()
        with pytest.raises(Cancelled):
            answer.result(60)

    assert time.monotonic() - since < 2


def test_a_small_model_that_is_not_held_to_a_schema_fails_in_a_way_that_is_known(server: Provider) -> None:
    try:
        values = server.tool_call(say("Yes?"), YES, max_tokens=24)
    except ProviderError as error:
        assert isinstance(error, InvalidAnswer | TruncatedAnswer), error  # noqa: PT017 - either way is right
    else:
        assert values == {"yes": True}
