"""One thread that owns a model: it loads it, and batches what many threads ask. It knows nothing of MLX.

A caller waits in its own thread and looks at its own deadline, so it never waits for a long prefill, a load or a
queue once it has stopped wanting the answer; the engine drops what nobody waits for with its next step.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Protocol

from providers.errors import Cancelled, NotReady, ProviderError, ServerError, TimedOut
from providers.mlx.question import NAME, Answer, Question

WIDTH = 8
"""Requests that are worked on together. More would make each of them slower and hardly make more tokens a second."""
_LOOK_S = 0.05
"""How often a caller that waits looks whether it still wants the answer."""
_IDLE_S = 0.25
"""How often an engine with nothing to do looks whether the process is ending."""

FORKED = (
    "MLX was used before this process was forked and would hang here; use worker threads, not child processes"
)

log = logging.getLogger(__name__)


class Batch(Protocol):
    """A loaded model and what it works on, by numbers that it gives. One thread makes it, uses it and closes it."""

    def read(self, question: Question) -> int:
        """Take in a question without working on it yet; ProviderError when it can never be answered here."""

    def start(self, number: int) -> bool:
        """Work on a question from the next step on; False when there is no memory for it beside the others."""

    def step(self) -> Mapping[int, Answer | ProviderError]:
        """Go on by a token each; return those that have ended."""

    def drop(self, numbers: Collection[int]) -> None:
        """Forget questions, whether they were started or not."""

    def reset(self) -> None:
        """Forget every question that was started: a step failed, and nobody knows how far it got."""

    def close(self) -> None:
        """Free the model. The thread does nothing more with it."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What an engine has done: loads that succeeded, steps, the most requests in one step, and what it has now."""

    loads: int = 0
    steps: int = 0
    widest: int = 0
    running: int = 0
    waiting: int = 0


@dataclass(eq=False, slots=True)
class _Job:
    """A question and who waits for it; without a question, somebody waits until the model is loaded."""

    question: Question | None
    answer: Future[Answer | None] = field(default_factory=Future)

    @property
    def unwanted(self) -> bool:
        return self.answer.cancelled()

    def end(self, outcome: Answer | ProviderError | None) -> None:
        """Hand over what came of it, unless nobody waits any more; each caller gets an error of its own."""
        if not self.answer.set_running_or_notify_cancel():
            return
        if isinstance(outcome, ProviderError):
            self.answer.set_exception(type(outcome)(*outcome.args))
        else:
            self.answer.set_result(outcome)


