"""Text from a seed instead of a model: for tests and load. Everything it writes says that it is simulated.

With the option `flaw` it answers the built-in steps as `scaffold` does, with a bug planted in one file whose tests then
fail: for tests of repair.
"""

from __future__ import annotations

import itertools
import json
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, ClassVar

from providers.base import Provider
from providers.config import Config
from providers.errors import (
    AuthFailed,
    BadRequest,
    Cancelled,
    ProviderError,
    RateLimited,
    ServerError,
    TimedOut,
)
from providers.flaws import flawed_path, with_flaw
from providers.instances import NoInstanceError, smallest_instance
from providers.scaffold import ScaffoldProvider
from providers.types import Completion, FinishReason, Message, Request, Usage

DEFAULT_MODEL = "simulated-1"
STATEMENT = "This is simulated text: no model wrote it, and nothing in it is real."
VOCABULARY = """
    amber anchor archive autumn basin beacon bridge canvas cedar circle cloud copper current delta drift echo
    ember fabric field forest garden glass granite harbor hollow island journey lantern ledger maple meadow
    mirror morning north ocean orchard paper pattern pebble prairie quiet river sail shadow signal silver
    spring stone summit thread timber tower valley velvet violet water willow winter
"""

_ERRORS: Mapping[str, Callable[[str, str], ProviderError]] = {
    "timeout": TimedOut,
    "rate_limit": lambda message, name: RateLimited(message, name, 429, 1.0),
    "server": lambda message, name: ServerError(message, name, 500),
    "auth": lambda message, name: AuthFailed(message, name, 401),
}
_FAILURES = (*_ERRORS, "garbage", "truncated")
_FLAWS = ("once", "always")
_GARBAGE = "%%% [[ simulated garbage }} \\x00 not an answer <<< %%%"
_FILE = re.compile(r"^<file>\n(?P<path>.*)\n</file>$", re.MULTILINE)
_PLAN = re.compile(r"^<plan>\n(?P<plan>.*?)\n</plan>$", re.MULTILINE | re.DOTALL)
_EVIDENCE = re.compile(r"^<evidence>$", re.MULTILINE)
_COMMENTS = {
    **dict.fromkeys(("c", "go", "h", "java", "js", "jsx", "kt", "rs", "swift", "ts", "tsx"), "// {}"),
    **dict.fromkeys(("html", "xml"), "<!-- {} -->"),
    "css": "/* {} */",
    "sql": "-- {}",
}

_calls_of_this_process = itertools.count()


@dataclass(frozen=True, slots=True)
class Settings:
    """The options of a request that this provider knows.

    `fail_rate` is 1 when only `error` is given. A failing call raises that error; for `garbage` and
    `truncated` it answers badly instead. `flaw` plants a bug in what scaffold would write: `once` leaves it out when
    the prompt carries evidence for a repair, `always` never does.
    """

    latency_s: float = 0.0
    tokens_out: int = 64
    fail_rate: float = 0.0
    error: str = "server"
    seed: int = 0
    flaw: str | None = None

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Settings:
        """Read the known options and leave others alone; BadRequest says what is wrong with a value."""
        error = options.get("error", "server")
        if not isinstance(error, str) or error not in _FAILURES:
            raise _wrong("error", error, f"one of {', '.join(_FAILURES)}")
        flaw = options.get("flaw")
        if flaw is not None and flaw not in _FLAWS:
            raise _wrong("flaw", flaw, f"one of {', '.join(_FLAWS)}")
        return cls(
            latency_s=_number(options, "latency_s", 0.0, 3600.0, 0.0),
            tokens_out=_whole(options, "tokens_out", 1, 1_000_000, 64),
            fail_rate=_number(options, "fail_rate", 0.0, 1.0, 1.0 if "error" in options else 0.0),
            error=error,
            seed=_whole(options, "seed", -(2**63), 2**63, 0),
            flaw=flaw,
        )

    def fails(self, call: int) -> bool:
        """Whether the call with that number fails: the same for the same seed, drawn anew for each call."""
        return random.Random(f"{self.seed}:{call}").random() < self.fail_rate  # noqa: S311


class SimulatedProvider(Provider):
    """A provider that answers at once, or as slowly and as badly as its options say.

    Args:
        model: Reported as it stands; nothing depends on it.
        calls: Numbers the calls; by default one counter for the whole process, so that a retry draws anew.
    """

    name: ClassVar[str] = "simulated"

    endpoint = "simulated"
    keeps_to_max_tokens: ClassVar[bool] = False

    def __init__(
        self,
        model: str | None = None,
        config: Config | None = None,
        calls: Iterator[int] = _calls_of_this_process,
    ) -> None:
        super().__init__(model or DEFAULT_MODEL, config)
        self._calls = calls

    def check_options(self, options: Mapping[str, Any]) -> None:
        """See Provider."""
        Settings.of(options)

    def estimate(self, request: Request) -> Usage:
        """Its own count of words; see Provider."""
        words = sum(len(message["content"].split()) for message in request.messages)
        return Usage(words, Settings.of(request.options).tokens_out)

    def complete(self, request: Request) -> Completion:
        """Answer from the seed and the messages alone; see Provider."""
        settings = Settings.of(request.options)
        failure = settings.error if settings.fails(next(self._calls)) else None
        if request.cancelled.wait(settings.latency_s):
            raise Cancelled("the call was cancelled", self.name)
        if failure and failure in _ERRORS:
            raise _ERRORS[failure](f"simulated failure ({failure})", self.name)
        text, reason = _spoilt(_answer(request, settings), failure, "tool" if request.tool else "stop")
        usage = Usage(sum(len(message["content"].split()) for message in request.messages), len(text.split()))
        return Completion(text, usage, reason, self.model or DEFAULT_MODEL)


