"""OpenAI, and the many servers that speak its Chat Completions.

Source of the error codes: https://platform.openai.com/docs/guides/error-codes
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from providers import openai_chat, openai_responses
from providers.address import Address, key_of
from providers.errors import (
    AuthFailed,
    ConnectionFailed,
    NotReady,
    ProviderError,
    QuotaExceeded,
    Refused,
    TimedOut,
)
from providers.options import Options, take_choice, take_whole
from providers.remote import Question, RemoteProvider, telling_tool
from providers.types import Request

OWN = "https://api.openai.com/v1"


class OpenAIProvider(RemoteProvider):
    """OpenAI's Responses; Chat Completions where OPENAI_BASE_URL names another server.

    Options of ours: `api` (responses, chat), `structured` (tools, json_schema: how a tool's schema is sent),
    `max_tokens`, `reasoning_effort`, `verbosity`, `timeout_s`. Others go to the server as they are.
    """

    name: ClassVar[str] = "openai"

    words: ClassVar[Mapping[str, type[ProviderError]]] = {
        "insufficient_quota": QuotaExceeded,
        "credit_balance_exhausted": QuotaExceeded,
        "organization_spend_limit_exceeded": QuotaExceeded,
        "project_spend_limit_exceeded": QuotaExceeded,
        "organization_usage_limit_exceeded": QuotaExceeded,
        "billing_hard_limit_reached": QuotaExceeded,
        "billing_not_active": QuotaExceeded,
        "invalid_api_key": AuthFailed,
        "model_not_found": NotReady,
        "content_filter": Refused,
        "content_policy_violation": Refused,
        "bio_policy": Refused,
    }
    advice: ClassVar[Mapping[type[ProviderError], str]] = {
        AuthFailed: "see OPENAI_API_KEY",
        NotReady: "is there a model {model} at {endpoint}? See --model and OPENAI_BASE_URL",
    }

    @property
    def _is_openai(self) -> bool:
        host = self.address.url.host
        return host == "api.openai.com" or host.endswith(".api.openai.com")

    @property
    def source(self) -> str:
        """Servers that speak the API give their own models what names they like; see Provider."""
        return f"{self.name} at {self.endpoint}" if self.config.openai_base_url else self.name

    def _address(self) -> Address:
        address = Address.of(self.config.openai_base_url or OWN, "OPENAI_BASE_URL", self.name)
        return address if address.path else address.moved("/v1")

    def _identity(self) -> dict[str, str]:
        key = key_of(self.config.openai_api_key, "OPENAI_API_KEY", self.name)
        if not key and self._is_openai:
            raise NotReady("there is no key; set OPENAI_API_KEY", self.name)
        return {"authorization": f"Bearer {key}"} if key else {}

    def check(self) -> None:
        """See that a server of one's own is there; OpenAI itself is not asked. See Provider."""
        if self._is_openai:
            return
        try:
            self._get("/models")
        except (ConnectionFailed, TimedOut) as error:
            raise NotReady(f"no server answers at {self.endpoint}; see OPENAI_BASE_URL", self.name) from error
        except ProviderError as error:
            if error.status in (None, 401):
                raise
            # Any other answer says that it lives; what it lacks it says when it is asked.

    def _question(self, request: Request, options: Options) -> Question:
        own = self._is_openai
        api = take_choice(options, "api", ("responses", "chat"), self.name) or (
            "responses" if own else "chat"
        )
        schema = take_choice(options, "structured", ("tools", "json_schema"), self.name) == "json_schema"
        most = take_whole(options, "max_tokens", self.name) or self.config.catalog.max_tokens(self.name)
        if schema:
            request = telling_tool(request)
        if api == "chat":
            return openai_chat.question(self.asked, request, options, most, schema=schema, own=own)
        return openai_responses.question(self.asked, request, options, most, schema=schema)
