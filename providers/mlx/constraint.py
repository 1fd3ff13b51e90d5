"""JSON by a schema: which tokens may come next, by llguidance. Imports MLX; only the engine's thread imports this."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import llguidance
import llguidance.hf
import llguidance.numpy
import mlx.core as mx
import numpy as np

from providers.errors import BadRequest, NotReady
from providers.mlx.question import NAME

# Spaces as models write them and no freedom in it, or a small model writes blanks for ever. Lenient: a keyword that
# llguidance does not know is left to whoever validates the answer.
_FORM: Any = {
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
    "lenient": True,
}


class Grammars:
    """Makes constraints for one model. Reading its vocabulary takes a second, so that is done once, when needed."""

    def __init__(self, tokenizer: Any, vocabulary: int, end_tokens: frozenset[int]) -> None:
        self._tokenizer = tokenizer
        self._vocabulary = vocabulary
        self._end_tokens = end_tokens
        self._read: llguidance.LLTokenizer | None = None

    def constraint(self, schema: Mapping[str, Any]) -> Constraint:
        """Make a constraint for one answer.

        Raises:
            BadRequest: The schema cannot be turned into a grammar.
            NotReady: The model's tokenizer is of a kind that cannot be constrained.
        """
        if self._read is None:
            try:
                self._read = llguidance.hf.from_tokenizer(
                    self._tokenizer, self._vocabulary, sorted(self._end_tokens)
                )
            except ValueError as error:
                raise NotReady(f"this model cannot be held to a schema: {error}"[:200], NAME) from error
        form = llguidance.LLMatcher.grammar_from_json_schema(json.dumps(dict(schema)), overrides=_FORM)
        matcher = llguidance.LLMatcher(self._read, form, log_level=0)
        if matcher.is_error():
            problem = " ".join(matcher.get_error().split("<state>")[0].split())
            raise BadRequest(f"the tool's schema cannot be turned into a grammar: {problem}"[:300], NAME)
        return Constraint(matcher, self._end_tokens)


class Constraint:
    """A logits processor for one answer: what does not go on with the JSON becomes impossible.

    It raises nothing, for that would end the whole batch: once `failed`, only the end is left.
    """

    def __init__(self, matcher: llguidance.LLMatcher, end_tokens: frozenset[int]) -> None:
        self._matcher = matcher
        self._end_tokens = end_tokens
        self._started = False

    @property
    def complete(self) -> bool:
        """Whether what was written so far is a whole answer."""
        return not self.failed and bool(self._matcher.is_stopped() or self._matcher.is_accepting())

    @property
    def failed(self) -> bool:
        """Whether the matcher has given up, because the schema is too complex for it."""
        return bool(self._matcher.is_error())

    def __call__(self, tokens: mx.array, logits: mx.array) -> mx.array:
        """Mask the logits (1 × vocabulary) that follow the tokens; the first call follows the prompt."""
        if self._started and not self._matcher.is_stopped():
            token = int(tokens[-1])
            if token not in self._end_tokens:
                self._matcher.consume_token(token)
        self._started = True
        return mx.where(mx.array(self._allowed(logits.shape[-1])), logits, mx.array(-mx.inf, logits.dtype))

    def _allowed(self, size: int) -> Any:
        if self._matcher.is_stopped() or self.failed:
            return np.isin(np.arange(size), list(self._end_tokens))
        mask = llguidance.numpy.allocate_token_bitmask(1, size)
        llguidance.numpy.fill_next_token_bitmask(self._matcher, mask)
        return np.unpackbits(mask.view(np.uint8), bitorder="little")[:size].astype(bool)
