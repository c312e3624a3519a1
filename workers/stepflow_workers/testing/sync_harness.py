"""SyncHarness: runs apps on a real server and a real worker, with a clock that the test turns."""

from __future__ import annotations

import contextlib
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from datetime import datetime
from types import TracebackType
from typing import Any, Literal

from stepflow import Function, Run, Stepflow
from stepflow.later import time_ms
from stepflow_broker.views.explain import Reason
from stepflow_engine.durations import Duration, duration_ms, show_duration
from stepflow_engine.errors import ConfigurationError
from stepflow_engine.product import NAME
from stepflow_workers.state.settings import WorkerSettings
from stepflow_workers.testing.clock import VirtualClock
from stepflow_workers.testing.errors import NotIdleError, Stuck, UnusedStubError
from stepflow_workers.testing.history import HistoryRecord, history_of
from stepflow_workers.testing.server import TestServer, own_server, server_at
from stepflow_workers.testing.stubs import MISSING, StepCallRecord, Stub, Stubs, action, named_function
from stepflow_workers.testing.time_travel import TimeTravel
from stepflow_workers.worker import StepWorker

__all__ = ["SyncHarness"]

_LEASE_MS = 3_660 * 86_400_000
"""Longer than any test skips: no job is lost by a jump."""
_GRACE_S = 1.0
_START_S = 20.0
_FROM_OUTSIDE = frozenset({"event", "signal", "ask", "code", "code_missing", "pause", "paused", "release"})
"""The reasons that end only by something that the test has to do."""


