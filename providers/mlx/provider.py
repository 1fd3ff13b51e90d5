"""MLX as a provider: a model in this process, for the price of electricity."""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import json
import logging
import os
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from providers.base import Provider
from providers.config import Config
from providers.errors import BadRequest, NotReady
from providers.mlx import folder, memory
from providers.mlx.engine import Batch, Engine
from providers.mlx.engines import Engines
from providers.mlx.question import NAME, Question, read_options
from providers.types import Completion, FinishReason, Message, Request, Tool, Usage

log = logging.getLogger(__name__)

ENGINES = Engines()
"""Those of this process."""

_MODULES = ("mlx", "mlx_lm", "llguidance", "numpy", "huggingface_hub")
_INSTALL = "pip install mlx-lm llguidance" + (" 'mlx[cpu]'" if sys.platform == "linux" else "")


class MlxProvider(Provider):
    """A model that MLX runs in this process; requests of all threads are answered together, 8 at a time.

    `model` is a folder (it has a slash, or exists) or an id of the Hugging Face hub, which is looked for in the cache
    and downloaded by the first request when it is not there. Options: max_tokens, temperature (0 by default, as in
    mlx_lm), top_p, top_k, min_p, seed, repetition_penalty, timeout_s; others are ignored. With a tool, the model can
    write nothing but JSON that fits its schema. A model's reasoning is not part of its answer, but of its usage.
    """

    name: ClassVar[str] = NAME

    def __init__(
        self,
        model: str | None = None,
        config: Config | None = None,
        *,
        engines: Engines = ENGINES,
        load: Callable[[Path], Batch] | None = None,
    ) -> None:
        """Make a provider; nothing is loaded.

        Args:
            model: A folder or an id of the hub.
            config: Says where the Hugging Face cache is.
            engines: Where to look for the model's engine; those of this process.
            load: Loads the model in a folder; by default as `providers.mlx.model.load` does.

        Raises:
            NotReady: MLX is not installed, no model is named, or there is none in the folder.
        """
        super().__init__(model, config)
        self.endpoint = f"{NAME}@{socket.gethostname()}"
        _check_installed()
        if self.model is None:
            raise NotReady(
                "no model is named; name a folder or an id of the Hugging Face hub, such as --model mlx-community/NAME",
                NAME,
            )
        folder.check_name(self.model)
        self._named = self.model
        self._engines = engines
        self._load = load or _load

    def complete(self, request: Request) -> Completion:
        """Answer one request, together with those of other threads."""
        options = read_options(request.options)
        most = options.max_tokens or self.config.catalog.max_tokens(NAME)
        messages = with_schema(request.messages, request.tool) if request.tool else request.messages
        question = Question(
            _readable(messages),
            most,
            options.sampling,
            request.tool.schema if request.tool else None,
            may_shorten=options.max_tokens is None,
        )
        answer = self.engine.ask(question, request.cancelled, options.timeout_s)
        whole: FinishReason = "tool" if request.tool else "stop"
        usage = Usage(answer.tokens_in, answer.tokens_out)
        return Completion(answer.text, usage, whole if answer.complete else "length", self._named)

    def check_options(self, options: Mapping[str, Any]) -> None:
        """See Provider."""
        read_options(options)

    def warm(self) -> None:
        """Load the model now, so that the first request does not wait for it. Raises ProviderError if it cannot be."""
        self.engine.warm()

    def check(self) -> None:
        """Raise NotReady unless the model is on this machine and fits into its memory. Nothing is loaded."""
        engine = self._engines.known(self._key)
        if engine and engine.figures.loads:
            return
        found = folder.find(self._named, self.config.hf_home)
        if found is None:
            raise NotReady(
                f"the model {self._named} is not on this machine yet; fetch it with: hf download {self._named}",
                NAME,
            )
        memory.plan(memory.read_needs(found), memory.free_bytes(), metal=memory.on_metal())

    @property
    def engine(self) -> Engine:
        """The engine of this model in this process. Raises NotReady in a process that was forked from one with MLX."""
        return self._engines.of(self._key, lambda: self._load(folder.fetch(self._named, self.config.hf_home)))

    @property
    def _key(self) -> str:
        if folder.is_path(self._named):
            return str(Path(self._named).expanduser().resolve())
        return f"{self.config.hf_home or ''}:{self._named}"


def with_schema(messages: Sequence[Message], tool: Tool) -> list[Message]:
    """Return the messages with the tool told at the end of the last: the model is held to it, and should know why."""
    note = (
        f"Answer with nothing but one JSON object: the arguments of {tool.name} ({tool.description}). "
        f"Its JSON Schema is:\n{json.dumps(dict(tool.schema), separators=(',', ':'))}"
    )
    told = [Message(role=last["role"], content=f"{last['content']}\n\n{note}") for last in messages[-1:]]
    return [*messages[:-1], *told]


def _readable(messages: Sequence[Message]) -> Sequence[Message]:
    """Return the messages if a tokenizer can read them."""
    if not messages:
        raise BadRequest("there are no messages", NAME)
    try:
        "".join(message["content"] for message in messages).encode()
    except UnicodeEncodeError as error:
        raise BadRequest("the prompt holds half a character", NAME) from error
    return messages


def _check_installed() -> None:
    missing = [name for name in _MODULES if importlib.util.find_spec(name) is None]
    if missing:
        raise NotReady(f"{missing[0]} is not installed: {_INSTALL}", NAME)


def _load(path: Path) -> Batch:
    """Load a model; this is where MLX is imported, in the engine's thread."""
    _prefer_openblas()
    # mlx_lm takes only the tokenizers of transformers, which warns on import that PyTorch is missing.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    try:
        module = importlib.import_module("providers.mlx.model")
    except (ImportError, OSError, ValueError) as error:
        raise NotReady(f"MLX does not work here ({error}): {_INSTALL}"[:300], NAME) from error
    batch: Batch = module.load(path)
    return batch


def _prefer_openblas() -> None:
    """Let MLX's CPU wheel find OpenBLAS where there is one: the reference BLAS in it is several times slower.

    It only counts when it is in the process before MLX is. A thread of its own for each core would get in MLX's way.
    """
    if sys.platform != "linux":
        return
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        ctypes.CDLL("libopenblas.so.0", mode=ctypes.RTLD_GLOBAL)
    except OSError:
        log.warning(
            "there is no OpenBLAS: prompts are read about ten times faster with it (libopenblas0-pthread)"
        )
