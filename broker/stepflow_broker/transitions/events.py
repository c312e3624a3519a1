"""The stream of events from producers and steps, and how they are routed to functions and waits, as calls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from stepflow_broker.protocol import replies
from stepflow_broker.protocol.command import Arg, Command, command, run_script
from stepflow_broker.protocol.keys import GROUP
from stepflow_broker.protocol.partition import Partition
from stepflow_broker.protocol.status import ScriptStatus
from stepflow_broker.protocol.streams import read_group, take_over
from stepflow_broker.registry.event_values import digest_at
from stepflow_broker.registry.functions import DEDUPE_MS, FunctionConfig
from stepflow_engine.encryption_scopes import open_event, read_event

__all__ = [
    "Routed",
    "StreamedEvent",
    "add_event",
    "deliver_remote_event",
    "drop_event",
    "has_waits",
    "read_events",
    "recent_events",
    "route_event",
    "start_by_event",
    "take_over_events",
]

_AGAIN_MS = 3600 * 1000


def add_event(partition: Partition, event: bytes, *, event_id: str, dedupe: bool) -> Command[str]:
    """Put an event on the stream. ``dedupe`` says that the sender chose the id."""
    return command(
        bytes.decode,
        "XADD",
        partition.keys("EVENTS"),
        "*",
        "event",
        event,
        "id",
        event_id,
        "dedupe",
        1 if dedupe else 0,
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


def read_events(partition: Partition, worker: str, *, limit: int = 200) -> Command[list[StreamedEvent]]:
    """Take new events off the group, for this worker to route."""
    return read_group(partition.keys, "EVENTS", worker, limit=limit, read=_entries)


def take_over_events(
    partition: Partition, worker: str, *, idle_ms: int, limit: int = 200
) -> Command[list[StreamedEvent]]:
    """Take over events that another worker took and has not routed for ``idle_ms``."""
    return take_over(partition.keys, "EVENTS", worker, idle_ms=idle_ms, limit=limit, read=_entries)


@dataclass(frozen=True, slots=True)
class Routed:
    """What became of an event.

    Attributes:
        code: DONE, STALE_REGISTRY or MORE_VALUES.
        started: how many runs.
        paths: at which its values are asked for, when it was refused for them; ``?`` when it was routed and there are
            waits that a worker has to look at, and to take the event off the stream after that.
    """

    code: ScriptStatus
    started: int
    paths: tuple[str, ...]

    @classmethod
    def parse(cls, reply: list[Any]) -> Routed:
        """Read the answer of ``route_event``."""
        started, paths = reply
        code = ScriptStatus(started) if started < 0 else ScriptStatus.DONE
        return cls(code, max(0, started), tuple(path.decode() for path in paths))


def route_event(
    partition: Partition,
    event: StreamedEvent,
    starts: Sequence[tuple[str, FunctionConfig]],
    *,
    version: int,
    paths: Sequence[str] = (),
    keep: bool = False,
) -> Command[Routed]:
    """Start the runs (run id, function) of an event, and end the waits for it.

    Args:
        version: of the registry by which the functions were chosen.
        paths: at which waits are known to ask for values.
        keep: leave the event on the stream; there are other partitions where it has to go.

    Raises:
        DecryptionError: it cannot be opened.
    """
    value = open_event(partition.cipher, read_event(event.event))
    words = _digests(value, paths)
    for run_id, config in starts:
        rules = config.rules_or_skip(event.event, partition.cipher)
        words += (run_id, config.app, config.id, config.queue, config.retention_ms, *rules)
    return run_script(
        "route_event",
        Routed.parse,
        (partition.keys("EVENTS"), partition.keys("VERSION")),
        partition.now_ms(),
        version,
        GROUP,
        event.entry,
        event.event,
        DEDUPE_MS if event.dedupe else 0,
        value["name"],
        1 if keep else 0,
        *words,
    )


def _digests(value: dict[str, Any], paths: Sequence[str]) -> list[Arg]:
    """The digests of an event's values, by their paths; how many first."""
    asked = ["", *[path for path in paths if path not in ("", "?")]]
    words: list[Arg] = [len(asked)]
    for path in asked:
        words += (path, digest_at(value, path))
    return words


# -- between partitions --------------------------------------------------------


def start_by_event(
    partition: Partition,
    run_id: str,
    config: FunctionConfig,
    event: StreamedEvent,
) -> Command[ScriptStatus]:
    """Start the run of an event that has come in another partition. DONE, ALREADY or RESOLVED (it was skipped).

    The run is known for an hour at least, so that an event that comes to its router again starts nothing.
    """
    return run_script(
        "start_runs",
        replies.first_status,
        partition.run_keys(run_id, "RUN"),
        partition.now_ms(),
        config.app,
        config.id,
        config.queue,
        DEDUPE_MS if event.dedupe else _AGAIN_MS,
        config.retention_ms,
        run_id,
        event.event,
        *config.rules_or_skip(event.event, partition.cipher),
    )


def has_waits(partition: Partition, name: str) -> Command[bool]:
    """Whether anything waits for events of this name in a partition."""
    return command(bool, "EXISTS", partition.keys("WAIT_COUNTS", name))


def deliver_remote_event(
    partition: Partition,
    event: StreamedEvent,
    *,
    origin: Partition,
    paths: Sequence[str] = (),
) -> Command[Routed]:
    """End the waits of a partition for an event of another. DONE or MORE_VALUES.

    Args:
        origin: of the partition where it has come.
        paths: as of `route_event`.

    Raises:
        DecryptionError: it cannot be opened.
    """
    value = open_event(partition.cipher, read_event(event.event))
    return run_script(
        "deliver_remote_event",
        Routed.parse,
        (partition.keys("FORWARDED", f"{partition.all.index(origin)}:{event.entry}"),),
        partition.now_ms(),
        event.event,
        value["name"],
        *_digests(value, paths),
    )


def recent_events(partition: Partition, name: str, *, since_ms: int) -> Command[list[bytes]]:
    """The events of a name that have come in a partition since a time, oldest first."""
    return command(
        lambda reply: [fields[1] for _, fields in reply], "XRANGE", partition.keys("EVENT_HISTORY", name), since_ms, "+"
    )


def drop_event(partition: Partition, event: StreamedEvent) -> tuple[Command[int], Command[int]]:
    """Take an event off the stream."""
    return (
        command(int, "XACK", partition.keys("EVENTS"), GROUP, event.entry),
        command(int, "XDEL", partition.keys("EVENTS"), event.entry),
    )