def prose(seed: int, messages: Sequence[Message], words: int) -> str:
    """Write the statement, then words drawn from the seed and the messages, `words` in all."""
    drawn = random.Random(f"{seed}:{json.dumps(list(messages), sort_keys=True)}")  # noqa: S311
    return " ".join([STATEMENT, *drawn.choices(VOCABULARY.split(), k=max(0, words - len(STATEMENT.split())))])


def _answer(request: Request, settings: Settings) -> str:
    asked = next((message["content"] for message in request.messages if message["role"] == "user"), "")
    found = _FILE.findall(asked)
    if settings.flaw and (request.tool or found):
        return _flawed(request, settings.flaw, asked, found[-1] if found else "")
    if request.tool:
        return _arguments(request.tool.schema)
    text = prose(settings.seed, request.messages, settings.tokens_out)
    return _fenced(found[-1], text) if found else text


def _flawed(request: Request, flaw: str, asked: str, path: str) -> str:
    """Return what scaffold answers, with the bug in the one file that has it."""
    text = ScaffoldProvider().complete(request).text
    if path != _flawed_file(asked) or (flaw == "once" and _EVIDENCE.search(asked)):
        return text
    head, code = text.split("\n", 1)
    body, fence = code.rsplit("\n", 1)
    return "\n".join([head, with_flaw(body), fence])


def _flawed_file(asked: str) -> str | None:
    found = _PLAN.search(asked)
    files = json.loads(found["plan"])["files"] if found else []
    return flawed_path(file["path"] for file in files)


def _arguments(schema: Mapping[str, Any]) -> str:
    try:
        examples = schema.get("examples")
        return json.dumps(examples[0] if examples else smallest_instance(schema))
    except NoInstanceError as error:
        raise BadRequest(f"the tool's schema cannot be simulated: {error}", SimulatedProvider.name) from error


def _spoilt(text: str, failure: str | None, reason: FinishReason) -> tuple[str, FinishReason]:
    """Return the text and reason as the two failures that answer leave them."""
    if failure == "garbage":
        return _GARBAGE, reason
    if failure == "truncated":
        return text[: len(text) // 2], "length"
    return text, reason


def _fenced(path: str, text: str) -> str:
    file = PurePosixPath(path)
    fence = "````" if file.suffix == ".md" else "```"
    language = {".md": "markdown", ".py": "python", ".json": "json"}.get(file.suffix, "")
    return f"{fence}{language}\n{_content(file, text)}\n{fence}"


def _content(file: PurePosixPath, text: str) -> str:
    """Return a valid file of that kind that does nothing and says so."""
    if file.suffix == ".json":
        return json.dumps({"simulated": True})
    if file.suffix == ".md":
        return f"# {file.name}\n\n{text}"
    comment = _COMMENTS.get(file.suffix.removeprefix("."), "# {}")
    lines = [comment.format(line) for line in _wrapped(text)]
    return "\n".join([*lines, *(_SIMULATED_TEST if _is_test(file) else [])])


def _is_test(file: PurePosixPath) -> bool:
    among_tests = "tests" in file.parts and file.stem not in {"__init__", "conftest"}
    return file.suffix == ".py" and (among_tests or file.name.startswith("test_"))


_SIMULATED_TEST = [
    "",
    "",
    "def test_simulated() -> None:",
    "    # Simulated: it tests nothing, it is there to be collected.",
    "    assert True",
]


def _wrapped(text: str) -> list[str]:
    words = text.split()
    return [" ".join(words[start : start + 12]) for start in range(0, len(words), 12)]


def _number(options: Mapping[str, Any], name: str, low: float, high: float, default: float) -> float:
    value = options.get(name, default)
    if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value <= high:
        raise _wrong(name, value, f"a number from {low:g} to {high:g}")
    return float(value)


def _whole(options: Mapping[str, Any], name: str, low: int, high: int, default: int) -> int:
    value = options.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise _wrong(name, value, f"a whole number from {low} to {high}")
    return int(value)


def _wrong(name: str, value: object, right: str) -> BadRequest:
    return BadRequest(f"option {name} is {value!r}; it must be {right}", SimulatedProvider.name)