class SyncHarness:
    """A real server and a real worker in a thread, on which a test runs its apps, with a clock that the test turns.

    Enter it with ``with``. While it is entered, the apps use its server and its clock. The database is emptied at both
    ends. A process has one at a time. `Harness` is its asyncio twin.

    Args:
        apps: the apps whose functions the worker executes.
        server: the URL of an empty database, for example on a server in a container; ``None``: that of
            ``STEPFLOW_TEST_REDIS_URL``, else a server that is started once for the process.
        start: the first time of the clock, with a time zone; ``None``: now.
        frozen: whether the clock stands still between two calls that turn it.
        steps: ``"run"``: steps without a stub call their handlers. ``"stub"``: they fail with `UnstubbedStepError`.
        replay: ``"always"``: the code of a run is replayed from its memos after each step, which finds code that does
            something else on a replay.
        idle_timeout: how long a call waits for the worker in real time, before it raises `NotIdleError`.

    Attributes:
        clock: the time of the test: ``clock.now()``, ``clock.now_ms()``.

    Raises:
        ConfigurationError: an argument is invalid, there is no server program, the database is not empty, or another
            harness is in use.
        UnusedStubError: at the end of the block: no step has used a stub.

    Example::

        with SyncHarness(app) as h:
            run = h.start(remind, {"order": 17})
            h.advance("3d")
            assert h.finish(run) == "reminded"
    """

    def __init__(
        self,
        *apps: Stepflow,
        server: str | None = None,
        start: datetime | None = None,
        frozen: bool = False,
        steps: Literal["run", "stub"] = "run",
        replay: Literal["normal", "always"] = "normal",
        idle_timeout: Duration = "30s",
    ) -> None:
        self._apps = _checked_apps(apps)
        if steps not in ("run", "stub"):
            raise ConfigurationError(f'steps must be "run" or "stub", got {steps!r}')
        if replay not in ("normal", "always"):
            raise ConfigurationError(f'replay must be "normal" or "always", got {replay!r}')
        self._url = server
        self._longest_s = _duration_ms(idle_timeout, "idle_timeout") / 1000
        self._replays = replay == "always"
        self._stubs = Stubs(is_needed=steps == "stub")
        self._stack = contextlib.ExitStack()
        self._entered: tuple[StepWorker, TimeTravel] | None = None
        self.clock = VirtualClock(start, frozen=frozen)

    # -- the block -------------------------------------------------------------------

    def __enter__(self) -> SyncHarness:
        if self._entered is not None:
            raise ConfigurationError("this harness is in use: leave it before it is entered again")
        server = own_server() if self._url is None else server_at(self._url)
        server.take()
        with contextlib.ExitStack() as stack:
            stack.callback(server.leave)
            for app in self._apps:
                stack.enter_context(app.backend.moved(server.url, self.clock))
                stack.callback(app.close)
            worker = self._start_worker(server, stack)
            travel = TimeTravel(server.client, self.clock, worker, longest_s=self._longest_s)
            travel.settle()
            self._entered, self._stack = (worker, travel), stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, _: object, __: TracebackType | None) -> None:
        self._entered = None
        self._stack.close()
        if kind is None and self._stubs.unused:
            names = ", ".join(map(str, self._stubs.unused))
            raise UnusedStubError(f"no step has used the stub for {names}: correct its name, or remove it")

    def _start_worker(self, server: TestServer, stack: contextlib.ExitStack) -> StepWorker:
        settings = WorkerSettings(
            server.url,
            lease_ms=_LEASE_MS,
            grace_s=_GRACE_S,
            holds_runs=False,
            has_lease_sidecar=False,
            **self._replaying,
        )
        worker = StepWorker(self._apps, settings, clock=self.clock, replace_handler=self._stubs.replace)
        failed: list[BaseException] = []

        def work() -> None:
            try:
                worker.work()
            except BaseException as error:  # noqa: BLE001  it is raised in the thread of the test
                failed.append(error)

        thread = threading.Thread(target=work, name=f"{NAME}-test-worker", daemon=True)
        thread.start()
        stack.callback(_end_worker, worker, thread)
        deadline = time.monotonic() + _START_S
        while not worker.has_followed:
            if failed:
                raise failed[0]
            if time.monotonic() > deadline:
                raise NotIdleError(f"the worker did not start within {_START_S:g} s")
            time.sleep(0.001)
        return worker

    @property
    def _replaying(self) -> dict[str, Any]:
        return {"sticky": 0, "cached_runs": 0} if self._replays else {}

    @property
    def _worker(self) -> StepWorker:
        return self._inside()[0]

    @property
    def _travel(self) -> TimeTravel:
        return self._inside()[1]

    def _inside(self) -> tuple[StepWorker, TimeTravel]:
        if self._entered is None:
            raise ConfigurationError("the harness is not in use: write with SyncHarness(app) as h: ...")
        return self._entered

    # -- what a test does --------------------------------------------------------------

    def start(self, function: Function[Any, Any] | str, data: Any = None, **options: Any) -> Run[Any]:
        """Start a run, as `Stepflow.start` does with the same arguments; it does not wait.

        Example::

            run = h.start(remind, {"order": 17}, delay="1h")
        """
        self._inside()
        run: Run[Any] = self._app_of(function).start(function, data, **options)
        return run

    def send(self, event: str, data: Any = None, *, id: str | None = None) -> list[Run[Any]]:
        """Send an event, wait until nothing is left to do, and return the runs that it has started.

        Args:
            event: the name of the event.
            data: its data; JSON.
            id: makes it repeatable, as in `Stepflow.send`.

        Example::

            (run,) = h.send("shop/order.placed", {"order": 17})
        """
        self._inside()
        event_id = id or uuid.uuid4().hex
        app = self._apps[0]
        app.send(event, data, id=event_id)
        self.idle()
        runs: list[Run[Any]] = []
        for one in self._apps:
            runs += one.runs(event=event_id, limit=1_000)
        return runs

    def invoke(self, function: Function[Any, Any] | str, data: Any = None, *, max_skip: Duration = "366d") -> Any:
        """Start a run and `finish` it.

        Example::

            assert h.invoke(add, {"a": 1, "b": 2}) == 3
        """
        return self.finish(self.start(function, data), max_skip=max_skip)

    def idle(self) -> None:
        """Wait until nothing can happen without time or something from outside.

        Raises:
            NotIdleError: the worker still works after the `idle_timeout` of the harness.
        """
        self._travel.settle()

    def advance(self, by: Duration) -> None:
        """Let time pass: go from one due time to the next, and wait at each until nothing is left to do.

        Args:
            by: a duration, or seconds; at most 366 days.

        Raises:
            ConfigurationError: it is no duration, or negative: the clock does not go back.
            NotIdleError: the worker still works after the `idle_timeout` of the harness.

        Example::

            h.advance("3d")
        """
        travel, by_ms = self._travel, _duration_ms(by, "advance: by")
        travel.settle()
        travel.go_to(self.clock.now_ms() + by_ms)

    def until(self, when: datetime | str | Callable[[], object], *, max_skip: Duration = "366d") -> None:
        """Let time pass until a time, or until a condition is true after one of the due times.

        Args:
            when: a datetime with a time zone, ISO 8601 text with an offset, or a function without parameters.
            max_skip: how much time may pass until the condition is true.

        Raises:
            ConfigurationError: the time is invalid, or over.
            TimeoutError: nothing is due any more, or ``max_skip`` has passed, and the condition is not true.

        Example::

            h.until("2027-01-01T03:00:00+00:00")
            h.until(lambda: len(h.calls("remind")) == 2)
        """
        if not callable(when):
            self._until_time(when)
            return
        last_ms = self.clock.now_ms() + _duration_ms(max_skip, "max_skip")
        self.idle()
        while not when():
            if not self._skip(last_ms):
                raise TimeoutError(f"the condition is not true at {self.clock.now():%Y-%m-%d %H:%M:%S} UTC")

    def _until_time(self, when: datetime | str) -> None:
        try:
            at_ms = time_ms(when, "until: when")
        except ValueError as error:
            raise ConfigurationError(str(error)) from None
        if at_ms < self.clock.now_ms():
            raise ConfigurationError(f"until: when must not be over, got {when} at {self.clock.now()}")
        self._travel.go_to(at_ms)

    def finish(self, run: Run[Any], *, max_skip: Duration = "366d") -> Any:
        """Let as much time pass as the run needs to end, and return its output.

        Sleeps, delays and retries are skipped. The end of a wait for an event is not: send the event, or `advance`
        beyond the timeout.

        Args:
            max_skip: how much time may pass.

        Raises:
            Stuck: the run waits for an event, a signal, an answer or something else from outside, or for a time that
                is further away than ``max_skip``. The message says for what.
            RunFailedError, RunCancelledError, RunSkippedError: as `Run.result`.
        """
        last_ms = self.clock.now_ms() + _duration_ms(max_skip, "max_skip")
        self.idle()
        while not run.info().status.ended:
            reason = run.explain()
            if _waits_for_others(reason):
                raise Stuck(run.id, reason, f"{_text(reason)}: send what it waits for, or advance beyond its timeout")
            if not self._skip(last_ms):
                raise Stuck(
                    run.id, reason, f"{_text(reason)}, after {show_duration(_duration_ms(max_skip, 'max_skip'))}"
                )
        return run.result(timeout=self._longest_s)

    def _skip(self, last_ms: int) -> bool:
        """Go to the next due time; false if there is none before a time."""
        due_ms = self._travel.next_due_ms()
        if due_ms is None or due_ms > last_ms:
            return False
        self._travel.jump(due_ms)
        return True

    # -- stubs and what was done -----------------------------------------------------

    def stub(
        self,
        step: str | Callable[..., Any],
        *,
        returns: Any = MISSING,
        raises: BaseException | type[BaseException] = MISSING,
        calls: Callable[..., Any] = MISSING,
        each: Sequence[Any] = MISSING,
        function: Function[Any, Any] | str | None = None,
        times: int | None = None,
    ) -> Stub:
        """Put something in the place of the handler of a step. One of the first four options says what.

        The step is stored, retried, timed out and checked against the type of its handler as ever. The latest stub that
        fits stands in. A stub that no step has used is an error at the end of the block.

        Args:
            step: the id of the step, or its handler.
            returns: the result of each call.
            raises: the error of each call.
            calls: a function that is called in its place, with the same arguments; ``def`` or ``async def``.
            each: the results of the calls in turn; an exception in it is raised.
            function: only in runs of this function; a name is ``"app/id"``. ``None``: in all.
            times: only for so many calls; ``None``: for all.

        Raises:
            ConfigurationError: not exactly one of the four is given, or an option is invalid.

        Example::

            h.stub("charge", each=[TimeoutError("no answer"), "receipt-1"])
        """
        if not (isinstance(step, str) and step) and not callable(step):
            raise ConfigurationError(f"stub: step must be the id of a step or its handler, got {step!r:.100}")
        if times is not None and (isinstance(times, bool) or not isinstance(times, int) or times < 1):
            raise ConfigurationError(f"stub: times must be an integer >= 1, got {times!r}")
        return self._stubs.add(Stub(step, action(returns, raises, calls, each), named_function(function), times))

    def calls(self, step: str) -> list[StepCallRecord]:
        """The calls of the handler of a step, or of its stub, in all runs, the oldest first.

        Example::

            assert [call.args for call in h.calls("charge")] == [(17,)]
        """
        return [call for call in self._stubs.calls if call.step_id == step]

    def history(self, run: Run[Any]) -> list[HistoryRecord]:
        """The steps of a run: those that have ended, in the order of their results, then the others.

        Example::

            assert h.history(run) == [ran("reserve"), slept("cool", "3d"), waited("pay", timed_out=True)]
        """
        return history_of(run.steps())

    def _app_of(self, function: Function[Any, Any] | str) -> Stepflow:
        name = function.config.app if isinstance(function, Function) else str(function).partition("/")[0]
        return next((app for app in self._apps if app.id == name), self._apps[0])


