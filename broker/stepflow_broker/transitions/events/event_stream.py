"""The stream of events, and their routing to functions and waits.

An event stays on the stream until a worker has routed it. Routing is one script: it starts the runs, ends the waits and
deletes the event. If the worker dies before, another takes the event over.
"""

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
from stepflow_broker.registry.event_values import digest_at, id_digest
from stepflow_broker.registry.function_config import DEDUPE_MS, FunctionConfig
from stepflow_engine.encryption_scopes import open_event, read_event

__all__ = [
    "Routed",
    "StreamedEvent",
    "add_event",
    "deliver_remote_event",
    "drop_event",
    "has_earlier_events",
    "has_waits",
    "read_deliveries",
    "read_events",
    "route_event",
    "start_by_event",
    "take_over_events",
]

_REROUTE_MS = 3600 * 1000
_PENDING = 1_000
"""How many earlier events are examined; more cannot be on their way at once."""
_DELIVERIES = 2


def add_event(partition: Partition, event: bytes, *, event_id: str, dedupe: bool) -> Command[str]:
    """Add an event to the stream of a partition.

    Args:
        partition: the partition of the event's id (`Partition.at`).
        event: the event as JSON text.
        event_id: its id.
        dedupe: whether the sender chose the id. Then each function starts once for it in 24 hours.
    """
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
        "1" if dedupe else "0",
    )


@dataclass(frozen=True, slots=True)
class StreamedEvent:
    """An entry of the stream of events. If another program has written it, ``event`` can be any bytes."""

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
    """Read new events; this worker routes them."""
    return read_group(partition.keys, "EVENTS", worker, limit=limit, read=_entries)


def take_over_events(
    partition: Partition, worker: str, *, idle_ms: int, limit: int = 200
) -> Command[list[StreamedEvent]]:
    """Take over the events that another worker has read and not routed for ``idle_ms``."""
    return take_over(partition.keys, "EVENTS", worker, idle_ms=idle_ms, limit=limit, read=_entries)


def read_deliveries(partition: Partition, event: StreamedEvent) -> Command[int]:
    """How often workers have read or taken over an event that is not routed."""

    def read(reply: list[tuple[bytes, bytes, int, int]]) -> int:
        return reply[0][3] if reply else 0

    return command(read, "XPENDING", partition.keys("EVENTS"), GROUP, event.entry, event.entry, 1)


def has_earlier_events(partition: Partition, event: StreamedEvent, worker: str, *, idle_ms: int) -> Command[bool]:
    """Whether other workers are routing events that were sent before this one.

    An event that a worker has had for ``idle_ms``, or that several workers had and could not route, does not count.
    """

    def read(reply: list[tuple[bytes, bytes, int, int]]) -> bool:
        return any(
            consumer != worker.encode() and idle < idle_ms and deliveries <= _DELIVERIES
            for _, consumer, idle, deliveries in reply
        )

    return command(read, "XPENDING", partition.keys("EVENTS"), GROUP, "-", f"({event.entry}", _PENDING)


@dataclass(frozen=True, slots=True)
class Routed:
    """The result of routing an event.

    Attributes:
        code: DONE, STALE_REGISTRY, MORE_VALUES, or EARLIER_EVENT: an event that must be routed before is not routed.
        started: how many runs it has started.
        paths: MORE_VALUES: the paths whose values the waits compare; call again with them. DONE: ``?`` if there are
            waits whose conditions a worker must evaluate; the worker then deletes the event.
    """

    code: ScriptStatus
    started: int
    paths: tuple[str, ...]

    @classmethod
    def parse(cls, reply: list[Any]) -> Routed:
        """Read the reply of ``route_event``."""
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
    after: str = "",
) -> Command[Routed]:
    """Start the runs (run id, function) of an event, and end the waits for it.

    Args:
        partition: the partition of the event.
        event: the event.
        starts: the runs to start, all in this partition.
        version: the version of the registry that ``starts`` was chosen from.
        paths: the paths whose values the waits are known to compare.
        keep: leave the event on the stream, because other partitions must get it too.
        after: the entry of an event that must be routed before; ``""``: none.

    Raises:
        DecryptionError: the event cannot be decrypted.
        ExpressionCostError: the event makes a key of a function too expensive to evaluate.
    """
    value = open_event(partition.cipher, read_event(event.event))
    args = _digests(value, paths)
    for run_id, config in starts:
        rules = config.rules_of_event(event.event, partition.cipher)
        args += (run_id, config.app, config.id, config.queue, config.retention_ms, *rules)
    return run_script(
        "route_event",
        Routed.parse,
        (partition.keys("EVENTS"), partition.keys("VERSION")),
        partition.clock.script_ms(),
        version,
        GROUP,
        event.entry,
        event.event,
        DEDUPE_MS if event.dedupe else 0,
        value["name"],
        1 if keep else 0,
        id_digest(event.event_id),
        after,
        *args,
    )


def _digests(value: dict[str, Any], paths: Sequence[str]) -> list[Arg]:
    """The number of digests, then each path and the digest of the value there."""
    asked = ["", *[path for path in paths if path not in ("", "?")]]
    args: list[Arg] = [len(asked)]
    for path in asked:
        args += (path, digest_at(value, path))
    return args


# -- between partitions --------------------------------------------------------


def start_by_event(
    partition: Partition,
    run_id: str,
    config: FunctionConfig,
    event: StreamedEvent,
) -> Command[ScriptStatus]:
    """Start the run of an event of another partition. DONE, ALREADY or RESOLVED (it was skipped).

    The run is kept for an hour at least, so that an event that is routed again starts nothing.
    """
    return run_script(
        "start_runs",
        replies.first_status,
        partition.run_keys(run_id, "RUN"),
        partition.clock.script_ms(),
        config.app,
        config.id,
        config.queue,
        DEDUPE_MS if event.dedupe else _REROUTE_MS,
        config.retention_ms,
        run_id,
        event.event,
        *config.rules_of_event(event.event, partition.cipher),
    )


def has_waits(partition: Partition, name: str) -> Command[bool]:
    """Whether a step in this partition waits for events of this name."""
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
        partition: the partition of the waits.
        event: the event.
        origin: the partition of the event.
        paths: as for `route_event`.

    Raises:
        DecryptionError: the event cannot be decrypted.
    """
    value = open_event(partition.cipher, read_event(event.event))
    return run_script(
        "deliver_remote_event",
        Routed.parse,
        (partition.keys("FORWARDED", f"{partition.all.index(origin)}:{event.entry}"),),
        partition.clock.script_ms(),
        event.event,
        value["name"],
        id_digest(event.event_id),
        *_digests(value, paths),
    )


def drop_event(partition: Partition, event: StreamedEvent) -> tuple[Command[int], Command[int]]:
    """Delete an event from the stream, unrouted or after its routing."""
    return (
        command(int, "XACK", partition.keys("EVENTS"), GROUP, event.entry),
        command(int, "XDEL", partition.keys("EVENTS"), event.entry),
    )
