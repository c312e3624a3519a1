"""Replies and messages of the server, to which any client may have written anything."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any
from unittest.mock import MagicMock

from hypothesis import strategies as st

from stepflow import StepflowError
from stepflow_broker.protocol.command import Command
from stepflow_broker.protocol.keys import Keys
from stepflow_broker.protocol.partition import Partition
from stepflow_broker.registry.event_filter import EventFilter
from stepflow_broker.registry.functions import read_function, read_functions
from stepflow_broker.transitions.events.event_stream import StreamedEvent, read_events
from stepflow_broker.transitions.invokes.outbox import read_finished
from stepflow_broker.transitions.jobs.job_claims import Lease
from stepflow_broker.transitions.pauses import read_pauses
from stepflow_broker.transitions.runs.run_memos import load_run
from stepflow_broker.transitions.runs.run_record import read_run
from stepflow_broker.transitions.steps.step_record import read_steps
from stepflow_engine.cipher import NO_ENCRYPTION, Cipher
from stepflow_engine.codec import dumps
from stepflow_engine.errors import BackendUnavailableError
from stepflow_workers.consumers.event_router import Router
from stepflow_workers.partition.notifications import NotificationListener
from tests.fuzz.cases import JSON, TEXTS, fuzzed
from tests.support.plain import PLAIN

KEYS = Keys()


def encoded(value: Any) -> bytes:
    """JSON text, or, of what has none, something like it."""
    try:
        return dumps(value)
    except TypeError:
        return repr(value)[:200].encode(errors="replace")


BLOBS = (
    st.binary(max_size=12)
    | st.sampled_from([b"", b"0", b"-1", b"1e400", b"nan", b"queued", b"failed", b"{}", b"[]", b"null", b"\x80\x04."])
    | TEXTS.map(lambda text: text.encode(errors="replace"))
    | JSON.map(encoded)
)
FIELDS = st.sampled_from(
    ["status", "app", "function", "queue", "event", "attempt", "output", "error", "last_error", "created_at", "due",
     "started_at", "ended_at", "continuation", "parent", "a", "a:state", "a:attempt", "a:error", "a:due", "a:detail",
     "a:index", "a:condition", "function x/y", "queue", "key "],
).map(str.encode)  # fmt: skip
HASHES = st.dictionaries(FIELDS | BLOBS, BLOBS, max_size=8)
EVENTS = st.fixed_dictionaries(
    {}, optional={"name": JSON, "id": JSON, "ts": JSON, "data": JSON | st.fixed_dictionaries({"$enc": JSON})}
).map(encoded)


def flat(fields: dict[bytes, bytes]) -> list[bytes]:
    return [part for pair in fields.items() for part in pair]


@fuzzed(0.05, fields=HASHES, status=st.sampled_from([b"queued", b"failed", b"completed", b"x"]))
def test_a_record_is_read_or_is_a_typed_error(fields: dict[bytes, bytes], status: bytes) -> None:
    known = flat({b"event": b'{"data":1}', **fields, b"status": status})
    calls: list[tuple[Command[Any], Any]] = [
        (read_run(PLAIN, "r"), known),
        (read_steps(PLAIN, "r"), flat(fields)),
        (read_pauses(PLAIN), flat(fields)),
        (read_function(KEYS, "a", "f"), next(iter(fields.values()), b"")),
        (load_run(PLAIN, "r", 0), [known, []]),
    ]
    for call, reply in calls:
        with suppress(StepflowError):
            call.answer(reply)
    assert isinstance(read_functions(KEYS).answer(list(fields.values())), list)


@fuzzed(
    0.03,
    entries=st.lists(st.lists(BLOBS | st.sampled_from([b"event", b"id", b"dedupe", b"run"]), max_size=6), max_size=3),
)
def test_entries_of_a_stream_are_read_whatever_they_are(entries: list[list[bytes]]) -> None:
    reply = [[b"stream", [[b"1-%d" % n, fields[: len(fields) // 2 * 2]] for n, fields in enumerate(entries)]]]
    assert len(read_events(PLAIN, "w", limit=9).answer(reply)) <= len(entries)
    assert len(read_finished(PLAIN, "w", limit=9).answer(reply)) <= len(entries)


@fuzzed(0.02, words=st.lists(st.none() | BLOBS | st.integers(), min_size=0, max_size=12), job=BLOBS)
def test_a_lease_is_always_read(words: list[Any], job: bytes) -> None:
    types = [bytes, int, bytes, bytes, int, int, bytes, bytes, bytes, int, int, bytes, int]
    reply = [word if type(word) in (kind, type(None)) else None for word, kind in zip(words, types, strict=False)]
    with suppress(UnicodeDecodeError):
        assert Lease.parse([job, *reply]).event in (*reply, None)


@fuzzed(0.02, text=BLOBS, event=EVENTS)
def test_a_filter_matches_or_not_or_raises_a_typed_error(text: bytes, event: bytes) -> None:
    with suppress(StepflowError):
        EventFilter.from_json(text).holds(event, NO_ENCRYPTION)


class Handler:
    """Handles all notifications as the dispatcher of a worker does."""

    def on_ready(self) -> None: ...

    def on_outbox(self) -> None: ...
    def on_pauses(self) -> None: ...

    def on_memo(self, run_id: str, position: int, key: str) -> None: ...

    def on_cancel(self, run_id: str) -> None: ...


NOTIFICATIONS = NotificationListener(MagicMock(), KEYS, "w", ["shop"], Handler())


@fuzzed(0.04, data=BLOBS, kind=st.sampled_from([b"", b"memo ", b"cancel ", b"memo r 1 ", b"memo r x k"]))
def test_a_notification_is_handled_or_ignored(data: bytes, kind: bytes) -> None:
    for channel in (KEYS("READY"), KEYS("NOTIFICATIONS", "w"), KEYS("PAUSES"), "other"):
        NOTIFICATIONS._try_to_handle(channel, kind + data)


LOOP = asyncio.new_event_loop()
REGISTRY = MagicMock(functions={}, version=1)


class DeadServer:
    """A broker whose server is unavailable, except to delete events."""

    def __init__(self) -> None:
        self.dropped = 0

    async def execute(self, call: Command[Any]) -> Any:
        raise BackendUnavailableError("unavailable")

    async def execute_all(self, calls: tuple[Command[Any], ...]) -> None:
        self.dropped += 1


@fuzzed(0.04, event=EVENTS | BLOBS, keyed=st.booleans())
def test_an_event_is_routed_dropped_or_left(event: bytes, keyed: bool) -> None:
    broker = DeadServer()
    router = Router(broker, Partition.first_of(KEYS, Cipher([bytes(32)] if keyed else [])), "w", REGISTRY)  # type: ignore[arg-type]
    with suppress(BackendUnavailableError):
        LOOP.run_until_complete(router.route([StreamedEvent("1-1", event, "e", dedupe=False)]))
        assert broker.dropped <= 1