class Engine:
    """A model, loaded when it is first needed and kept. Its thread starts with the first request.

    The thread is no daemon: at the end of the process it fails what is still asked and lets go of the model properly,
    else the process aborts. A load that fails is tried again by the next request.
    """

    def __init__(self, load: Callable[[], Batch]) -> None:
        self._load = load
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._pid = os.getpid()
        self._ended: ProviderError | None = None
        self._closing = False
        self._inbox: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        self._batch: Batch | None = None
        self._waiting: deque[tuple[int, _Job]] = deque()
        self._running: dict[int, _Job] = {}
        self._figures = Figures()

    @property
    def figures(self) -> Figures:
        """What it has done so far."""
        done = self._figures
        waiting = len(self._waiting) + self._inbox.qsize()
        return Figures(done.loads, done.steps, done.widest, len(self._running), waiting)

    def ask(self, question: Question, cancelled: threading.Event, timeout_s: float | None = None) -> Answer:
        """Wait for an answer.

        Raises:
            Cancelled: The event was set.
            TimedOut: It took longer than that.
            ProviderError: What the model said, or why there is none.
        """
        answer = self._wait(_Job(question), cancelled, timeout_s)
        assert answer is not None  # noqa: S101 - only a job without a question ends with None
        return answer

    def warm(self, cancelled: threading.Event | None = None) -> None:
        """Wait until the model is loaded. Raises ProviderError when it cannot be."""
        self._wait(_Job(None), cancelled or threading.Event(), None)

    def close(self) -> None:
        """End the thread and free the model; what is still asked fails."""
        self._closing = True
        if self._thread:
            self._thread.join()

    def _wait(self, job: _Job, cancelled: threading.Event, timeout_s: float | None) -> Answer | None:
        due = time.monotonic() + timeout_s if timeout_s else None
        try:
            if not cancelled.is_set():
                self._submit(job)
            while not cancelled.is_set():
                if due and time.monotonic() > due:
                    raise TimedOut(f"no whole answer within {timeout_s:g} s", NAME)
                try:
                    return job.answer.result(_LOOK_S)
                except TimeoutError:
                    continue
            raise Cancelled("cancelled", NAME)
        finally:
            job.answer.cancel()  # nothing, when it has ended

    def _submit(self, job: _Job) -> None:
        if self._pid != os.getpid():  # before the lock, which may have been held by a thread that is not here
            raise NotReady(FORKED, NAME)
        with self._lock:
            if self._ended:
                raise type(self._ended)(*self._ended.args)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="mlx", daemon=False)
                self._thread.start()
            self._inbox.put(job)

    def _run(self) -> None:
        ended: ProviderError = ServerError("the model was closed: the process is ending", NAME)
        try:
            while threading.main_thread().is_alive() and not self._closing:
                self._turn()
        except BaseException as error:
            log.exception("the thread of the MLX model died")
            ended = NotReady(
                f"the MLX engine of this process died ({type(error).__name__}); restart it", NAME
            )
        finally:
            with self._lock:
                self._ended = ended
            _end(self._everything(), ended)
            if self._batch:
                self._batch.close()
                self._batch = None

    def _turn(self) -> None:
        for job in self._arrivals():
            self._take(job)
        self._drop_unwanted()
        while self._waiting and len(self._running) < WIDTH and self._start(*self._waiting[0]):
            self._waiting.popleft()
        if self._running:
            self._step()

    def _arrivals(self) -> Iterator[_Job]:
        """Yield what was asked meanwhile; with nothing else to do, wait a little for it."""
        idle = not (self._running or self._waiting)
        try:
            yield self._inbox.get(timeout=_IDLE_S) if idle else self._inbox.get_nowait()
            while True:
                yield self._inbox.get_nowait()
        except queue.Empty:
            return

    def _take(self, job: _Job) -> None:
        if job.unwanted:
            return
        try:
            batch = self._loaded()
        except ProviderError as error:
            _end([job, *self._queued()], error)
            return
        if job.question is None:
            job.end(None)
            return
        try:
            self._waiting.append((batch.read(job.question), job))
        except ProviderError as error:
            job.end(error)
        except Exception as error:
            log.exception("a question could not be read")
            job.end(ServerError(f"the question could not be read ({type(error).__name__})", NAME))

    def _loaded(self) -> Batch:
        if self._batch is None:
            try:
                self._batch = self._load()
            except ProviderError:
                raise
            except Exception as error:
                log.exception("the model could not be loaded")
                raise NotReady(
                    f"the model could not be loaded: {type(error).__name__}: {error}"[:300], NAME
                ) from error
            self._figures = Figures(self._figures.loads + 1, self._figures.steps, self._figures.widest)
        return self._batch

    def _drop_unwanted(self) -> None:
        gone = [number for number, job in (*self._waiting, *self._running.items()) if job.unwanted]
        if gone and self._batch:
            self._batch.drop(gone)
            self._waiting = deque((number, job) for number, job in self._waiting if number not in gone)
            self._running = {number: job for number, job in self._running.items() if number not in gone}

    def _start(self, number: int, job: _Job) -> bool:
        """Have the batch begin with a question; False when it has to wait on."""
        assert self._batch  # noqa: S101 - nothing waits without it
        try:
            if not self._batch.start(number):
                return False
        except Exception as error:
            log.exception("a question could not be started")
            self._batch.drop([number])
            job.end(ServerError(f"the question could not be started ({type(error).__name__})", NAME))
            return True
        self._running[number] = job
        return True

    def _step(self) -> None:
        assert self._batch  # noqa: S101 - nothing runs without it
        done = self._figures
        self._figures = Figures(done.loads, done.steps + 1, max(done.widest, len(self._running)))
        try:
            ended = self._batch.step()
        except Exception as error:
            log.exception("a step of the model failed")
            failed, self._running = self._running, {}
            self._batch.reset()
            _end(failed.values(), ServerError(f"the model failed ({type(error).__name__})", NAME))
            return
        for number, outcome in ended.items():
            self._running.pop(number).end(outcome)

    def _queued(self) -> Iterator[_Job]:
        while not self._inbox.empty():  # this thread alone takes from it
            yield self._inbox.get()

    def _everything(self) -> list[_Job]:
        return [*self._running.values(), *(job for _, job in self._waiting), *self._queued()]


def _end(jobs: Iterable[_Job], error: ProviderError) -> None:
    for job in jobs:
        job.end(error)