def _checked_apps(apps: Sequence[Stepflow]) -> list[Stepflow]:
    if not apps or not all(isinstance(app, Stepflow) for app in apps):
        raise ConfigurationError(f"a harness takes one or several apps, got {', '.join(map(repr, apps)) or 'none'}")
    if len({app.id for app in apps}) < len(apps):
        raise ConfigurationError("two apps of a harness have the same id: change one of them")
    return list(apps)


def _duration_ms(value: Duration, what: str) -> int:
    try:
        return duration_ms(value, name=what)
    except ValueError as error:
        is_back = str(value).startswith("-")
        raise ConfigurationError(f"{error}{'; the clock does not go back' if is_back else ''}") from None


def _end_worker(worker: StepWorker, thread: threading.Thread) -> None:
    worker.stop()
    thread.join(_START_S)


def _leaves(reason: Reason) -> list[Reason]:
    if not reason.because or reason.kind in _FROM_OUTSIDE:
        return [reason]
    return [leaf for inner in reason.because for leaf in _leaves(inner)]


def _waits_for_others(reason: Reason) -> bool:
    """Whether only something from outside lets a run continue before the end of its waits."""
    return all(leaf.kind in _FROM_OUTSIDE for leaf in _leaves(reason))


def _text(reason: Reason) -> str:
    return "; ".join(leaf.text for leaf in _leaves(reason))
