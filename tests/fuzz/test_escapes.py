"""Exceptions that are no `Exception`, at each place of a handler and of a function: a worker outlives all of them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable
from random import Random

import pytest

from stepflow import Context, RunFailedError, RunStatus, Stepflow, SyncContext
from tests.fuzz.cases import TALLY

_SHARE = 0.002
_BATCH = 200


class OwnError(BaseException):
    """A class of user code."""


class OddError(BaseException):
    """One whose text cannot be read."""

    def __str__(self) -> str:
        raise OwnError


KINDS: dict[str, Callable[[], BaseException]] = {
    "SystemExit": lambda: SystemExit(3),
    "KeyboardInterrupt": KeyboardInterrupt,
    "GeneratorExit": GeneratorExit,
    "CancelledError": asyncio.CancelledError,
    "StopIteration": StopIteration,
    "StopAsyncIteration": StopAsyncIteration,
    "OwnError": lambda: OwnError("own"),
    "OddError": OddError,
    "BaseExceptionGroup": lambda: BaseExceptionGroup("several", [OwnError(), SystemExit(4)]),
    "ValueError": lambda: ValueError("no"),
}
_COUNTS: Counter[str] = Counter()
"""How many exceptions each run has raised. Its event lists the places and the kinds, one for each attempt."""


class Raiser:
    """Raises the next exception of a run, at its place."""

    def __init__(self, ctx: Context | SyncContext) -> None:
        self._run, self._raises = ctx.run_id, ctx.event.data

    def __call__(self, place: str) -> None:
        number = _COUNTS[self._run]
        if number < len(self._raises) and self._raises[number][0] == place:
            _COUNTS[self._run] += 1
            raise KINDS[self._raises[number][1]]()


async def _handler(at: Raiser) -> str:
    at("handler: first")
    try:
        await asyncio.sleep(0)
        at("handler: after an await")
        await asyncio.gather(_in_a_task(at, "handler: in a task"), asyncio.sleep(0))
    finally:
        at("handler: finally")
    return "handled"


async def _in_a_task(at: Raiser, place: str) -> None:
    await asyncio.sleep(0)
    at(place)


def _plain_handler(at: Raiser, place: str) -> str:
    at(place)
    return "handled"


async def _branch(ctx: Context, at: Raiser) -> None:
    at("branch: first")
    await ctx.step.sleep("nap", "1ms")
    at("branch: after a step")


async def _body(ctx: Context) -> str:
    at = Raiser(ctx)
    at("body: first")
    await ctx.step.run("handler", _handler, at)
    await _in_a_task(at, "body: after an await")
    try:
        await asyncio.gather(
            ctx.step.run("thread", _plain_handler, at, "handler: in a thread"), _branch(ctx, at), asyncio.sleep(0)
        )
        await asyncio.create_task(_in_a_task(at, "body: in a task"))
    finally:
        at("body: finally")
    async with asyncio.TaskGroup() as group:
        group.create_task(_in_a_task(at, "body: in a task group"))
        group.create_task(ctx.step.sleep("rest", "1ms"))
    at("body: last")
    return "done"


def _plain_body(ctx: SyncContext) -> str:
    at = Raiser(ctx)
    at("plain: first")

    def branch() -> None:
        at("plain: in a branch")
        ctx.step.sleep("nap", "1ms")

    ctx.step.parallel(branch, lambda: ctx.step.run("thread", _plain_handler, at, "plain: in a handler"))
    try:
        ctx.step.run("handler", _handler, at)
    finally:
        at("plain: finally")
    at("plain: last")
    return "done"


PLACES = {
    "body": [
        "body: first",
        "handler: first",
        "handler: after an await",
        "handler: in a task",
        "handler: finally",
        "body: after an await",
        "handler: in a thread",
        "branch: first",
        "branch: after a step",
        "body: in a task",
        "body: finally",
        "body: in a task group",
        "body: last",
    ],
    "plain": [
        "plain: first",
        "plain: in a branch",
        "plain: in a handler",
        "handler: first",
        "handler: finally",
        "plain: finally",
        "plain: last",
    ],
}
"""The places of each function."""
Case = tuple[str, list[tuple[str, str]]]


_DROPPED: Case = ("body", [("body: in a task group", "CancelledError")])
"""A task group drops the cancellation of a task, as outside of stepflow."""


def _app(url: str, retries: int) -> Stepflow:
    app = Stepflow("escapes", redis_url=url)
    app.function("body", retries=retries)(_body)
    app.function("plain", retries=retries)(_plain_body)
    return app


def _outcomes(app: Stepflow, cases: Iterable[Case]) -> list[tuple[Case, RunStatus, str]]:
    """Execute runs at once; their status, and the text of their failure."""
    found = []
    runs = [(case, app.start(case[0], case[1])) for case in cases]
    for case, run in runs:
        text = ""
        try:
            assert run.result(30) == "done"
        except RunFailedError as error:
            text = f"{error.name}: {error.message}"
        found.append((case, run.status(), text))
    return found


def test_each_exception_at_each_place_is_the_failure_of_its_run_and_of_no_other(
    url: str, run_worker: Callable[..., object]
) -> None:
    app = _app(url, 0)
    run_worker(app)
    cases = [(function, [(place, kind)]) for function, places in PLACES.items() for place in places for kind in KINDS]
    TALLY.done += len(cases)
    for case, status, text in _outcomes(app, cases):
        assert (status, bool(text)) == ((RunStatus.COMPLETED, False) if case == _DROPPED else (RunStatus.FAILED, True))
    assert [text for _, _, text in _outcomes(app, [("body", []), ("plain", [])])] == ["", ""]


@pytest.mark.timeout(3600)
def test_runs_end_whatever_their_attempts_raise(url: str, run_worker: Callable[..., object]) -> None:
    app = _app(url, 2)
    run_worker(app)
    random, left = Random(TALLY.seed), max(20, round(TALLY.cases * _SHARE))
    while left > 0:
        cases = []
        for _ in range(min(left, _BATCH)):
            function = random.choice([*PLACES])
            raises = [(random.choice(PLACES[function]), random.choice([*KINDS])) for _ in range(random.randint(1, 6))]
            cases.append((function, raises))
        for case, status, text in _outcomes(app, cases):
            assert status is (RunStatus.FAILED if text else RunStatus.COMPLETED), case
        TALLY.done += len(cases)
        left -= len(cases)
