"""Ollama, a server of models on one's own machines.

Sources: https://docs.ollama.com/api/chat, https://docs.ollama.com/api/errors
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from providers.address import Address
from providers.errors import ConnectionFailed, NotReady, ProviderError, TimedOut
from providers.options import Options, take_mapping, take_whole
from providers.reader import Json, Reader, count, said
from providers.remote import Question, RemoteProvider, telling_tool
from providers.sse import Framing, JsonLines
from providers.types import Request, Usage

PORT = 11434
LEAST_CONTEXT = 8192
BESIDE_OPTIONS = ("keep_alive", "think", "truncate", "shift", "logprobs", "top_logprobs")
"""What stands in a request beside its `options`; everything else that a user asks for stands in them."""


class OllamaProvider(RemoteProvider):
    """Ollama at OLLAMA_HOST.

    Options of ours: `max_tokens`, `num_ctx` (by default what prompt and answer need), `timeout_s`.
    """

    name: ClassVar[str] = "ollama"
    framing: ClassVar[type[Framing]] = JsonLines
    advice: ClassVar[Mapping[type[ProviderError], str]] = {NotReady: "get it with `ollama pull {model}`"}

    def _address(self) -> Address:
        return host_address(self.config.ollama_host or "")

    def _identity(self) -> dict[str, str]:
        return {}

    def check(self) -> None:
        """See that the server is there and has the model; see Provider."""
        installed = self.installed_models()
        if self.model not in installed and f"{self.model}:latest" not in installed:
            raise NotReady(
                f"{self.endpoint} has no model {self.model}; `ollama pull {self.model}`", self.name
            )

    def installed_models(self) -> list[str]:
        """Names of the models that the server has; NotReady when no server answers."""
        strange = NotReady(f"what answers at {self.endpoint} is not Ollama; see OLLAMA_HOST", self.name)
        try:
            answer = self._get("/api/tags")
        except (ConnectionFailed, TimedOut) as error:
            message = f"no Ollama answers at {self.endpoint}: start it with `ollama serve`"
            raise NotReady(message, self.name) from error
        except NotReady as error:
            raise strange from error
        match answer:
            case {"models": [*models]}:
                return [model["name"] for model in models if isinstance(model, dict) and "name" in model]
        raise strange

    def preferred_model(self) -> str | None:
        """The default if the server has it, else the first of those that it has; see Provider."""
        installed = self.installed_models()
        if self.model in installed or f"{self.model}:latest" in installed or not installed:
            return self.model
        return installed[0]

    def _question(self, request: Request, options: Options) -> Question:
        most = take_whole(options, "max_tokens", self.name) or self.config.catalog.max_tokens(self.name)
        request = telling_tool(request)
        context = take_whole(options, "num_ctx", self.name) or self._context(request, most)
        beside = {name: options.pop(name) for name in BESIDE_OPTIONS if name in options}
        inner = {
            "num_predict": most,
            "num_ctx": context,
            **take_mapping(options, "options", self.name),
            **options,
        }
        form = {"format": dict(request.tool.schema)} if request.tool else {}
        body = {
            # Without these a prompt that is too long is cut without a word, and so is the beginning of a long answer.
            "truncate": False,
            "shift": False,
            **beside,
            **form,
            "options": inner,
            "model": self.asked,
            "messages": list(request.messages),
            "stream": True,
        }
        return Question("/api/chat", body, LinesReader())

    def _context(self, request: Request, most: int) -> int:
        """Room for prompt and answer; a power of two, because the server loads the model anew for each other size."""
        needed = (self.estimate(request).tokens_in or 0) + most
        return max(LEAST_CONTEXT, 1 << (needed - 1).bit_length())


class LinesReader(Reader):
    """Reads the lines of a chat; a whole answer is a line like the last."""

    def read(self, event: Json) -> None:
        """Take a line; see Reader."""
        self.model = said(event.get("model")) or self.model
        self.say(said((event.get("message") or {}).get("content")))
        if event.get("done") is not True:
            return
        self.usage = Usage(count(event.get("prompt_eval_count")), count(event.get("eval_count")))
        reason = said(event.get("done_reason"))
        if reason == "length":
            self.finish = "length"
        if reason not in {"load", "unload"}:  # Then nobody has answered.
            self.ended()


def host_address(host: str) -> Address:
    """Read OLLAMA_HOST as Ollama does: scheme, port and path may be missing, and a server's 0.0.0.0 is this machine."""
    written = host.strip() or f"127.0.0.1:{PORT}"
    bare = "://" not in written
    if bare and written.startswith(":"):
        written = f"127.0.0.1{written}"
    address = Address.of(f"http://{written}" if bare else written, "OLLAMA_HOST", OllamaProvider.name)
    local = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address.url.host)  # noqa: S104
    url = address.url.copy_with(host=local) if local else address.url
    return Address(url.copy_with(port=PORT) if bare and url.port is None else url, address.login)
