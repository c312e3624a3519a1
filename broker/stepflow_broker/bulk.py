"""Many runs at once: live ones that fit a selection, oldest first, and their cancelling.

It is written once, as a dialogue: a generator that yields calls and is sent their answers. `converse` holds it and
blocks, `aconverse` awaits. Runs are read in pages, and events only of those that fit otherwise, a few at a time: what
grows with the number of runs is the list of ids that were found, and nothing else.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from stepflow_broker.async_broker import AsyncBroker
from stepflow_broker.broker import Broker
from stepflow_broker.call import Call, command
from stepflow_broker.codes import Code
from stepflow_broker.keys import Keys
from stepflow_broker.runs import cancel_run
from stepflow_engine.cipher import PLAIN, Cipher
from stepflow_engine.expression import expression
from stepflow_engine.payloads import open_event, read_event
from stepflow_engine.states import RunStatus

__all__ = ["Cancelling", "Dialogue", "Selection", "aconverse", "cancel_runs", "converse", "find_live", "server_ms"]

T = TypeVar("T")
Dialogue = Generator[Sequence[Call[Any]], list[Any], T]
"""Yields calls, each list for one round trip, is sent their answers, and returns what it found."""

_PAGE = 500
"""How many runs are looked at in one round trip."""
_CHUNK = 50
"""How many events are in memory at once, and how many runs are cancelled in one round trip."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which live runs.

    Attributes:
        app, function: only runs of these; ``""``: any.
        statuses: only runs with one of these; empty: any.
        after_ms: only runs that were made at this time or later, in ms since the epoch.
        before_ms: only runs that were made before this time; ``None``: before now, by the server's clock.
        condition: an expression on ``event``, the run's, that must hold; ``""``: none.
        limit: at most so many; ``None``: all.
        cipher: opens the data of events.
    """

    app: str = ""
    function: str = ""
    statuses: frozenset[RunStatus] = frozenset()
    after_ms: int = 0
    before_ms: int | None = None
    condition: str = ""
    limit: int | None = None
    cipher: Cipher = PLAIN

    def names(self, status: RunStatus, app: str, function: str) -> bool:
        """Whether a run is of these functions, live, and in one of these statuses."""
        if status.ended or (self.statuses and status not in self.statuses):
            return False
        return self.app in ("", app) and self.function in ("", function)

    def holds(self, event: bytes | None) -> bool:
        """Whether the condition holds for a run's event; it does not for a run that was forgotten meanwhile.

        Raises:
            DecryptionError: the event's data cannot be opened.
        """
        if event is None:
            return False
        return expression(self.condition).holds(event=open_event(self.cipher, read_event(event)))


@dataclass(frozen=True, slots=True)
class Cancelling:
    """How runs are cancelled; see `cancel_run`."""

    failure: bytes
    retention_ms: int
    children: bool = True


def converse(broker: Broker, dialogue: Dialogue[T]) -> T:
    """Hold a dialogue with the server, and return what it found.

    Raises:
        ServerError: as `Broker.run_all`; what was done before stays done, and a new dialogue goes on from there.
    """
    try:
        calls = next(dialogue)
        while True:
            calls = dialogue.send(broker.run_all(calls))
    except StopIteration as end:
        found: T = end.value
        return found


async def aconverse(broker: AsyncBroker, dialogue: Dialogue[T]) -> T:
    """As `converse`, without blocking the event loop."""
    try:
        calls = next(dialogue)
        while True:
            calls = dialogue.send(await broker.run_all(calls))
    except StopIteration as end:
        found: T = end.value
        return found


def server_ms() -> Call[int]:
    """The server's time, in ms since the epoch."""
    return command(lambda reply: int(reply[0]) * 1000 + int(reply[1]) // 1000, "TIME")


def find_live(keys: Keys, selection: Selection) -> Dialogue[list[str]]:
    """Ids of the live runs that fit, oldest first. A run that is made meanwhile is not among them."""
    now_ms = yield from _ask(server_ms())
    last_ms = now_ms if selection.before_ms is None else min(now_ms, selection.before_ms - 1)
    first, found = str(selection.after_ms), list[str]()
    while page := (yield from _read_page(keys, first, last_ms)):
        for chunk in _chunks((yield from _named(keys, selection, page))):
            found += (yield from _holding(keys, selection, chunk)) if selection.condition else chunk
            if selection.limit is not None and len(found) >= selection.limit:
                return found[: selection.limit]
        first = f"({page[-1][1]}"
    return found


def _read_page(keys: Keys, first: str, last_ms: int) -> Dialogue[list[tuple[str, int]]]:
    """The next live runs, with the times at which they were made.

    A page is never cut between runs of one millisecond: the next begins after it, whatever has ended meanwhile.
    """
    words = ("ZRANGEBYSCORE", keys("LIVE"), first, last_ms, "WITHSCORES", "LIMIT", 0, _PAGE)
    page = yield from _ask(command(_scored, *words))
    if len(page) < _PAGE:
        return page
    at_ms = page[-1][1]
    together = yield from _ask(command(_scored, "ZRANGEBYSCORE", keys("LIVE"), at_ms, at_ms, "WITHSCORES"))
    return [run for run in page if run[1] < at_ms] + (together or page[-1:])


def _named(keys: Keys, selection: Selection, page: Sequence[tuple[str, int]]) -> Dialogue[list[str]]:
    """Those of a page whose names and status fit."""
    words = ("status", "app", "function")
    names = yield [command(_names, "HMGET", keys("RUN", run_id), *words) for run_id, _ in page]
    return [run_id for (run_id, _), known in zip(page, names, strict=True) if known and selection.names(*known)]


def _holding(keys: Keys, selection: Selection, run_ids: Sequence[str]) -> Dialogue[list[str]]:
    """Those for whose events the condition holds."""
    events = yield [command(lambda reply: reply, "HGET", keys("RUN", run_id), "event") for run_id in run_ids]
    return [run_id for run_id, event in zip(run_ids, events, strict=True) if selection.holds(event)]


def cancel_runs(keys: Keys, run_ids: Sequence[str], cancelling: Cancelling) -> Dialogue[list[str]]:
    """Cancel runs in this order; the ids of those that it has ended, also as a child of one that came before."""
    cancelled: list[str] = []
    for chunk in _chunks(run_ids):
        codes = yield [_cancel(keys, run_id, cancelling) for run_id in chunk]
        ended = [run_id for run_id, code in zip(chunk, codes, strict=True) if code is Code.ALREADY]
        ours = (yield from _ended_by(keys, ended, cancelling)) if ended else []
        cancelled += [run_id for run_id, code in zip(chunk, codes, strict=True) if code is Code.DONE or run_id in ours]
    return cancelled


def _cancel(keys: Keys, run_id: str, cancelling: Cancelling) -> Call[Code]:
    return cancel_run(
        keys,
        run_id=run_id,
        failure=cancelling.failure,
        retention_ms=cancelling.retention_ms,
        children=cancelling.children,
    )


def _ended_by(keys: Keys, run_ids: Sequence[str], cancelling: Cancelling) -> Dialogue[list[str]]:
    """Those that were ended so. The answers alone do not say it: a call that is sent twice finds its run ended."""
    ends = yield [command(tuple, "HMGET", keys("RUN", run_id), "status", "error") for run_id in run_ids]
    this = (RunStatus.CANCELLED.encode(), cancelling.failure)
    return [run_id for run_id, end in zip(run_ids, ends, strict=True) if end == this]


def _ask(call: Call[T]) -> Dialogue[T]:
    """One call, and its answer."""
    answers = yield [call]
    answer: T = answers[0]
    return answer


def _names(reply: list[bytes | None]) -> tuple[RunStatus, str, str] | None:
    """Status, app and function; ``None`` for a run that was forgotten meanwhile."""
    status, app, function = [(value or b"").decode() for value in reply]
    return (RunStatus(status), app, function) if status else None


def _scored(reply: list[bytes]) -> list[tuple[str, int]]:
    return [(member.decode(), int(float(score))) for member, score in zip(reply[::2], reply[1::2], strict=True)]


def _chunks(run_ids: Sequence[str]) -> Iterator[Sequence[str]]:
    for first in range(0, len(run_ids), _CHUNK):
        yield run_ids[first : first + _CHUNK]
