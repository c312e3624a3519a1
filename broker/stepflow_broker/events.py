"""The stream of events from producers and steps, and how they are routed to functions and waits, as calls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from stepflow_broker.call import Call, Word, command, run_script
from stepflow_broker.codes import Code
from stepflow_broker.functions import DEDUPE_MS, FunctionConfig
from stepflow_broker.keys import GROUP, Keys
from stepflow_broker.streams import read_group, take_over
from stepflow_broker.values import digest_at
from stepflow_engine.cipher import PLAIN, Cipher
from stepflow_engine.payloads import open_event, read_event

__all__ = [
    "Routed",
    "StreamedEvent",
    "add_event",
    "drop_event",
    "read_events",
    "route_event",
    "take_over_events",
]


def add_event(keys: Keys, event: bytes, *, event_id: str, dedupe: bool) -> Call[str]:
    """Put an event on the stream. ``dedupe`` says that the sender chose the id."""
    return command(
        bytes.decode, "XADD", keys("EVENTS"), "*", "event", event, "id", event_id, "dedupe", 1 if dedupe else 0
    )


@dataclass(frozen=True, slots=True)
class StreamedEvent:
    """An event as it stands on the stream; one that stepflow has not put there may be anything, or empty."""

    entry: str
    event: bytes
    event_id: str
    dedupe: bool


def _entries(entries: list[Any]) -> list[StreamedEvent]:
    found = []
    for entry, flat in entries:
        if not flat:
            continue
        fields = dict(zip(flat[::2], flat[1::2], strict=False))
        event_id = fields.get(b"id", b"").decode(errors="replace")
        dedupe = fields.get(b"dedupe") == b"1"
        found.append(StreamedEvent(entry.decode(), fields.get(b"event", b""), event_id, dedupe))
    return found


def read_events(keys: Keys, worker: str, *, limit: int = 200) -> Call[list[StreamedEvent]]:
    """Take new events off the group, for this worker to route."""
    return read_group(keys, "EVENTS", worker, limit=limit, read=_entries)


def take_over_events(keys: Keys, worker: str, *, idle_ms: int, limit: int = 200) -> Call[list[StreamedEvent]]:
    """Take over events that another worker took and has not routed for ``idle_ms``."""
    return take_over(keys, "EVENTS", worker, idle_ms=idle_ms, limit=limit, read=_entries)


@dataclass(frozen=True, slots=True)
class Routed:
    """What became of an event.

    Attributes:
        code: DONE, STALE_REGISTRY or MORE_VALUES.
        started: how many runs.
        paths: at which its values are asked for, when it was refused for them; ``?`` when it was routed and there are
            waits that a worker has to look at, and to take the event off the stream after that.
    """

    code: Code
    started: int
    paths: tuple[str, ...]

    @classmethod
    def parse(cls, reply: list[Any]) -> Routed:
        """Read the answer of ``route_event``."""
        started, paths = reply
        code = Code(started) if started < 0 else Code.DONE
        return cls(code, max(0, started), tuple(path.decode() for path in paths))


def route_event(
    keys: Keys,
    event: StreamedEvent,
    starts: Sequence[tuple[str, FunctionConfig]],
    *,
    version: int,
    paths: Sequence[str] = (),
    cipher: Cipher = PLAIN,
    now_ms: int = 0,
) -> Call[Routed]:
    """Start the runs (run id, function) of an event, and end the waits for it.

    Args:
        version: of the registry by which the functions were chosen.
        paths: at which waits are known to ask for values.
        cipher: opens the event's data.

    Raises:
        DecryptionError: it cannot be opened.
    """
    value = open_event(cipher, read_event(event.event))
    asked = ["", *[path for path in paths if path not in ("", "?")]]
    words: list[Word] = [len(asked)]
    for path in asked:
        words += (path, digest_at(value, path))
    for run_id, config in starts:
        rules = config.rules_or_skip(event.event, cipher)
        words += (run_id, config.app, config.id, config.queue, config.retention_ms, *rules)
    return run_script(
        "route_event",
        Routed.parse,
        (keys("EVENTS"), keys("VERSION")),
        now_ms,
        version,
        GROUP,
        event.entry,
        event.event,
        DEDUPE_MS if event.dedupe else 0,
        value["name"],
        *words,
    )


def drop_event(keys: Keys, event: StreamedEvent) -> tuple[Call[int], Call[int]]:
    """Take an event off the stream."""
    return (
        command(int, "XACK", keys("EVENTS"), GROUP, event.entry),
        command(int, "XDEL", keys("EVENTS"), event.entry),
    )
