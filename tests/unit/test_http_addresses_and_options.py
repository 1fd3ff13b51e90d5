"""What an owner writes: addresses, keys and options, and what is said when they are wrong."""

from __future__ import annotations

import math
from typing import Any

import pytest
from pydantic import SecretStr

from providers.address import Address, key_of
from providers.anthropic import AnthropicProvider
from providers.config import Config
from providers.errors import BadRequest, NotReady
from providers.http import is_loopback
from providers.ollama import host_address
from providers.openai import OpenAIProvider
from providers.options import check_sampling, take_choice, take_mapping, take_number, take_whole
from providers.reader import joined, unfenced

KEY = SecretStr("sk-1")


@pytest.mark.parametrize(
    ("written", "endpoint"),
    [
        (None, "https://api.openai.com/v1"),
        ("http://localhost:8080", "http://localhost:8080/v1"),
        ("http://localhost:8080/", "http://localhost:8080/v1"),
        ("http://localhost:8080/v1", "http://localhost:8080/v1"),
        ("http://localhost:8080/v1/", "http://localhost:8080/v1"),
        ("https://host.test/openai/deployments/x", "https://host.test/openai/deployments/x"),
        ("https://me:secret@host.test/v1?api-version=3#x", "https://host.test/v1"),
    ],
)
def test_openais_address_is_taken_in_the_usual_spellings(written: str | None, endpoint: str) -> None:
    assert OpenAIProvider(config=Config(openai_api_key=KEY, openai_base_url=written)).endpoint == endpoint


@pytest.mark.parametrize(
    ("written", "endpoint"),
    [
        (None, "https://api.anthropic.com/v1"),
        ("http://localhost:8080", "http://localhost:8080/v1"),
        ("http://localhost:8080/v1/", "http://localhost:8080/v1"),
        ("https://gateway.test/anthropic", "https://gateway.test/anthropic/v1"),
    ],
)
def test_anthropics_address_is_taken_with_or_without_its_version(written: str | None, endpoint: str) -> None:
    config = Config(anthropic_api_key=KEY, anthropic_base_url=written)

    assert AnthropicProvider(config=config).endpoint == endpoint


@pytest.mark.parametrize(
    ("written", "endpoint"),
    [
        ("", "http://127.0.0.1:11434"),
        ("127.0.0.1", "http://127.0.0.1:11434"),
        ("127.0.0.1:5000", "http://127.0.0.1:5000"),
        (":5000", "http://127.0.0.1:5000"),
        ("0.0.0.0", "http://127.0.0.1:11434"),
        ("0.0.0.0:5000", "http://127.0.0.1:5000"),
        ("http://0.0.0.0:5000", "http://127.0.0.1:5000"),
        ("[::]:5000", "http://[::1]:5000"),
        ("[::1]", "http://[::1]:11434"),
        ("box.local", "http://box.local:11434"),
        ("http://box.local", "http://box.local"),
        ("http://box.local:5000/", "http://box.local:5000"),
        ("https://box.example", "https://box.example"),
        ("https://box.example/ollama", "https://box.example/ollama"),
    ],
)
def test_ollamas_host_is_read_as_ollama_reads_it(written: str, endpoint: str) -> None:
    assert host_address(written).endpoint == endpoint


@pytest.mark.parametrize(
    "written", ["localhost:8080/v1", "ftp://host", "http://", "http://h:99999", "http://[::1"]
)
def test_what_is_no_address_is_told_by_the_name_of_its_variable(written: str) -> None:
    with pytest.raises(NotReady, match="SOME_URL"):
        Address.of(written, "SOME_URL", "vendor")


def test_a_login_is_taken_out_of_an_address_and_not_shown() -> None:
    address = Address.of("http://me:secret@host.test/v1?a=b", "SOME_URL", "vendor")

    assert address.login == "Basic bWU6c2VjcmV0"
    assert str(address.at("/models")) == "http://host.test/v1/models?a=b"
    assert "secret" not in repr(address)
    assert "bWU6" not in repr(address)


@pytest.mark.parametrize("written", ["sk-1\n", " sk-1", "sk 1", "schlüssel", "sk-\x00"])
def test_a_key_that_can_be_none_is_told_without_being_shown(written: str) -> None:
    with pytest.raises(NotReady, match="SOME_KEY") as caught:
        key_of(SecretStr(written), "SOME_KEY", "vendor")

    assert "sk" not in str(caught.value)


def test_an_empty_key_is_none() -> None:
    assert key_of(None, "SOME_KEY", "vendor") is None
    assert key_of(SecretStr(" "), "SOME_KEY", "vendor") is None


@pytest.mark.parametrize(
    ("host", "own"),
    [
        ("localhost", True),
        ("x.localhost", True),
        ("127.0.0.1", True),
        ("127.8.9.1", True),
        ("::1", True),
        ("0.0.0.0", True),
        ("10.0.0.1", False),
        ("localhost.example", False),
        ("api.openai.com", False),
    ],
)
def test_which_hosts_are_this_machine(host: str, own: bool) -> None:
    assert is_loopback(host) is own


def test_options_are_taken_out_and_others_stay() -> None:
    options: dict[str, Any] = {"timeout_s": 2, "max_tokens": 5, "api": "chat", "text": {"a": 1}, "seed": 7}

    assert take_number(options, "timeout_s", "vendor") == 2.0
    assert take_whole(options, "max_tokens", "vendor") == 5
    assert take_choice(options, "api", ("chat", "responses"), "vendor") == "chat"
    assert take_mapping(options, "text", "vendor") == {"a": 1}
    assert options == {"seed": 7}
    assert take_whole(options, "max_tokens", "vendor") is None


@pytest.mark.parametrize("value", ["many", 0, -1, 1.5, True, [], math.inf])
def test_an_option_of_a_wrong_kind_is_told_with_the_right_form(value: object) -> None:
    with pytest.raises(BadRequest, match=r"option max_tokens is .*; it must be a whole number above 0"):
        take_whole({"max_tokens": value}, "max_tokens", "vendor")


def test_other_wrong_options_are_told_too() -> None:
    with pytest.raises(BadRequest, match="option timeout_s"):
        take_number({"timeout_s": math.nan}, "timeout_s", "vendor")
    with pytest.raises(BadRequest, match="one of chat, responses"):
        take_choice({"api": ["chat"]}, "api", ("chat", "responses"), "vendor")
    with pytest.raises(BadRequest, match="a mapping"):
        take_mapping({"text": "x"}, "text", "vendor")
    with pytest.raises(BadRequest, match="option temperature is 'hot'; it must be a number"):
        check_sampling({"temperature": "hot"}, "vendor")


def test_halves_of_a_character_become_one_and_a_lone_half_is_replaced() -> None:
    assert joined(["a\ud83d", "\ude00b"]) == "a😀b"
    assert joined(["a\ud83d", "b"]) == "a\ufffdb"


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ('```json\n{"a": 1}\n```', '{"a": 1}'),
        ('\n```\n{"a": 1}\n```\n', '{"a": 1}'),
        ('{"a": "```"}', '{"a": "```"}'),
        ("Here: ```json\n{}\n```", "Here: ```json\n{}\n```"),
    ],
)
def test_a_fence_around_the_whole_text_is_taken_away(text: str, plain: str) -> None:
    assert unfenced(text) == plain
