"""The registry of functions, and the stream of events that are routed to them, as calls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from stepflow_broker.call import Call, Word, command, run_script
from stepflow_broker.keys import GROUP, Keys
from stepflow_engine.codec import dumps, loads

__all__ = [
    "DEDUPE_MS",
    "FunctionConfig",
    "RateConfig",
    "add_event",
    "create_group",
    "read_events",
    "read_function",
    "read_functions",
    "register_functions",
    "registry_version",
    "route_event",
    "take_over_events",
    "value_at",
]

_RETENTION_MS = 7 * 24 * 3600 * 1000
DEDUPE_MS = 24 * 3600 * 1000
"""How long an event id or a run id keeps a second start away, at least: 24 hours."""


@dataclass(frozen=True, slots=True)
class RateConfig:
    """A rate limit: at most ``limit`` starts in any ``period_ms``, for each value of ``key``.

    Attributes:
        key: a path into the event, such as ``event.data.user_id``; ``""``: one limit for the function.
    """

    limit: int
    period_ms: int
    key: str = ""


@dataclass(frozen=True, slots=True)
class FunctionConfig:
    """What the registry knows of a function, with no need of its code.

    Attributes:
        app, id: whose it is.
        queue: where its jobs wait.
        events: names of the events that start it; ``*`` at the end of one stands for anything.
        retries: attempts after the first.
        rate_limit: how many runs may start; those over it are skipped.
        retention_ms: how long an ended run is kept, in milliseconds.
    """

    app: str
    id: str
    queue: str
    events: tuple[str, ...] = ()
    retries: int = 4
    rate_limit: RateConfig | None = None
    retention_ms: int = _RETENTION_MS

    @property
    def name(self) -> str:
        """``app/id``."""
        return f"{self.app}/{self.id}"

    def to_json(self) -> bytes:
        """The stored form."""
        return dumps(asdict(self))

    @classmethod
    def from_json(cls, text: bytes) -> FunctionConfig:
        """Read the stored form; fields of a newer stepflow are left out."""
        value = loads(text)
        rate = value.get("rate_limit")
        return cls(
            value["app"],
            value["id"],
            value["queue"],
            tuple(value.get("events", ())),
            value.get("retries", 4),
            RateConfig(**rate) if rate else None,
            value.get("retention_ms", _RETENTION_MS),
        )

    def start_words(self, event: dict[str, Any]) -> tuple[Word, ...]:
        """What a script that starts a run of this function is told of its flow control, and its retention."""
        return (*self.rate_words(event), self.retention_ms)

    def rate_words(self, event: dict[str, Any]) -> tuple[Word, ...]:
        """Name, limit (0: none) and period of the rate limit.

        Args:
            event: the event, for the key of the rate limit.
        """
        rate = self.rate_limit
        if rate is None:
            return ("", 0, 0)
        value = dumps(value_at(event, rate.key)).decode() if rate.key else ""
        return (f"{self.name}:{value}", rate.limit, rate.period_ms)


def value_at(event: dict[str, Any], path: str) -> Any:
    """The value at a path such as ``event.data.user.id``; ``None`` where there is none."""
    value: Any = {"event": event}
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


def register_functions(keys: Keys, configs: Sequence[FunctionConfig]) -> Call[int]:
    """Make functions known; the answer is the registry's version."""
    words = [word for config in configs for word in (config.name, config.to_json())]
    return run_script("register_functions", int, (keys("FUNCTIONS"), keys("VERSION")), *words)


def read_functions(keys: Keys) -> Call[list[FunctionConfig]]:
    """All registered functions."""
    return command(
        lambda reply: sorted((FunctionConfig.from_json(text) for text in reply), key=lambda config: config.name),
        "HVALS",
        keys("FUNCTIONS"),
    )


def read_function(keys: Keys, app: str, function: str) -> Call[FunctionConfig | None]:
    """One registered function."""
    return command(
        lambda reply: FunctionConfig.from_json(reply) if reply else None,
        "HGET",
        keys("FUNCTIONS"),
        f"{app}/{function}",
    )


def registry_version(keys: Keys) -> Call[int]:
    """The registry's version; it grows with each change."""
    return command(lambda reply: int(reply or 0), "GET", keys("VERSION"))


def add_event(keys: Keys, event: bytes, *, event_id: str, dedupe: bool) -> Call[str]:
    """Put an event on the stream. ``dedupe`` says that the sender chose the id."""
    return command(
        bytes.decode, "XADD", keys("EVENTS"), "*", "event", event, "id", event_id, "dedupe", 1 if dedupe else 0
    )


@dataclass(frozen=True, slots=True)
class StreamedEvent:
    """An event as it stands on the stream."""

    entry: str
    event: bytes
    event_id: str
    dedupe: bool


def _entries(reply: Any) -> list[StreamedEvent]:
    found = []
    for entry, flat in reply or ():
        if not flat:
            continue
        fields = dict(zip(flat[::2], flat[1::2], strict=True))
        found.append(StreamedEvent(entry.decode(), fields[b"event"], fields[b"id"].decode(), fields[b"dedupe"] == b"1"))
    return found


def _streams(reply: Any) -> list[StreamedEvent]:
    if not reply:
        return []
    streams = reply.values() if isinstance(reply, dict) else [entries for _, entries in reply]
    return [event for entries in streams for event in _entries(entries)]


def create_group(keys: Keys, stream: str) -> Call[bytes]:
    """Create a stream (EVENTS, FINISHED) and its consumer group; an error says that they exist."""
    return command(bytes, "XGROUP", "CREATE", keys(stream), GROUP, "0", "MKSTREAM")


def read_events(keys: Keys, worker: str, *, limit: int = 200) -> Call[list[StreamedEvent]]:
    """Take new events off the group, for this worker to route."""
    return command(_streams, "XREADGROUP", "GROUP", GROUP, worker, "COUNT", limit, "STREAMS", keys("EVENTS"), ">")


def take_over_events(keys: Keys, worker: str, *, idle_ms: int, limit: int = 200) -> Call[list[StreamedEvent]]:
    """Take over events that another worker took and has not routed for ``idle_ms``."""
    return command(
        lambda reply: _entries(reply[1]),
        "XAUTOCLAIM",
        keys("EVENTS"),
        GROUP,
        worker,
        idle_ms,
        "0",
        "COUNT",
        limit,
    )


def route_event(
    keys: Keys, event: StreamedEvent, starts: Sequence[tuple[str, FunctionConfig]], *, version: int, now_ms: int = 0
) -> Call[int | None]:
    """Start the runs (run id, function) of an event; ``None`` if the registry has changed since ``version``."""
    value = loads(event.event)
    words: list[Word] = []
    for run_id, config in starts:
        words += (run_id, config.app, config.id, config.queue, *config.start_words(value))
    return run_script(
        "route_event",
        lambda reply: None if reply == -1 else int(reply),
        (keys("EVENTS"), keys("VERSION")),
        now_ms,
        version,
        GROUP,
        event.entry,
        event.event,
        DEDUPE_MS if event.dedupe else 0,
        *words,
    )
