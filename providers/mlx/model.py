"""A loaded MLX model and its batch. Imports MLX; only the engine's thread imports this and calls what is here."""

from __future__ import annotations

import gc
import itertools
import logging
import secrets
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import mlx.core as mx
from mlx_lm.generate import BatchGenerator
from mlx_lm.sample_utils import (
    apply_min_p,
    apply_top_k,
    apply_top_p,
    greedy_sampler,
    make_logits_processors,
)
from mlx_lm.utils import dequantize_model
from mlx_lm.utils import load as load_weights

from providers.errors import BadRequest, NotReady, ProviderError
from providers.mlx.constraint import Constraint, Grammars
from providers.mlx.engine import WIDTH
from providers.mlx.memory import GIB, Plan, free_bytes, plan, read_needs
from providers.mlx.question import NAME, Answer, Question, Sampling, without_reasoning

CACHED_BUFFERS = 256 * 1024**2
"""Bytes of freed buffers that MLX may keep for reuse; by itself it would keep as many as there is memory."""
PREFILL_STEP, PREFILL_STEP_CPU = 512, 64
"""Tokens of a prompt that are read between two tokens of the others in the batch."""
PREFILLS = 4
"""Prompts that are read together."""

log = logging.getLogger(__name__)

_loading = threading.Lock()
"""Two models that both find enough free memory must not both take it."""


def load(folder: Path, free: int | None = None) -> MlxBatch:
    """Load a model if it fits into so many free bytes, by default what the machine has.

    Raises:
        NotReady: It does not fit, or its files are not what MLX can load.
    """
    with _loading:
        metal = mx.metal.is_available()
        made = plan(read_needs(folder), _free(metal=metal) if free is None else free, metal=metal)
        mx.set_cache_limit(CACHED_BUFFERS)
        try:
            model, tokenizer, *_ = load_weights(str(folder), lazy=True)
            if made.to_float32:
                model = dequantize_model(model)
                model.set_dtype(mx.float32)
            mx.eval(model.parameters())
        except (ValueError, OSError, KeyError, TypeError, RuntimeError) as error:
            clear()
            raise NotReady(
                f"{folder} cannot be loaded: {type(error).__name__}: {error}"[:300], NAME
            ) from error
        log.info("loaded %s, %.2f GiB left for its KV cache", folder, made.kv_bytes / GIB)
        return MlxBatch(model, tokenizer, made)


def clear() -> None:
    """Free what is no longer used, and this thread's streams: if it ended with some, the process would abort."""
    gc.collect()
    mx.clear_cache()
    mx.clear_streams()


def _free(*, metal: bool) -> int:
    if not metal:
        return free_bytes()
    advised = int(mx.device_info()["max_recommended_working_set_size"])
    return min(free_bytes(), advised) - mx.get_active_memory()


@dataclass(slots=True)
class _Work:
    """A question as the model sees it."""

    prompt: list[int]
    max_tokens: int
    sampling: Sampling
    constraint: Constraint | None
    reasons_first: bool
    uid: int | None = None
    written: list[int] = field(default_factory=list)

    @property
    def total(self) -> int:
        return len(self.prompt) + self.max_tokens


