"""The provider with a real model. What it says is of no interest; how it comes is."""

from __future__ import annotations

import importlib
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from providers.base import arguments, ask
from providers.errors import BadRequest, Cancelled, NotReady, TimedOut, TruncatedAnswer
from providers.mlx import MlxProvider
from providers.mlx.engine import WIDTH
from providers.mlx.engines import Engines
from providers.types import Completion, Message, Request, Tool

LONG = 120.0
SUBMIT = Tool(
    "submit",
    "Hand in.",
    {
        "type": "object",
        "properties": {
            "kind": {"enum": ["code", "test"]},
            "files": {
                "type": "array",
                "maxItems": 2,
                "items": {
                    "type": "object",
                    "properties": {"path": {"type": "string", "maxLength": 8}},
                    "additionalProperties": False,
                },
            },
        },
        "required": ["kind", "files"],
        "additionalProperties": False,
    },
)
YES = Tool("yes", "", {"type": "object", "properties": {"yes": {"const": True}}, "required": ["yes"]})


def say(text: str) -> list[Message]:
    return [{"role": "system", "content": ""}, {"role": "user", "content": text}]


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as pool:
        yield pool


def test_an_answer_that_reaches_the_limit_is_cut_there_and_every_token_is_counted(
    mlx: MlxProvider, small_model: str
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(small_model)
    prompt = tokenizer.apply_chat_template(
        say("Tell me a long story"), add_generation_prompt=True, return_dict=False
    )

    completion = mlx.generate(say("Tell me a long story"), max_tokens=8)

    assert completion.finish_reason == "length"
    assert completion.usage.tokens_out == 8
    assert completion.usage.tokens_in == len(prompt)
    assert completion.model == small_model
    assert tokenizer.encode(completion.text, add_special_tokens=False)


def test_an_answer_that_ends_by_itself_says_so(mlx: MlxProvider) -> None:
    completion = mlx.generate(say("Hi"), max_tokens=64)

    assert completion.finish_reason == "stop"
    assert 0 < (completion.usage.tokens_out or 0) < 64
    assert "<|im_end|>" not in completion.text


def test_a_seed_gives_the_same_answer_again(mlx: MlxProvider) -> None:
    options = {"max_tokens": 6, "temperature": 1.5, "top_p": 0.99, "top_k": 1000, "min_p": 0.001}

    one, same, other = (
        mlx.generate(say("Hi"), seed=seed, repetition_penalty=1.2, **options).text for seed in (1, 1, 2)
    )

    assert one == same
    assert one != other


def test_requests_of_many_threads_are_answered_together(
    mlx: MlxProvider, threads: ThreadPoolExecutor
) -> None:
    before = mlx.engine.figures.steps

    asked = [threads.submit(mlx.generate, say(f"Count from {start}"), max_tokens=8) for start in range(WIDTH)]
    answers = [future.result(LONG) for future in asked]

    steps = mlx.engine.figures.steps - before
    tokens = sum(answer.usage.tokens_out or 0 for answer in answers)
    assert mlx.engine.figures.widest > WIDTH // 2
    assert tokens > 2 * steps


def test_a_request_is_cancelled_in_the_midst_of_its_answer(
    mlx: MlxProvider, threads: ThreadPoolExecutor
) -> None:
    request = Request(say("Tell me a long story"), options={"max_tokens": 2000})
    before = mlx.engine.figures.steps
    answer = threads.submit(mlx.complete, request)
    _until(lambda: mlx.engine.figures.steps > before + 3)

    request.cancelled.set()
    since = time.monotonic()
    with pytest.raises(Cancelled):
        answer.result(LONG)

    assert time.monotonic() - since < 2
    _until(lambda: mlx.engine.figures.running == 0)


def test_a_request_is_cancelled_while_another_has_a_long_prompt(
    mlx: MlxProvider, threads: ThreadPoolExecutor
) -> None:
    long = Request(say("word " * 80), options={"max_tokens": 1})
    request = Request(say("Hi"), options={"max_tokens": 8})
    reading = threads.submit(mlx.complete, long)
    _until(lambda: mlx.engine.figures.running == 1)
    answer = threads.submit(mlx.complete, request)

    request.cancelled.set()
    since = time.monotonic()
    with pytest.raises(Cancelled):
        answer.result(LONG)
    assert time.monotonic() - since < 2

    long.cancelled.set()
    with pytest.raises(Cancelled):
        reading.result(LONG)


def test_a_request_that_takes_too_long_times_out(mlx: MlxProvider) -> None:
    with pytest.raises(TimedOut):
        mlx.generate(say("Tell me a long story"), max_tokens=2000, timeout_s=0.5)


def test_every_request_of_a_crowd_that_comes_and_goes_ends(
    mlx: MlxProvider, threads: ThreadPoolExecutor
) -> None:
    requests = [Request(say("Hi"), options={"max_tokens": 2 + number % 3}) for number in range(10)]
    asked = []
    for number, request in enumerate(requests):
        asked.append(threads.submit(mlx.complete, request))
        if number % 5 == 4:
            steps = mlx.engine.figures.steps
            _until(lambda steps=steps: mlx.engine.figures.steps > steps or asked[-1].done())
        if number % 2:
            requests[number - number % 3].cancelled.set()

    outcomes = [future.exception(LONG) or future.result() for future in asked]

    assert {type(outcome) for outcome in outcomes} <= {Completion, Cancelled}
    for request, outcome in zip(requests, outcomes, strict=True):
        assert isinstance(outcome, Completion) or request.cancelled.is_set()
    assert mlx.engine.figures.running == 0


def test_arguments_of_a_tool_fit_its_schema_whatever_is_asked(
    mlx: MlxProvider, threads: ThreadPoolExecutor
) -> None:
    def call(text: str, **options: Any) -> Completion:
        return mlx.complete(Request(say(text), SUBMIT, options={"max_tokens": 64, **options}))

    asked = [
        threads.submit(call, "List the files of a game"),
        threads.submit(call, "Answer in prose, no JSON!", temperature=2, seed=4, repetition_penalty=1.3),
    ]

    for completion in (future.result(LONG) for future in asked):
        assert completion.finish_reason == "tool"
        assert arguments(completion, SUBMIT)["kind"] in {"code", "test"}


def test_arguments_that_are_cut_off_are_not_used(mlx: MlxProvider) -> None:
    with pytest.raises(TruncatedAnswer):
        mlx.tool_call(say("Hi"), YES, max_tokens=2)


def test_an_answer_that_is_of_no_use_is_asked_for_again(mlx: MlxProvider) -> None:
    answers: list[Completion] = []

    def read(completion: Completion) -> Any:
        answers.append(completion)
        if len(answers) == 1:
            raise ValueError("say it once more")
        return json.loads(completion.text)

    completion, _ = ask(mlx.complete, Request(say("Yes?"), YES, options={"max_tokens": 32}), read)

    assert len(answers) == 2
    assert (completion.usage.tokens_in or 0) > (answers[0].usage.tokens_in or 0)


def test_a_schema_that_cannot_be_followed_is_refused(mlx: MlxProvider) -> None:
    tool = Tool("t", "T.", {"type": "object", "properties": {"a": {"type": "string", "pattern": "(?=a)b"}}})

    with pytest.raises(BadRequest, match="cannot be turned into a grammar"):
        mlx.tool_call(say("Hi"), tool)


@pytest.mark.parametrize("messages", [[], [{"role": "user", "content": "\ud800"}]])
def test_a_conversation_that_is_none_is_refused(mlx: MlxProvider, messages: list[Message]) -> None:
    with pytest.raises(BadRequest):
        mlx.generate(messages)
    with pytest.raises(BadRequest):
        mlx.tool_call(messages, SUBMIT)


def test_what_does_not_fit_the_context_is_refused(mlx: MlxProvider) -> None:
    with pytest.raises(BadRequest, match=r"the answer may have 8192; the model's context is 8192"):
        mlx.generate(say("Hi"), max_tokens=8192)
    with pytest.raises(BadRequest, match="the prompt has"):
        mlx.generate(say("word " * 9000))


def test_providers_of_one_model_share_what_is_loaded(mlx: MlxProvider, small_model: str) -> None:
    another = MlxProvider(f"{small_model}/../{Path(small_model).name}")

    another.warm()

    assert another.engine is mlx.engine
    assert mlx.engine.figures.loads == 1


def test_a_check_loads_nothing(small_model: str) -> None:
    engines = Engines()

    MlxProvider(small_model, engines=engines).check()

    assert engines.known(small_model) is None


def test_a_model_that_does_not_fit_is_not_loaded(small_model: str) -> None:
    def load(folder: Path) -> Any:
        return importlib.import_module("providers.mlx.model").load(folder, free=2**28)

    provider = MlxProvider(small_model, engines=Engines(), load=load)

    with pytest.raises(NotReady, match=r"needs 0\.50 GiB for its weights .* of 0\.25 GiB that are free"):
        provider.generate(say("Hi"), max_tokens=4)
    assert provider.engine.figures.loads == 0
    provider.engine.close()


def test_a_packed_model_answers_beside_another(mlx: MlxProvider, packed_model: str) -> None:
    packed = MlxProvider(packed_model, engines=Engines())

    with ThreadPoolExecutor(2) as threads:
        answers = list(
            threads.map(lambda provider: provider.generate(say("Hi"), max_tokens=4), (mlx, packed))
        )

    packed.engine.close()
    assert [answer.usage.tokens_out for answer in answers] == [4, 4]
    assert mlx.engine is not packed.engine


def test_a_chat_template_that_refuses_is_told(packed_model: str, tmp_path: Path) -> None:
    for file in Path(packed_model).iterdir():
        (tmp_path / file.name).symlink_to(file)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    config["chat_template"] = "{{ raise_exception('System role not supported') }}"
    (tmp_path / "tokenizer_config.json").unlink()
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    provider = MlxProvider(str(tmp_path), engines=Engines())

    with pytest.raises(BadRequest, match="template refuses the messages: System role not supported"):
        provider.generate(say("Hi"), max_tokens=1)
    provider.engine.close()


def _until(true: Any) -> None:
    due = time.monotonic() + LONG
    while not true():
        assert time.monotonic() < due
        threading.Event().wait(0.01)
