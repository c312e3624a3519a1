"""An app whose handlers leave something behind that does not end: tasks, threads, processes."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import multiprocessing
import threading
import time
from collections.abc import Callable
from pathlib import Path

from stepflow import Context, Stepflow
from tests.integration.apps.ledger import count, note

app = Stepflow("stubborn", retries=0)
LONG_S = 60.0


async def catch_every_cancellation() -> None:
    """A handler that no cancellation ends."""
    end = time.monotonic() + LONG_S
    while time.monotonic() < end:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(1)


async def sleep_in_a_thread() -> None:
    """A handler whose thread nobody can interrupt."""
    await asyncio.to_thread(time.sleep, LONG_S)


async def leave_a_task() -> None:
    """A handler that ends before its task."""
    app.left = asyncio.create_task(catch_every_cancellation())  # type: ignore[attr-defined]
    await asyncio.sleep(0.1)


def leave_a_thread() -> None:
    """A handler that ends before its thread, which is no daemon."""
    threading.Thread(target=time.sleep, args=(LONG_S,)).start()


def register_an_exit_function() -> None:
    """A handler that registers a function for the end of the process, which does not end."""
    atexit.register(time.sleep, LONG_S)


STUBBORN: dict[str, Callable[[], object]] = {
    "cancel": catch_every_cancellation,
    "to-thread": sleep_in_a_thread,
    "task": leave_a_task,
    "thread": leave_a_thread,
    "atexit": register_an_exit_function,
}


@app.function("stay")
async def stay(ctx: Context) -> None:
    """Run a handler that leaves something behind."""
    note(ctx.event.data["ledger"], "begun")
    await ctx.step.run("stay", STUBBORN[ctx.event.data["how"]])


def _block() -> None:
    """Sleep for ever, whatever is raised in this thread."""
    while True:
        with contextlib.suppress(BaseException):
            time.sleep(LONG_S)


@app.function("block")
async def block(ctx: Context) -> int:
    """Block the event loop in the first execution of a step, with a thread that never ends if the data says so."""

    async def handler() -> int:
        note(ctx.event.data["ledger"], "executed")
        executed = count(Path(ctx.event.data["ledger"]))["executed"]
        if executed == 1:
            if ctx.event.data["thread"]:
                threading.Thread(target=_block).start()
            _block()
        return executed

    return await ctx.step.run("block", handler)


def _fork_and_terminate() -> int | None:
    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(LONG_S,))
    child.start()
    time.sleep(0.2)
    child.terminate()
    child.join(5)
    code = child.exitcode
    child.kill()
    return code


@app.function("fork")
async def fork(ctx: Context) -> int | None:
    """The exit code of a forked process that was terminated."""
    return await ctx.step.run("fork", _fork_and_terminate)
