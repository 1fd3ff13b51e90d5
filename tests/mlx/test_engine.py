"""The engine, with a batch that takes steps when a test lets it."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from concurrent.futures import wait as wait_for

import pytest

from providers.errors import BadRequest, Cancelled, NotReady, ProviderError, ServerError, TimedOut
from providers.mlx.engine import WIDTH, Engine
from providers.mlx.engines import Engines
from providers.mlx.question import Answer, Question

LONG = 60.0


class Steps:
    """A batch whose answers take as many steps as they have tokens."""

    def __init__(self, room: int = WIDTH, *, running: bool = True) -> None:
        self.room = room
        self.cannot_start: int | None = None
        self.go = threading.Event()
        self.stepping = threading.Event()
        self.dropped = threading.Event()
        self.errors: list[BaseException] = []
        self.closed = False
        self._left: dict[int, int] = {}
        self._started: set[int] = set()
        if running:
            self.go.set()

    def read(self, question: Question) -> int:
        if not question.messages:
            raise BadRequest("no messages")
        number = len(self._left)
        self._left[number] = question.max_tokens
        return number

    def start(self, number: int) -> bool:
        if number == self.cannot_start:
            raise ValueError("a number")
        if len(self._started) >= self.room:
            return False
        self._started.add(number)
        return True

    def step(self) -> Mapping[int, Answer | ProviderError]:
        self.stepping.set()
        assert self.go.wait(LONG)
        if self.errors:
            raise self.errors.pop()
        for number in self._started:
            self._left[number] -= 1
        ended = {number for number in self._started if not self._left[number]}
        self._started -= ended
        return {number: Answer(str(number), 1, 1, complete=True) for number in ended}

    def drop(self, numbers: Collection[int]) -> None:
        self._started -= set(numbers)
        self.dropped.set()

    def reset(self) -> None:
        self._started.clear()

    def close(self) -> None:
        self.closed = True


def ask(tokens: int = 3) -> Question:
    return Question([{"role": "user", "content": "Go on"}], tokens)


Start = Callable[[Callable[[], Steps]], Engine]


@pytest.fixture
def start() -> Iterator[Start]:
    """Makes engines; ends them after the test."""
    made: list[Engine] = []

    def start(load: Callable[[], Steps]) -> Engine:
        made.append(Engine(load))
        return made[-1]

    yield start
    for engine in made:
        engine.close()


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(32) as pool:
        yield pool


def submit(
    threads: ThreadPoolExecutor, engine: Engine, tokens: int = 3
) -> tuple[Future[Answer], threading.Event]:
    cancelled = threading.Event()
    return threads.submit(engine.ask, ask(tokens), cancelled), cancelled


def test_requests_of_many_threads_share_their_steps(start: Start, threads: ThreadPoolExecutor) -> None:
    batch = Steps(running=False)
    engine = start(lambda: batch)
    asked = [submit(threads, engine, 10)[0] for _ in range(WIDTH)]
    assert batch.stepping.wait(LONG)
    while engine.figures.running + engine.figures.waiting < WIDTH:
        threading.Event().wait(0.001)

    batch.go.set()

    assert all(future.result(LONG).complete for future in asked)
    assert engine.figures.widest == WIDTH
    assert engine.figures.steps <= 20


def test_more_than_the_width_wait_their_turn(start: Start, threads: ThreadPoolExecutor) -> None:
    engine = start(Steps)

    asked = [submit(threads, engine)[0] for _ in range(3 * WIDTH)]

    assert len({future.result(LONG).text for future in asked}) == 3 * WIDTH
    assert engine.figures.widest <= WIDTH


def test_a_request_for_which_there_is_no_memory_waits(start: Start, threads: ThreadPoolExecutor) -> None:
    engine = start(lambda: Steps(room=1))

    asked = [submit(threads, engine)[0] for _ in range(4)]

    assert all(future.result(LONG).complete for future in asked)
    assert engine.figures.widest == 1


def test_a_model_is_loaded_once_for_all_who_wait(start: Start, threads: ThreadPoolExecutor) -> None:
    engine = start(Steps)

    wait_for([threads.submit(engine.warm) for _ in range(16)], LONG)

    assert engine.figures.loads == 1


def test_a_load_that_fails_fails_those_who_wait_and_is_tried_again_later(start: Start) -> None:
    problems: list[Exception] = [NotReady("too large", "mlx"), OSError("a bad disk")]

    def load() -> Steps:
        if problems:
            raise problems.pop(0)
        return Steps()

    engine = start(load)
    with pytest.raises(NotReady, match="too large"):
        engine.ask(ask(), threading.Event())
    with pytest.raises(NotReady, match="could not be loaded: OSError: a bad disk"):
        engine.warm()
    assert engine.ask(ask(), threading.Event()).complete


def test_a_request_that_is_cancelled_before_it_is_asked_starts_nothing(start: Start) -> None:
    engine = start(Steps)
    cancelled = threading.Event()
    cancelled.set()

    with pytest.raises(Cancelled):
        engine.ask(ask(), cancelled)

    assert engine.figures.loads == 0


def test_a_caller_leaves_at_once_while_the_model_loads(start: Start, threads: ThreadPoolExecutor) -> None:
    loading, loaded = threading.Event(), threading.Event()

    def load() -> Steps:
        loading.set()
        assert loaded.wait(LONG)
        return Steps()

    engine = start(load)
    future, cancelled = submit(threads, engine)
    assert loading.wait(LONG)
    cancelled.set()

    with pytest.raises(Cancelled):
        future.result(LONG)
    loaded.set()
    assert engine.ask(ask(), threading.Event()).complete


def test_a_caller_leaves_at_once_in_the_midst_of_a_step_and_its_request_is_dropped_after_it(
    start: Start, threads: ThreadPoolExecutor
) -> None:
    batch = Steps(running=False)
    engine = start(lambda: batch)
    future, cancelled = submit(threads, engine, 1000)
    assert batch.stepping.wait(LONG)

    cancelled.set()
    with pytest.raises(Cancelled):
        future.result(LONG)
    assert not batch.dropped.is_set()

    batch.go.set()
    assert batch.dropped.wait(LONG)
    assert engine.ask(ask(), threading.Event()).complete


def test_a_request_that_waits_in_the_queue_can_be_cancelled(
    start: Start, threads: ThreadPoolExecutor
) -> None:
    batch = Steps(room=1, running=False)
    engine = start(lambda: batch)
    first, _ = submit(threads, engine)
    assert batch.stepping.wait(LONG)
    second, cancelled = submit(threads, engine)

    cancelled.set()
    with pytest.raises(Cancelled):
        second.result(LONG)
    batch.go.set()

    assert first.result(LONG).complete


def test_a_request_times_out(start: Start) -> None:
    batch = Steps(running=False)
    engine = start(lambda: batch)

    with pytest.raises(TimedOut, match=r"within 0\.1 s"):
        engine.ask(ask(), threading.Event(), 0.1)
    batch.go.set()


def test_a_question_that_cannot_be_answered_harms_nobody_else(start: Start) -> None:
    engine = start(Steps)

    with pytest.raises(BadRequest, match="no messages"):
        engine.ask(Question([], 1), threading.Event())

    assert engine.ask(ask(), threading.Event()).complete


def test_a_question_that_cannot_be_started_harms_nobody_else(start: Start) -> None:
    batch = Steps()
    batch.cannot_start = 0
    engine = start(lambda: batch)

    with pytest.raises(ServerError, match=r"could not be started \(ValueError\)"):
        engine.ask(ask(), threading.Event())

    assert engine.ask(ask(), threading.Event()).complete


def test_a_step_that_fails_fails_what_runs_and_the_engine_goes_on(start: Start) -> None:
    batch = Steps()
    batch.errors.append(RuntimeError("out of memory"))
    engine = start(lambda: batch)

    with pytest.raises(ServerError, match=r"the model failed \(RuntimeError\)"):
        engine.ask(ask(), threading.Event())

    assert engine.ask(ask(), threading.Event()).complete
    assert engine.figures.loads == 1


def test_when_the_thread_dies_all_who_wait_and_all_who_come_hear_of_it(
    start: Start, threads: ThreadPoolExecutor
) -> None:
    batch = Steps(room=1, running=False)
    batch.errors.append(SystemExit())
    engine = start(lambda: batch)
    asked = [submit(threads, engine)[0] for _ in range(3)]
    assert batch.stepping.wait(LONG)
    batch.go.set()

    for future in asked:
        with pytest.raises(NotReady, match="died"):
            future.result(LONG)
    with pytest.raises(NotReady, match="died"):
        engine.warm()
    assert batch.closed


def test_closing_fails_what_is_still_asked(start: Start, threads: ThreadPoolExecutor) -> None:
    batch = Steps(running=False)
    engine = start(lambda: batch)
    future, _ = submit(threads, engine, 10_000_000)
    assert batch.stepping.wait(LONG)

    batch.go.set()
    engine.close()

    with pytest.raises(ServerError):
        future.result(LONG)
    assert batch.closed


def test_every_request_of_a_crowd_that_comes_and_goes_ends(start: Start, threads: ThreadPoolExecutor) -> None:
    engine = start(Steps)
    drawn = random.Random(7)
    timers = []
    asked = []
    for _ in range(400):
        future, cancelled = submit(threads, engine, drawn.randrange(1, 200))
        asked.append(future)
        if drawn.random() < 0.5:
            timers.append(threading.Timer(drawn.random() / 50, cancelled.set))
            timers[-1].start()

    outcomes = [future.exception() or future.result() for future in as_completed(asked, LONG)]

    for timer in timers:
        timer.join()
    assert len(outcomes) == 400
    assert {type(outcome) for outcome in outcomes} <= {Answer, Cancelled}
    assert engine.ask(ask(), threading.Event()).complete
    assert (engine.figures.running, engine.figures.waiting) == (0, 0)


def test_one_engine_for_a_model_however_many_ask_at_once(threads: ThreadPoolExecutor) -> None:
    engines = Engines()

    made = {future.result() for future in [threads.submit(engines.of, "model", Steps) for _ in range(32)]}

    assert len(made) == 1
    assert engines.of("another", Steps) not in made
