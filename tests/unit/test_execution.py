"""One step after another: replay over a list of memos, with no server."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import time
import warnings
from collections.abc import Awaitable, Callable

import pytest

from stepflow import Context, Event, LimitError, StepError, StepKindError, StepUsageError, SyncContext
from stepflow_engine.execution import Execution, Raised, Returned, Waiting
from stepflow_engine.failure import Failure
from stepflow_engine.ids import step_key
from stepflow_engine.memo import Memo
from stepflow_engine.retry import is_final
from stepflow_engine.step_attempt import attempt_step
from stepflow_engine.steps import RunRequest, StepKind
from stepflow_engine.thread_pool import ThreadPool
from tests.support.replay import data_memos, execution_of, on_run_loop, play, playing, replay

pytestmark = pytest.mark.usefixtures("each_loop")


async def echo(value: object) -> object:
    return value


async def three(ctx: Context) -> list[object]:
    return [await ctx.step.run(name, echo, name) for name in ("a", "b", "c")]


def test_each_step_is_performed_once_and_in_order() -> None:
    done = play(three)
    assert done.value == ["a", "b", "c"]
    assert done.performed == ["a", "b", "c"]


def test_a_step_that_has_a_memo_is_not_performed() -> None:
    done = play(three, data_memos(a=1, b=2))
    assert done.value == [1, 2, "c"]
    assert done.performed == ["c"]


def test_a_replay_with_all_memos_performs_nothing_and_gives_the_same() -> None:
    done = play(three)
    assert replay(three, done.memos).value == done.value


@pytest.mark.parametrize("kept", range(4))
def test_a_replay_from_any_prefix_of_the_memos_gives_the_same(kept: int) -> None:
    done = play(three)
    assert play(three, done.memos[:kept]).value == done.value


def test_repeats_of_an_id_are_steps_of_their_own() -> None:
    async def repeats(ctx: Context) -> list[object]:
        return [await ctx.step.run("a", echo, n) for n in range(3)]

    done = play(repeats)
    assert done.value == [0, 1, 2]
    assert [key for key, _ in done.memos] == [step_key("a"), step_key("a", 1), step_key("a", 2)]
    assert replay(repeats, done.memos).value == done.value


def test_a_step_that_is_inserted_does_not_disturb_the_others() -> None:
    async def more(ctx: Context) -> list[object]:
        return [await ctx.step.run(name, echo, name) for name in ("new", "a", "b", "newer", "c")]

    done = play(more, data_memos(a=1, b=2, c=3))
    assert done.value == ["new", 1, 2, "newer", 3]
    assert done.performed == ["new", "newer"]


def test_a_step_that_is_removed_does_not_disturb_the_others() -> None:
    async def fewer(ctx: Context) -> list[object]:
        return [await ctx.step.run(name, echo, name) for name in ("a", "c")]

    assert replay(fewer, data_memos(a=1, b=2, c=3)).value == [1, 3]


def test_steps_that_are_moved_keep_their_memos() -> None:
    async def moved(ctx: Context) -> list[object]:
        return [await ctx.step.run(name, echo, name) for name in ("c", "a", "b")]

    assert replay(moved, data_memos(a=1, b=2, c=3)).value == [3, 1, 2]


def test_a_step_that_failed_raises_at_its_await_and_can_be_caught() -> None:
    async def careful(ctx: Context) -> str:
        try:
            await ctx.step.run("a", echo, 1)
        except StepError as error:
            return f"{error.step_id}: {error.name}: {error.message} | {error.cause and error.cause.name}"
        return "no error"

    cause = Failure("KeyError", "'k'")
    failed = [(step_key("a"), Memo("a", failure=Failure("ValueError", "bad", "Traceback", cause)))]
    assert replay(careful, failed).value == "a: ValueError: bad | KeyError"


def test_a_step_that_failed_and_is_not_caught_ends_the_code() -> None:
    failed = [(step_key("a"), Memo("a", failure=Failure("ValueError", "bad")))]
    error = replay(three, failed).error
    assert isinstance(error, StepError)
    assert str(error) == "step 'a' failed: ValueError: bad"


def test_data_shaped_like_an_error_is_data() -> None:
    shaped = {"error": {"name": "ValueError", "message": "no"}, "data": None}
    assert replay(three, data_memos(a=shaped, b=None, c=False)).value == [shaped, None, False]


def test_what_the_code_raises_is_an_outcome() -> None:
    async def breaks(ctx: Context) -> None:
        await ctx.step.run("a", echo, 1)
        raise KeyError("own")

    assert isinstance(play(breaks).error, KeyError)


@pytest.mark.parametrize(
    ("order", "unread"),
    [(("nap", "pay", "done"), [("e1", 2)]), (("pay", "nap", "done"), []), (("nap", "pay", "also", "done"), [])],
    ids=["cancelled", "received", "received beside"],
)
def test_an_event_is_unread_if_the_code_had_cancelled_its_wait(
    order: tuple[str, ...], unread: list[tuple[str, int]]
) -> None:
    came = {"outcome": "came", "kind": "wait"}
    memos = {
        "nap": Memo("nap", detail={"outcome": "time", "kind": "sleep"}),
        "pay": Memo("pay", data={"id": "e1", "name": "pay", "ts": 1, "data": None}, detail=came),
        "also": Memo("also", data={"id": "e1", "name": "pay", "ts": 1, "data": None}, detail=came),
        "done": Memo("done", data=1),
    }

    async def body(ctx: Context) -> None:
        beside = asyncio.ensure_future(ctx.step.wait_for_event("also", event="pay", timeout="1h"))
        racers = {
            asyncio.ensure_future(ctx.step.wait_for_event("pay", event="pay", timeout="1h")),
            asyncio.ensure_future(ctx.step.sleep("nap", "1h")),
        }
        _, losers = await asyncio.wait(racers, return_when=asyncio.FIRST_COMPLETED)
        for loser in losers:
            loser.cancel()
        await ctx.step.run("done", echo, 1)
        await asyncio.gather(beside, ctx.step.wait_for_event("next", event="pay", timeout="1h"))

    async def main() -> list[tuple[str, int]]:
        execution = execution_of(body)
        execution.add([(step_key(name), memos[name]) for name in order])
        assert isinstance(await execution.advance(), Waiting)
        assert execution.pending(step_key("next"))
        found = execution.unread_events()
        execution.close()
        return found

    assert on_run_loop(main()) == unread


def test_code_that_cancels_itself_has_raised() -> None:
    async def cancels(ctx: Context) -> None:
        await ctx.step.run("a", echo, 1)
        raise asyncio.CancelledError

    assert isinstance(play(cancels).error, asyncio.CancelledError)


def test_code_without_steps_returns() -> None:
    async def none(ctx: Context) -> int:
        return 1

    assert replay(none, []).value == 1


# -- what cannot work ----------------------------------------------------------------


def test_a_step_inside_a_steps_handler_is_refused_and_not_retried() -> None:
    async def nested(ctx: Context) -> object:
        async def inner() -> object:
            return await ctx.step.run("inner", echo, 1)

        return await ctx.step.run("outer", inner)

    done = play(nested)
    assert isinstance(done.error, StepError)
    assert (done.error.step_id, done.error.name) == ("outer", "StepUsageError")
    assert "inside the handler of another step" in done.error.message
    assert done.performed == ["outer"]


def test_a_step_in_a_task_that_a_handler_starts_is_refused() -> None:
    async def nested(ctx: Context) -> object:
        async def inner() -> object:
            return await asyncio.create_task(ctx.step.run("inner", echo, 1))

        return await ctx.step.run("outer", inner)

    assert "inside the handler of another step" in str(play(nested).error)


@pytest.mark.parametrize("step_id", ["", None, 7, "x" * 10_241, "\ud800"])
def test_an_id_that_cannot_be_one_is_refused(step_id: object) -> None:
    async def odd(ctx: Context) -> object:
        return await ctx.step.run(step_id, echo, 1)  # type: ignore[call-overload]

    assert isinstance(replay(odd, []).error, StepUsageError)


@pytest.mark.parametrize("step_id", ["ü ☃", "two words", "x" * 10_240, "a:1", "\0", "a\nb", "💥"])
def test_odd_ids_work(step_id: str) -> None:
    async def odd(ctx: Context) -> object:
        return await ctx.step.run(step_id, echo, 1)

    assert play(odd).value == 1


def test_a_handler_that_is_not_callable_is_refused_with_what_to_do() -> None:
    async def wrong(ctx: Context) -> object:
        return await ctx.step.run("a", "echo")  # type: ignore[call-overload]

    error = replay(wrong, []).error
    assert isinstance(error, StepUsageError)
    assert "must be callable, got str" in str(error)
    assert "pass the function itself" in str(error)


def test_a_run_with_too_many_steps_is_refused() -> None:
    async def main() -> object:
        execution = execution_of(three, max_steps=2)
        execution.add(data_memos(a=1, b=2, c=3))
        return await execution.advance()

    outcome = on_run_loop(main())
    assert isinstance(outcome, Raised)
    assert isinstance(outcome.error, LimitError)
    assert "at most 2 steps" in str(outcome.error)


# -- what waiting says ---------------------------------------------------------------


def outcome_of(handler: object) -> Waiting:
    outcome = replay(handler, []).outcome  # type: ignore[arg-type]
    assert isinstance(outcome, Waiting)
    return outcome


def test_one_step_that_is_all_the_code_waits_for_is_alone() -> None:
    outcome = outcome_of(three)
    assert ([call.id for call in outcome.fresh], outcome.blocked, outcome.alone) == (["a"], True, True)


def test_several_steps_are_not_alone() -> None:
    async def two(ctx: Context) -> object:
        return await asyncio.gather(ctx.step.run("a", echo, 1), ctx.step.run("b", echo, 2))

    outcome = outcome_of(two)
    assert ([call.id for call in outcome.fresh], outcome.blocked, outcome.alone) == (["a", "b"], True, False)


def test_a_step_beside_a_timer_is_neither_alone_nor_all_that_is_waited_for() -> None:
    async def timed(ctx: Context) -> object:
        return await asyncio.gather(ctx.step.run("a", echo, 1), asyncio.sleep(60))

    outcome = outcome_of(timed)
    assert ([call.id for call in outcome.fresh], outcome.blocked, outcome.alone) == (["a"], False, False)


async def own_future() -> object:
    return await asyncio.get_running_loop().create_future()


async def group_like_that_of_anyio() -> object:
    """A task that waits for others by a bare future."""
    loop = asyncio.get_running_loop()
    ended = loop.create_future()
    task = loop.create_task(own_future())
    task.add_done_callback(ended.set_result)
    return await ended


async def executor() -> object:
    return await asyncio.get_running_loop().run_in_executor(None, time.sleep, 0.2)


async def connection() -> object:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)
    try:
        return await own_future()
    finally:
        server.close()


async def closed_connection() -> object:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    transport, _ = await loop.create_connection(asyncio.Protocol, "127.0.0.1", port)
    transport.close()
    server.close()
    return await own_future()


@pytest.mark.parametrize(
    ("wait", "is_blocked"),
    [
        (own_future, True),
        (group_like_that_of_anyio, True),
        (closed_connection, True),
        (executor, False),
        (connection, False),
    ],
)
def test_a_run_is_blocked_unless_it_has_opened_something_outside(
    wait: Callable[[], Awaitable[object]], is_blocked: bool
) -> None:
    async def code(ctx: Context) -> object:
        return await asyncio.gather(ctx.step.run("a", echo, 1), wait())

    async def main() -> Waiting:
        execution = execution_of(code)
        outcome = await execution.advance()
        with contextlib.suppress(TimeoutError):  # until a connection is made, the step is fresh but the run not blocked
            async with asyncio.timeout(0.1):
                outcome = await execution.advance()
        execution.close()
        await asyncio.sleep(0.01)
        assert isinstance(outcome, Waiting)
        return outcome

    outcome = on_run_loop(main())
    assert outcome.blocked is is_blocked
    assert not outcome.alone


def test_a_touch_of_a_run_is_reported_once() -> None:
    async def main() -> None:
        touched: list[int] = []
        activity = execution_of(three).activity
        activity.on_touch = lambda: touched.append(1)
        activity.touch()
        activity.touch()
        assert touched == [1]

    on_run_loop(main())


def test_a_step_is_fresh_once() -> None:
    async def main() -> None:
        async def two(ctx: Context) -> object:
            return await asyncio.gather(ctx.step.run("a", echo, 1), ctx.step.run("b", echo, 2))

        execution = execution_of(two)
        first = await execution.advance()
        second = await execution.advance()
        assert isinstance(first, Waiting)
        assert isinstance(second, Waiting)
        assert [call.id for call in first.fresh] == ["a", "b"]
        assert (second.fresh, second.blocked, second.alone) == ([], True, False)
        execution.request_again()
        third = await execution.advance()
        assert isinstance(third, Waiting)
        assert third.fresh == first.fresh
        execution.close()

    on_run_loop(main())


def test_the_last_step_of_several_is_not_alone_when_it_is_not_fresh() -> None:
    async def main() -> None:
        async def two(ctx: Context) -> object:
            return await asyncio.gather(ctx.step.run("a", echo, 1), ctx.step.run("b", echo, 2))

        execution = execution_of(two)
        await execution.advance()
        execution.add(data_memos(a=1))
        outcome = await execution.advance()
        assert isinstance(outcome, Waiting)
        assert (outcome.fresh, outcome.blocked, outcome.alone) == ([], True, False)
        execution.close()

    on_run_loop(main())


# -- memos that come -----------------------------------------------------------------


def test_memos_that_come_early_wait_for_those_before_them() -> None:
    async def main() -> None:
        execution = execution_of(three)
        a, b, c = data_memos(a=1, b=2, c=3)
        execution.offer(3, *c)
        execution.offer(2, *b)
        assert execution.has_gap
        waiting = await execution.advance()
        assert isinstance(waiting, Waiting)
        assert execution.applied == 0
        execution.offer(1, *a)
        assert (execution.applied, execution.has_gap) == (3, False)
        assert await execution.advance() == Returned([1, 2, 3])

    on_run_loop(main())


def test_a_memo_at_the_position_of_another_closes_the_pass() -> None:
    async def main() -> None:
        execution = execution_of(three)
        execution.add(data_memos(a=1))
        await execution.advance()
        ((b, memo),) = data_memos(b=2)
        execution.offer(1, b, memo)  # the server has lost the memo of a
        assert execution.closed

    on_run_loop(main())


def test_a_memo_that_is_offered_twice_counts_once() -> None:
    async def main() -> None:
        execution = execution_of(three)
        a, b, c = data_memos(a=1, b=2, c=3)
        for position, memo in ((1, a), (1, a), (2, b), (1, c), (3, c)):
            execution.offer(position, *memo)
        assert execution.applied == 3
        assert await execution.advance() == Returned([1, 2, 3])

    on_run_loop(main())


def test_a_pass_can_wait_until_the_code_asks_for_a_step() -> None:
    async def main() -> None:
        execution = execution_of(three)
        asked = asyncio.create_task(execution.requested(step_key("b")))
        await execution.advance()
        assert not asked.done()
        execution.add(data_memos(a=1))
        await execution.advance()
        await asked
        await execution.requested(step_key("b"))
        assert execution.was_requested(step_key("b"))
        assert not execution.was_requested(step_key("c"))
        assert (call := execution.pending(step_key("b"))) is not None
        assert call.id == "b"
        assert execution.pending_ids() == ["b"]
        execution.close()

    on_run_loop(main())


def test_a_pass_is_a_replay_until_its_memos_are_used_up() -> None:
    async def main() -> None:
        seen = []

        async def watched(ctx: Context) -> None:
            seen.append(ctx.logger.isEnabledFor(50))
            await ctx.step.run("a", echo, 1)
            seen.append(ctx.logger.isEnabledFor(50))
            await ctx.step.run("b", echo, 2)
            seen.append(ctx.logger.isEnabledFor(50))

        execution = execution_of(watched)
        execution.add(data_memos(a=1))
        await execution.advance()
        execution.add(data_memos(b=2))
        await execution.advance()
        assert seen == [False, True, True]

    on_run_loop(main())


def test_a_pass_that_is_closed_unwinds_its_tasks() -> None:
    async def main() -> None:
        unwound = []

        async def unwinds(ctx: Context) -> None:
            async def part(name: str) -> None:
                try:
                    await ctx.step.run(name, echo, 1)
                finally:
                    unwound.append(name)

            await asyncio.gather(part("a"), part("b"))

        execution = execution_of(unwinds)
        await execution.advance()
        execution.close()
        assert isinstance(await execution.advance(), Raised)
        assert sorted(unwound) == ["a", "b"]
        assert not execution.activity.tasks

    on_run_loop(main())


def test_a_pass_that_is_closed_before_its_first_turn_leaves_no_coroutine_that_was_never_awaited() -> None:
    async def main() -> None:
        async def code(ctx: Context) -> None: ...

        execution = execution_of(code)
        execution.start()
        execution.close()
        assert isinstance(await execution.advance(), Raised)

    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        on_run_loop(main())
        gc.collect()
    assert [str(one.message) for one in warned] == []


def test_a_pass_that_is_closed_asks_for_nothing_more() -> None:
    async def main() -> None:
        async def stubborn(ctx: Context) -> None:
            try:
                await ctx.step.run("a", echo, 1)
            finally:
                await ctx.step.run("clean up", echo, 1)

        execution = execution_of(stubborn)
        await execution.advance()
        execution.close()
        assert isinstance(await execution.advance(), Raised)
        assert not execution.was_requested(step_key("clean up"))

    on_run_loop(main())


def test_thousands_of_memos_are_replayed_without_a_turn_of_the_loop_each() -> None:
    async def many(ctx: Context) -> int:
        return sum([await ctx.step.run("n", echo, n) for n in range(5_000)])  # type: ignore[misc]

    memos = [(step_key("n", n), Memo("n", data=n)) for n in range(5_000)]
    assert replay(many, memos).value == sum(range(5_000))


def test_passes_on_one_loop_do_not_disturb_each_other() -> None:
    async def main() -> None:
        passes = await asyncio.gather(*[playing(three) for _ in range(20)])
        assert [done.value for done in passes] == [["a", "b", "c"]] * 20

    on_run_loop(main())


def test_a_request_says_what_to_call_and_with_what_policy() -> None:
    async def main() -> None:
        async def policy(ctx: Context) -> object:
            return await ctx.step.with_options(retries=2, timeout="1s").run("a", echo, 1)

        execution: Execution = execution_of(policy)
        outcome = await execution.advance()
        assert isinstance(outcome, Waiting)
        assert outcome.fresh[0].request == RunRequest(echo, (1,), {}, 2, 1_000)
        execution.close()

    on_run_loop(main())


CALLS: dict[StepKind, Callable[[Context], Awaitable[object]]] = {
    StepKind.RUN: lambda ctx: ctx.step.run("x", echo, 1),
    StepKind.INVOKE: lambda ctx: ctx.step.invoke("x", "other"),
    StepKind.SLEEP: lambda ctx: ctx.step.sleep("x", "1h"),
    StepKind.WAIT: lambda ctx: ctx.step.wait_for_event("x", event="paid", timeout="1h"),
    StepKind.SEND: lambda ctx: ctx.step.send_event("x", Event("paid")),
    StepKind.SIGNAL: lambda ctx: ctx.step.wait_for_signal("x", "go"),
    StepKind.ASK: lambda ctx: ctx.step.ask("x", schema=bool, timeout="1h"),
    StepKind.START: lambda ctx: ctx.step.start_child("x", "other"),
    StepKind.MAP: lambda ctx: ctx.step.map("x", echo, [1]),
}


@pytest.mark.parametrize("is_raced", [False, True])
@pytest.mark.parametrize("requested", StepKind)
@pytest.mark.parametrize("stored", StepKind)
def test_a_step_does_not_take_the_memo_of_a_step_of_another_kind(
    stored: StepKind, requested: StepKind, is_raced: bool
) -> None:
    async def code(ctx: Context) -> str:
        other = asyncio.create_task(ctx.step.run("other", echo, 1)) if is_raced else None
        try:
            await CALLS[requested](ctx)
        except StepKindError as error:
            return f"{error.step_id} {error.stored} {error.requested}"
        finally:
            if other is not None:
                await other
        return "same kind"

    detail = {} if stored is StepKind.RUN else {"kind": stored.value}
    if stored is StepKind.START:
        detail |= {"function": "app/other", "run_id": "r", "end_key": "k", "parent_close": "cancel"}
    data = ["id"] if requested in (StepKind.SEND, StepKind.MAP) else None
    memos = [(step_key("x"), Memo("x", data=data, detail=detail)), *data_memos(other=1)]
    expected = "same kind" if stored is requested else f"x {stored} {requested}"
    assert replay(code, memos).value == expected


def test_a_changed_kind_is_not_retried() -> None:
    assert is_final(StepKindError("x", stored="run", requested="sleep"))


def test_code_that_ignores_the_close_of_its_pass_does_not_keep_the_loop_busy() -> None:
    calls, stop = 0, False

    async def deaf(ctx: Context) -> None:
        nonlocal calls
        while calls < 1_000 and not stop:
            calls += 1
            with contextlib.suppress(BaseException):
                await ctx.step.run("a", echo, 1)

    async def main() -> None:
        nonlocal stop
        execution = execution_of(deaf)
        await execution.advance()
        execution.close()
        await asyncio.sleep(0.2)
        stop = True

    on_run_loop(main())
    assert 3 <= calls < 10


def test_a_thread_that_ignores_the_close_of_its_pass_does_not_keep_a_processor_busy() -> None:
    calls, stop = 0, False

    def deaf(ctx: SyncContext) -> None:
        nonlocal calls
        while calls < 1_000 and not stop:
            calls += 1
            with contextlib.suppress(BaseException):
                ctx.step.run("a", echo, 1)

    async def main() -> None:
        nonlocal stop
        execution = execution_of(deaf)
        await execution.advance()
        execution.close()
        await asyncio.sleep(0.2)
        stop = True

    on_run_loop(main())
    assert 3 <= calls < 10


def test_the_logger_is_silent_in_a_pass_that_only_looks_for_a_step_but_not_in_its_handlers() -> None:
    seen: dict[str, bool] = {}

    async def code(ctx: Context) -> None:
        def note(place: str) -> None:
            seen[place] = ctx.logger.isEnabledFor(50)

        note("code")
        await ctx.step.run("handler", note, "handler")

    async def main() -> None:
        execution = execution_of(code)
        execution.is_driven = False
        outcome = await execution.advance()
        assert isinstance(outcome, Waiting)
        request = outcome.fresh[0].request
        assert isinstance(request, RunRequest)
        await attempt_step(
            "handler",
            request,
            function="unit/f",
            run_id="run1",
            attempt=0,
            limit_bytes=100,
            threads=ThreadPool(),
        )
        execution.close()

    on_run_loop(main())
    assert seen == {"code": False, "handler": True}


def test_the_logger_is_silent_while_a_pass_is_unwound() -> None:
    seen: list[bool] = []

    async def code(ctx: Context) -> None:
        try:
            await ctx.step.run("a", echo, 1)
        finally:
            seen.append(ctx.logger.isEnabledFor(50))

    async def main() -> None:
        execution = execution_of(code)
        await execution.advance()
        execution.close()
        await asyncio.sleep(0.01)

    on_run_loop(main())
    assert seen == [False]
