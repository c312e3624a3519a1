"""The test kit: the clock, stubs, histories, and bad input."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis

from stepflow import ConfigurationError, Context, RunFailedError, Stepflow
from stepflow.testing import (
    Harness,
    Stuck,
    SyncHarness,
    UnstubbedStepError,
    UnusedStubError,
    failed,
    invoked,
    pending,
    ran,
    sent,
    signalled,
    slept,
    waited,
)
from tests.integration.apps import timed
from tests.integration.apps.timed import app
from tests.support.processes import WorkerThread

pytestmark = pytest.mark.single_server("a harness has a server of its own")
START = datetime(2026, 12, 1, 12, tzinfo=UTC)


@pytest.fixture
def h() -> Iterator[SyncHarness]:
    with SyncHarness(app, start=START) as harness:
        yield harness


# -- time ----------------------------------------------------------------------------


def test_days_pass_at_once_and_in_order(h: SyncHarness) -> None:
    began = time.monotonic()
    run = h.start(timed.order, {"n": 17, "cool": "3d", "patience": "30d"})
    h.idle()
    assert h.history(run) == [ran("charge"), pending("cool")]
    h.advance("2d23h")
    assert h.history(run)[1] == pending("cool")
    h.advance("1h")
    assert h.history(run) == [ran("charge"), slept("cool", "3d"), pending("ship")]
    h.send("timed/shipped", {"n": 18})
    with pytest.raises(
        Stuck, match=r"waits for event timed/shipped with data\.n = 17: send what it waits for"
    ) as stuck:
        h.finish(run)
    assert stuck.value.reason.kind == "waiting"
    h.advance("31d")
    assert h.finish(run) == [17, False, "sent thanks"]
    assert h.history(run) == [ran("charge"), slept("cool", "3d"), waited("ship", timed_out=True), ran("mail")]
    assert timedelta(days=34) <= h.clock.now() - START < timedelta(days=34, minutes=1)
    assert len(h.calls("tick")) == 34
    assert time.monotonic() - began < 15


def test_a_run_is_finished_by_skipping_its_times(h: SyncHarness) -> None:
    (run,) = h.send("timed/ordered", {"n": 1, "cool": "40d", "patience": "1d"})
    h.until(lambda: h.history(run)[-1] == pending("ship"))
    h.send("timed/shipped", {"n": 1})
    assert h.finish(run) == [1, True, "sent thanks"]
    assert h.invoke("timed/parent", {"nap": "9d"}) == 2
    assert h.invoke(timed.unlucky) == "no bank"
    after = 86_400.0
    assert h.invoke(timed.patient, {"after": after}) == "late"
    assert h.clock.now() - START > timedelta(days=50)
    far = h.start(timed.order, {"n": 1, "cool": "30d", "patience": "1d"})
    with pytest.raises(Stuck, match="step 'cool' sleeps, after 10d"):
        h.finish(far, max_skip="10d")


def test_flow_control_delayed_starts_and_keys_that_expire_follow_the_clock(h: SyncHarness) -> None:
    for n in range(3):
        h.send("timed/typed", {"n": n})
    h.advance("10m")
    assert [run.output for run in app.runs("quiet", status="completed")] == [2]
    for _ in range(3):
        h.invoke(timed.sender)
    assert len(h.calls("hear")) == 1
    h.advance("1h")
    assert len(h.calls("hear")) == 2
    h.until("2026-12-01T15:00:00+00:00")
    assert len(h.calls("hear")) == 3
    run = h.start(timed.unlucky, delay="2d", id="once")
    assert h.start(timed.unlucky, id="once").id == run.id
    h.idle()
    assert not h.calls("charge")
    assert h.finish(run) == "no bank"
    h.advance("1d")
    assert h.start(timed.unlucky, id="once").id == run.id
    assert h.history(h.start(timed.unlucky)) in ([], [pending("charge")])


def test_a_frozen_clock_stands_still() -> None:
    with SyncHarness(app, start=START, frozen=True) as h:
        run = h.start(timed.order, {"n": 1, "cool": "50ms", "patience": "1s"})
        h.idle()
        time.sleep(0.1)
        assert h.clock.now() == START
        assert h.history(run) == [ran("charge"), pending("cool")]
        h.advance("50ms")
        assert h.history(run) == [ran("charge"), slept("cool", "50ms"), pending("ship")]


@pytest.mark.parametrize("replay", ["normal", "always"])
def test_the_histories_are_those_of_a_real_worker(
    url: str, run_worker: Callable[..., WorkerThread], replay: Any
) -> None:
    short = {"n": 5, "cool": "30ms", "patience": "40ms", "nap": "30ms", "after": 0.03}
    long = {"n": 5, "cool": "3d", "patience": "4h", "nap": "30d", "after": 3_600.0}
    flows = [timed.order, timed.unlucky, timed.patient, timed.parent, timed.child, timed.race, timed.sender]
    expected: dict[str, list[Any]] = {}
    with app.backend.moved(url, app.backend.partition.clock):
        worker = run_worker(app)
        for flow in flows:
            run = app.start(flow, short)
            output = run.result(timeout="20s")
            expected[flow.name] = [output, [(step.id, step.kind, step.attempts, step.state) for step in run.steps()]]
        worker.stop()
        app.close()
    with SyncHarness(app, replay=replay) as h:
        for flow in flows:
            run = h.start(flow, long)
            h.advance("5d") if flow in (timed.order, timed.race) else h.finish(run)
            steps = [(step.id, step.kind, step.attempts, step.state) for step in run.steps()]
            assert [h.finish(run), steps] == expected[flow.name]
        assert h.history(run) == [sent("tell")]
        assert h.history(h.start(timed.parent, {"nap": 0})) in ([], [pending("child")])


def test_code_that_does_something_else_on_a_replay_is_found() -> None:
    own, passes = Stepflow("fickle"), list[int]()

    @own.function("fickle", retries=0)
    async def fickle(ctx: Context) -> str:
        passes.append(1)
        await ctx.step.run(f"step {min(len(passes), 2)}", int)
        await ctx.step.run("last", int)
        return "done"

    with SyncHarness(own) as h:
        assert h.invoke(fickle) == "done"
        assert h.history(next(own.runs())) == [ran("step 1"), ran("last")]
    passes.clear()
    with SyncHarness(own, replay="always") as h:
        h.invoke(fickle)
        assert h.history(next(own.runs())) == [ran("step 1"), ran("step 2"), ran("last")]


# -- asyncio ---------------------------------------------------------------------------


async def test_the_twin_for_asyncio_leaves_the_event_loop_free() -> None:
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0)

    async with Harness(app, start=START) as h:
        ticking = asyncio.create_task(tick())
        h.stub("mail", returns="sent by a stub")
        (run,) = await h.send("timed/ordered", {"n": 1, "cool": "3d", "patience": "1d"})
        await h.advance("5d")
        assert await h.finish(run) == [1, False, "sent by a stub"]
        assert await run.aresult(timeout="5s") == [1, False, "sent by a stub"]
        assert (await h.history(run))[1] == slept("cool", "3d")
        assert await h.invoke(timed.parent, {"nap": "1d"}) == 2
        signal = await h.start(timed.race, {"patience": "1d"})
        await h.idle()
        await signal.asignal("go", {})
        await h.idle()
        assert await h.finish(signal) == "went"
        assert await h.history(signal) == [signalled("go")]
        await h.until(lambda: h.clock.now() > START)
        ticking.cancel()
    assert ticks > 10


# -- stubs -------------------------------------------------------------------------------


def test_a_stub_stands_in_for_a_handler_and_is_retried_and_checked_as_one(h: SyncHarness) -> None:
    h.stub(timed.charge, each=[TimeoutError("no answer"), timed.Receipt(number=3), timed.Receipt(number=4)])
    h.stub("mail", calls=lambda text: f"{text}!")
    data = {"n": 1, "cool": 0, "patience": 0}
    run = h.start(timed.order, data)
    assert h.finish(run) == [3, False, "thanks!"]
    assert h.history(run)[0] == ran("charge", attempts=2)
    h.stub("mail", raises=ValueError, times=3)
    bad = h.start(timed.order, data)
    with pytest.raises(RunFailedError, match="ValueError"):
        h.finish(bad)
    assert h.history(bad)[-1] == failed("mail", ValueError, attempts=3)
    h.stub("charge", returns="no receipt", function=timed.order)
    wrong = h.start(timed.order, data)
    with pytest.raises(RunFailedError, match="charge"):
        h.finish(wrong)
    assert [(call.args, call.attempt) for call in h.calls("charge")][:3] == [((1,), 1), ((1,), 2), ((1,), 1)]
    assert h.calls("charge")[0].function == "timed/order"


def test_steps_without_a_stub_fail_where_all_must_have_one() -> None:
    with SyncHarness(app, steps="stub") as h:
        h.stub("charge", returns={"number": 1})
        run = h.start(timed.order, {"n": 1, "cool": "1d", "patience": 0})
        with pytest.raises(RunFailedError, match=r"step 'mail' has no stub: write h\.stub\('mail', returns=\.\.\.\)"):
            h.finish(run)
        assert h.history(run)[-1] == failed("mail", UnstubbedStepError)


# -- bad input -----------------------------------------------------------------------------


def test_a_stub_that_no_step_has_used_is_an_error_at_the_end() -> None:
    harness = SyncHarness(app)
    with pytest.raises(UnusedStubError, match="no step has used the stub for 'chrage': correct its name"), harness as h:
        h.stub("chrage", returns=1)
    with (
        pytest.raises(ConfigurationError, match="takes one of"),
        SyncHarness(app) as h,
    ):  # the error of the test is first
        h.stub("chrage", returns=h.stub("chrage"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "takes one of returns, raises, calls and each, got none"),
        ({"returns": 1, "raises": ValueError}, "got returns, raises"),
        ({"raises": "ValueError"}, "raises must be an exception, got 'ValueError'"),
        ({"calls": 1}, "calls must be a callable, got 1"),
        ({"each": "ab"}, "each must be a list of results and exceptions, got 'ab'"),
        ({"returns": 1, "times": 0}, "times must be an integer >= 1, got 0"),
    ],
)
def test_a_stub_that_does_not_say_one_thing_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        SyncHarness(app).stub("charge", **options)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((), {}, "takes one or several apps, got none"),
        ((app, app), {}, "have the same id"),
        (("app",), {}, "takes one or several apps, got 'app'"),
        ((app,), {"steps": "mock"}, 'steps must be "run" or "stub"'),
        ((app,), {"replay": True}, 'replay must be "normal" or "always"'),
        ((app,), {"start": datetime(2026, 1, 1)}, "start must be a datetime with a time zone"),
        ((app,), {"idle_timeout": "soon"}, "idle_timeout"),
    ],
)
def test_a_harness_that_cannot_work_is_refused(arguments: Any, options: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        SyncHarness(*arguments, **options)


def test_time_does_not_go_back_and_a_harness_is_used_once_at_a_time(h: SyncHarness) -> None:
    with pytest.raises(ConfigurationError, match="the clock does not go back"):
        h.advance("-3d")
    with pytest.raises(ConfigurationError, match="until: when must not be over"):
        h.until(START - timedelta(days=1))
    with pytest.raises(ConfigurationError, match="until: when must have a time zone"):
        h.until("2027-01-01T00:00:00")
    with pytest.raises(TimeoutError, match="the condition is not true"):
        h.until(lambda: False, max_skip="2d")
    with pytest.raises(ConfigurationError, match="this harness is in use"):
        h.__enter__()
    with pytest.raises(ConfigurationError, match="leave it before another one is entered"), SyncHarness(Stepflow("b")):
        pass
    with pytest.raises(ConfigurationError, match="the harness is not in use"):
        SyncHarness(app).idle()


def test_a_database_with_data_of_others_is_left_alone(url: str) -> None:
    with redis.Redis.from_url(url) as client:
        client.set("precious", 1)
        with (
            pytest.raises(ConfigurationError, match="is not empty: tests delete all its data"),
            SyncHarness(app, server=url),
        ):
            pass
        assert client.get("precious") == b"1"
        client.delete("precious")
        with SyncHarness(app, server=url) as h:
            assert h.invoke(timed.unlucky) == "no bank"
            assert client.dbsize()
            with (
                pytest.raises(ConfigurationError, match="leave it before another one is entered"),
                SyncHarness(Stepflow("b"), server=url),
            ):
                pass
        assert client.dbsize() == 0


def test_an_app_without_functions_is_refused_and_leaves_nothing_behind() -> None:
    with pytest.raises(ConfigurationError, match="app empty has no functions"), SyncHarness(Stepflow("empty")):
        pass
    with SyncHarness(app) as h:
        assert h.history(h.start(timed.parent, {"nap": 0})) in ([], [pending("child")], [invoked("child")])