class MlxBatch:
    """The engine's Batch over mlx_lm's BatchGenerator."""

    def __init__(self, model: Any, tokenizer: Any, made: Plan) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._plan = made
        self._vocabulary: int = model(mx.array([[0]])).shape[
            -1
        ]  # a shape is known without computing anything
        self._end_tokens = frozenset(tokenizer.eos_token_ids)
        self._grammars = Grammars(tokenizer._tokenizer, self._vocabulary, self._end_tokens)  # noqa: SLF001
        self._numbers = itertools.count()
        self._work: dict[int, _Work] = {}
        self._of_uid: dict[int, int] = {}
        self._generator: Any = self._new_generator()  # half of it has no annotations

    def read(self, question: Question) -> int:
        """Turn a question into tokens; BadRequest when it does not fit the model, NotReady when not the memory."""
        if not self._tokenizer.has_chat_template:
            raise NotReady(
                "the model has no chat template; use one that is tuned to follow instructions", NAME
            )
        prompt = self._prompt(question)
        max_tokens = self._room(len(prompt), question)
        constraint = self._grammars.constraint(question.schema) if question.schema is not None else None
        work = _Work(prompt, max_tokens, question.sampling, constraint, self._opens_reasoning(prompt))
        if not self._plan.fits([work.total]):
            raise NotReady(
                f"a request of {work.total} tokens needs {work.total * self._plan.kv_bytes_per_token / GIB:.2f} GiB of "
                f"KV cache; there are {self._plan.kv_bytes / GIB:.2f} GiB: lower max_tokens or shorten the prompt",
                NAME,
            )
        number = next(self._numbers)
        self._work[number] = work
        return number

    def start(self, number: int) -> bool:
        """Put a question into the batch if its KV cache fits beside the others'."""
        work = self._work[number]
        if not self._plan.fits([work.total, *(self._work[other].total for other in self._of_uid.values())]):
            return False
        processors = make_logits_processors(repetition_penalty=work.sampling.repetition_penalty)
        (work.uid,) = self._generator.insert(
            [work.prompt],
            max_tokens=[work.max_tokens],
            samplers=[_sampler(work.sampling, self._vocabulary)],
            logits_processors=[[*processors, *([work.constraint] if work.constraint else [])]],
        )
        self._of_uid[work.uid] = number
        return True

    def step(self) -> Mapping[int, Answer | ProviderError]:
        """Write a token for each that runs, and read on in the prompts of those that are new."""
        ended: dict[int, Answer | ProviderError] = {}
        for response in self._generator.next()[1]:
            number = self._of_uid[response.uid]
            work = self._work[number]
            if response.finish_reason != "stop":
                work.written.append(response.token)
            if response.finish_reason:
                ended[number] = self._outcome(work, response.finish_reason)
                self._forget(number)
        return ended

    def drop(self, numbers: Collection[int]) -> None:
        """Forget questions; those in the batch leave it."""
        uids = [uid for number in numbers if (uid := self._work[number].uid) is not None]
        if uids:
            self._generator.remove(uids)
        for number in numbers:
            self._forget(number)

    def reset(self) -> None:
        """Start over with an empty batch."""
        for number in list(self._of_uid.values()):
            self._forget(number)
        self._generator.close()
        self._generator = self._new_generator()

    def close(self) -> None:
        """Free the model; see Batch."""
        self._generator.close()
        del self._generator, self._model
        clear()

    def _new_generator(self) -> BatchGenerator:
        return BatchGenerator(
            self._model,
            stop_tokens=[[token] for token in self._end_tokens],
            completion_batch_size=WIDTH,
            prefill_batch_size=PREFILLS,
            prefill_step_size=PREFILL_STEP if mx.metal.is_available() else PREFILL_STEP_CPU,
        )

    def _forget(self, number: int) -> None:
        work = self._work.pop(number)
        if work.uid is not None:
            del self._of_uid[work.uid]

    def _prompt(self, question: Question) -> list[int]:
        plainly = {"enable_thinking": False} if question.schema is not None else {}
        try:
            prompt: list[int] = self._tokenizer.apply_chat_template(
                list(question.messages), add_generation_prompt=True, **plainly
            )
        except jinja2.TemplateError as error:
            raise BadRequest(
                f"the model's chat template refuses the messages: {error}"[:300], NAME
            ) from error
        return prompt

    def _room(self, prompt: int, question: Question) -> int:
        """Return how many tokens the answer may have."""
        context = self._plan.context
        if context is None:
            return question.max_tokens
        most = min(question.max_tokens, context - prompt) if question.may_shorten else question.max_tokens
        if most < 1 or prompt + most > context:
            raise BadRequest(
                f"the prompt has {prompt} tokens and the answer may have {question.max_tokens}; "
                f"the model's context is {context}",
                NAME,
            )
        return most

    def _opens_reasoning(self, prompt: list[int]) -> bool:
        """Whether the template left the model in the midst of its reasoning."""
        if not self._tokenizer.has_thinking:
            return False
        tail = self._tokenizer.decode(prompt[-16:])
        return bool(tail.rstrip().endswith(self._tokenizer.think_start))

    def _outcome(self, work: _Work, reason: str) -> Answer | ProviderError:
        if work.constraint and work.constraint.failed:
            return BadRequest("the tool's schema is too complex to hold the model to it", NAME)
        whole = reason == "stop" or (work.constraint is not None and work.constraint.complete)
        text = self._tokenizer.decode(
            work.written, skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        if self._tokenizer.has_thinking and work.constraint is None:
            text = without_reasoning(
                text, self._tokenizer.think_start, self._tokenizer.think_end, opened=work.reasons_first
            )
        return Answer(text, len(work.prompt), len(work.written), whole)


def _sampler(sampling: Sampling, vocabulary: int) -> Callable[[mx.array], mx.array]:
    """Make a sampler with draws of its own, so that a seed gives the same answer whatever else is in the batch."""
    if sampling.temperature == 0:
        return greedy_sampler
    key = mx.random.key(secrets.randbits(64) if sampling.seed is None else sampling.seed)

    def sample(logprobs: mx.array) -> mx.array:
        nonlocal key
        if 0 < sampling.top_p < 1:
            logprobs = apply_top_p(logprobs, sampling.top_p)
        if sampling.min_p > 0:
            logprobs = apply_min_p(logprobs, sampling.min_p)
        if 0 < sampling.top_k < vocabulary:
            logprobs = apply_top_k(logprobs, sampling.top_k)
        key, now = mx.random.split(key)
        return mx.random.categorical(logprobs * (1 / sampling.temperature), key=now)

    return sample
