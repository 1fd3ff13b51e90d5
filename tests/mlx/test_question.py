"""Options of a request."""

from __future__ import annotations

from typing import Any

import pytest

from providers.errors import BadRequest
from providers.mlx.question import Sampling, read_options, without_reasoning


def test_without_options_the_likeliest_token_is_taken_and_nothing_is_limited() -> None:
    options = read_options({"unknown": "ignored", "seed": None})

    assert options.sampling == Sampling()
    assert options.sampling.temperature == 0
    assert (options.max_tokens, options.timeout_s) == (None, None)


def test_options_are_read() -> None:
    options = read_options(
        {
            "max_tokens": 16,
            "temperature": 1,
            "top_p": 0.9,
            "top_k": 40,
            "min_p": 0.05,
            "seed": 7,
            "repetition_penalty": 1.1,
            "timeout_s": 5,
        }
    )

    assert (options.max_tokens, options.timeout_s) == (16, 5)
    assert options.sampling == Sampling(1.0, 0.9, 40, 0.05, 7, 1.1)


@pytest.mark.parametrize(
    ("name", "value", "right"),
    [
        ("max_tokens", "16", "a whole number"),
        ("max_tokens", 0, "from 1"),
        ("max_tokens", True, "a whole number"),
        ("max_tokens", 1.5, "a whole number"),
        ("temperature", "hot", "a number from 0 to 2"),
        ("temperature", float("nan"), "a number from 0 to 2"),
        ("temperature", -1, "a number from 0 to 2"),
        ("top_p", 1.1, "a number from 0 to 1"),
        ("top_k", 2.5, "a whole number"),
        ("min_p", [0.1], "a number from 0 to 1"),
        ("seed", -1, "a whole number from 0"),
        ("repetition_penalty", 0, "a number from 0.1"),
        ("timeout_s", 0, "a number from 0.001"),
    ],
)
def test_a_wrong_option_is_named_with_what_is_right(name: str, value: Any, right: str) -> None:
    with pytest.raises(BadRequest, match=f"option {name} is .*{right}"):
        read_options({name: value})


@pytest.mark.parametrize(
    ("text", "opened", "answer"),
    [
        ("Yes.", False, "Yes."),
        ("<think>Hm.</think>\n\nYes.", False, "Yes."),
        ("Hm.</think>\nYes.", True, "Yes."),
        ("<think>Hm, that is", False, ""),
        ("Hm, that is", True, ""),
    ],
)
def test_reasoning_is_not_part_of_an_answer(text: str, opened: bool, answer: str) -> None:
    assert without_reasoning(text, "<think>", "</think>", opened=opened) == answer
