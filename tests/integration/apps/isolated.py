"""An app whose handlers are isolated: some never end, eat memory, crash their process or kill it."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import itertools
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stepflow import Attempt, Context, NonRetriableError, Retry, RetryAfterError, Stepflow, SyncContext
from tests.integration.apps.ledger import note

app = Stepflow("isolated")


@dataclass
class Point:
    """A value with a type."""

    x: int


class UnknownError(Exception):
    """An error whose constructor needs arguments."""

    def __init__(self, code: int, *, reason: str) -> None:
        super().__init__(f"{code}: {reason}")


@app.around_attempt
def around_sync(attempt: Attempt) -> Iterator[None]:
    """What the handler ``entered`` reads."""
    os.environ["AROUND"] = f"{attempt.function} {attempt.step_id}"
    yield


def pid(ledger: str = "") -> int:
    """The id of the process of a handler."""
    if ledger:
        note(ledger, f"pid {os.getpid()}")
    return os.getpid()


def entered() -> str:
    """What the context manager around the attempt has set."""
    return os.environ["AROUND"]


def moved(point: Point) -> Point:
    """A typed argument and a typed result."""
    print(f"moved from {point.x}")
    return Point(point.x + 1)


async def from_context(ctx: Context) -> dict[str, Any]:
    """What an async handler reads of its context."""
    ctx.logger.info("in a process")
    await asyncio.sleep(0)
    return {"attempt": ctx.attempt, "data": ctx.event.data, "key": ctx.step.idempotency_key, "run": ctx.run_id}


async def with_step(ctx: Context) -> None:
    """A step in a handler."""
    await ctx.step.run("inner", pid)


def never_ends(ledger: str) -> None:
    """Native code that keeps the GIL, so that no signal handler of Python runs."""
    note(ledger, f"pid {os.getpid()}")
    deque(itertools.repeat(0), maxlen=0)


def waits(ledger: str) -> None:
    """A handler that tidies up when it is ended."""
    note(ledger, f"pid {os.getpid()}")
    try:
        time.sleep(600)
    finally:
        note(ledger, "tidied up")


async def waits_async(ledger: str) -> None:
    """The same, in a task."""
    note(ledger, f"pid {os.getpid()}")
    try:
        await asyncio.sleep(600)
    finally:
        note(ledger, "tidied up")


def starts_another(ledger: str) -> None:
    """A handler that starts a process and waits for it."""
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as other:
        note(ledger, f"pid {other.pid}")


def forks(how: str) -> list[int]:
    """The exit code of a process that comes back from the handler like the handler, before it."""
    sys.stdout.flush()
    if (child := os.fork()) == 0:
        match how:
            case "raises":
                raise ValueError("the child")
            case "exits":
                sys.exit(7)
        return []
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])]


def eats_memory() -> None:
    """A handler that allocates until it is ended."""
    eaten = []
    while True:
        eaten.append(b"x" * 10_000_000)


def crashes(how: str) -> Any:
    """A handler that ends its process, or returns or raises what is no result."""
    match how:
        case "exit code":
            os._exit(3)
        case "segfault":
            ctypes.string_at(0)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "sys.exit":
            sys.exit("enough")
        case "left":  # the connection of its process stays open in another
            if os.fork() == 0:
                time.sleep(600)
            os._exit(4)
        case "forged":
            for number in range(3, 100):
                with contextlib.suppress(OSError):
                    if stat.S_ISSOCK(os.fstat(number).st_mode):
                        os.write(number, b"\xff" * 13)
            time.sleep(600)
        case "not JSON":
            return threading.Lock()
        case "own error":
            raise UnknownError(7, reason="odd")
    raise NonRetriableError("final")


def fails_with(kind: str, ctx: SyncContext) -> str:
    """Fails in the first attempt."""
    if ctx.attempt > 0:
        return f"attempt {ctx.attempt}"
    raise {"ConnectionError": ConnectionRefusedError("refused"), "later": RetryAfterError("later", 0)}.get(
        kind, ExceptionGroup("two", [UnknownError(1, reason="a"), ValueError("b")])
    )


def uploads(ctx: SyncContext, ledger: str, gate: str) -> Any:
    """Heartbeats: the first attempt dies, and the second one waits until it is told to end."""
    before = ctx.step.last_heartbeat
    ctx.step.heartbeat({"part": (before or {"part": 0})["part"] + 1})
    if before is None:
        note(ledger, "beaten")
        while not Path(gate).exists():
            time.sleep(0.01)
        os._exit(5)
    return before


def gated(ledger: str, gate: str) -> str:
    """Waits for a file."""
    note(ledger, f"pid {os.getpid()}")
    while not Path(gate).exists():
        time.sleep(0.01)
    return "done"


async def gated_async(ledger: str, gate: str) -> str:
    """The same, in a task."""
    note(ledger, f"pid {os.getpid()}")
    while not Path(gate).exists():
        await asyncio.sleep(0.01)
    return "done"


def polls(ctx: SyncContext, ledger: str) -> None:
    """A handler that looks whether it is needed."""
    note(ledger, "polls")
    while not ctx.step.cancelled:
        time.sleep(0.01)
    note(ledger, "cancelled")


@app.function("call")
async def call(ctx: Context) -> Any:
    """One isolated step: the name of the handler, its arguments, options. ``$ctx`` is the context."""
    name, args, options = ctx.event.data
    handler = globals()[name]
    given = [ctx if value == "$ctx" else Point(1) if value == "$point" else value for value in args]
    return await ctx.step.with_options(isolate="process", **({"retries": 0} | options)).run("work", handler, *given)


@app.function("call-sync")
def call_sync(ctx: SyncContext) -> Any:
    """The same, as a plain function."""
    name, args, options = ctx.event.data
    given = [ctx if value == "$ctx" else value for value in args]
    step = ctx.step.with_options(isolate="process", **({"retries": 0} | options))
    return step.run("work", globals()[name], *given)


@app.function("policy")
def policy(ctx: SyncContext) -> str:
    """A step with a policy that names classes of errors."""
    on = (OSError, UnknownError, ValueError)
    step = ctx.step.with_options(isolate="process", retries=Retry(3, initial=0, on=on))
    return step.run("work", fails_with, ctx.event.data, ctx)


@app.function("many")
async def many(ctx: Context) -> list[int]:
    """Isolated steps side by side."""
    step = ctx.step.with_options(isolate="process")
    return await asyncio.gather(*[step.run(f"work {n}", pid, ctx.event.data["ledger"]) for n in range(8)])


@app.function("plain")
async def plain(ctx: Context) -> int:
    """A step in the process of the worker."""
    return await ctx.step.run("work", pid)
