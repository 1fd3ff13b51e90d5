"""The vendors that there are tests for."""

from __future__ import annotations

import pytest

from tests.wire.anthropic import Anthropic
from tests.wire.ollama import Ollama
from tests.wire.openai_chat import OpenAIChat
from tests.wire.openai_responses import OpenAIResponses
from tests.wire.vendor import Vendor

VENDORS: tuple[Vendor, ...] = (OpenAIChat(), OpenAIResponses(), Anthropic(), Ollama())


def only(*names: str) -> pytest.MarkDecorator:
    """Run a test that takes `vendor` with these vendors alone."""
    return pytest.mark.parametrize(
        "vendor", [one for one in VENDORS if one.name in names], ids=lambda one: one.name
    )
