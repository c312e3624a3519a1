"""The broker commands of a client: events to add and runs to start."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

from stepflow.client.backend import Backend
from stepflow.event import GENERATED_ID, INVOKED, Event, checked_event_id, encode_event
from stepflow.later import Later, When, later
from stepflow_broker.protocol.clock import Clock
from stepflow_broker.protocol.command import Command
from stepflow_broker.protocol.partition import Partition
from stepflow_broker.registry.function_config import DEDUPE_MS, FunctionConfig
from stepflow_broker.transitions.events.delayed_events import delay_event
from stepflow_broker.transitions.events.event_stream import add_event
from stepflow_broker.transitions.runs.run_starts import runs_of_callers, start_run, start_runs, start_runs_later
from stepflow_engine.codec import Restore
from stepflow_engine.declared_types import check_event_data
from stepflow_engine.durations import Duration
from stepflow_engine.errors import ConfigurationError, EventError
from stepflow_engine.ids import run_id_for, with_partition_prefix
from stepflow_engine.limits import Limits

__all__ = [
    "as_events",
    "check_run_names",
    "event_commands",
    "later_time",
    "start_command",
    "start_id",
    "start_many_commands",
]

T = TypeVar("T")
_START_CHUNK = 100
"""Runs that one script starts. More would block other clients of the server for longer."""


def as_events(
    event: str | Event[Any] | Sequence[Event[Any]],
    data: Any,
    id: str | None,
    *,
    limits: Limits,
    delay: Duration | None = None,
    at: When | None = None,
) -> tuple[list[Event[Any]], bool]:
    """The events to send, and whether the caller has passed a single one.

    Raises:
        EventError: an item is not an event, or there are too many.
    """
    if isinstance(event, str):
        return [Event(event, data, GENERATED_ID if id is None else id, at=at)], True
    if delay is not None or at is not None:
        raise EventError('send: delay and at are for an event that is sent by its name: write Event("name", …, at=…)')
    if isinstance(event, Event):
        return [event], True
    items: Any = event
    events: list[Any] = _limited(items, "send: events", limits) if isinstance(items, Iterable) else [items]
    for item in events:
        if not isinstance(item, Event):
            raise EventError(
                f"send: must be the name of an event, an Event, or a list of events, got {type(item).__name__}"
            )
    return events, False


def event_commands(
    backend: Backend, events: Sequence[Event[Any]], *, limits: Limits, delay: Duration | None = None
) -> tuple[list[str], list[Command[Any]]]:
    """The ids of events and the commands that add them, in the same order.

    Args:
        delay: how long after now they are sent; ``None``: each event says it itself.

    Raises:
        EventError: an event is invalid or over the limit.
    """
    ids, commands, created_ms = [], [], backend.partition.clock.now_ms()
    for event in events:
        own_id = checked_event_id(event.id)
        event_id = own_id or uuid.uuid4().hex
        delayed = later_time("send", delay, event.at, clock=backend.partition.clock)
        text = _encode(backend, event, event_id, delayed.due_ms(created_ms) if delayed else created_ms, limits)
        ids.append(event_id)
        commands.append(_sending(backend.partition.at(event_id), text, event_id, own_id is not None, delayed))
    return ids, commands


def _sending(partition: Partition, text: bytes, event_id: str, dedupe: bool, delayed: Later | None) -> Command[Any]:
    if delayed is None:
        return add_event(partition, text, event_id=event_id, dedupe=dedupe)
    at_ms, delay_ms = delayed.at_ms, delayed.delay_ms
    return delay_event(partition, text, event_id=event_id, dedupe=dedupe, due_ms=at_ms, delay_ms=delay_ms)


def later_time(what: str, delay: Duration | None, at: When | None, *, clock: Clock) -> Later | None:
    """The later time that a call names; ``None``: now. See `later`."""
    return None if delay is None and at is None else later(what, delay, at, now_ms=clock.now_ms())


def start_command(
    backend: Backend,
    config: FunctionConfig,
    data: Any,
    id: str | None,
    *,
    limits: Limits,
    declared: Restore | None = None,
    later: Later | None = None,
) -> tuple[str, Command[list[str]]]:
    """The id of a new run and the command that starts it, which answers as `runs_of_callers`.

    Args:
        later: the time at which it starts; ``None``: now.
        declared: the adapter of the data that the function declares, if it is known here.

    Raises:
        EventError: the data is not JSON, over the limit, or would come back as other data, or the id is invalid.
    """
    check_event_data(declared, data, limit_bytes=limits.event_bytes)
    id = checked_event_id(id)
    run_id = with_partition_prefix(config.pinned_partition, uuid.uuid4().hex) if id is None else start_id(config, id)
    event = _invoked(backend, data, run_id if id is None else id, limits, later)
    command: Command[Any]
    if later is None:
        command = start_run(backend.partition, config, run_id=run_id, event=event, dedupe=id is not None)
    else:
        command = start_runs_later(
            backend.partition,
            config,
            [(run_id, event)],
            due_ms=later.at_ms,
            delay_ms=later.delay_ms,
            dedupe_ms=DEDUPE_MS if id is not None else 0,
        )
    return run_id, runs_of_callers(command, [run_id])


def start_id(config: FunctionConfig, id: str) -> str:
    """The id of the run of a function that `start` starts with this ``id``."""
    return with_partition_prefix(config.pinned_partition, run_id_for(id, config.name))


def check_run_names(run_id: str | None, function: object, id: str | None, event: str | None) -> None:
    """Refuse a call of `run` that does not name exactly one run.

    Raises:
        ConfigurationError: it takes either a run id, or a function with the id of its start or of its event.
    """
    names = (run_id is not None, function is not None, id is not None, event is not None)
    if names not in ((True, False, False, False), (False, True, True, False), (False, True, False, True)):
        raise ConfigurationError(
            "run: pass the id of a run, or function= with id= (of the start) or with event= (the id of the event)"
        )


def start_many_commands(
    backend: Backend,
    config: FunctionConfig,
    data: Iterable[Any],
    *,
    limits: Limits,
    declared: Restore | None = None,
    later: Later | None = None,
) -> tuple[list[str], list[Command[list[str]]]]:
    """The ids of new runs, one for each item of ``data``, and the commands that start them in chunks.

    The commands answer as `runs_of_callers`.

    Args:
        later: the time at which they start; ``None``: now.
        declared: the adapter of the data that the function declares, if it is known here.

    Raises:
        EventError: an item is not JSON, over the limit, or would come back as other data, or there are too many.
    """
    items = _limited(data, "start_many: data", limits)
    for item in items:
        check_event_data(declared, item, limit_bytes=limits.event_bytes)
    run_ids: list[str] = []
    commands: list[Command[list[str]]] = []
    for first in range(0, len(items), _START_CHUNK):
        prefix = config.pinned_partition or uuid.uuid4().hex  # all runs of one script are in one partition
        chunk = [
            (with_partition_prefix(prefix, uuid.uuid4().hex), item) for item in items[first : first + _START_CHUNK]
        ]
        started = [(run_id, _invoked(backend, item, run_id, limits, later)) for run_id, item in chunk]
        ids = [run_id for run_id, _ in chunk]
        command = (
            start_runs(backend.partition, config, started)
            if later is None
            else start_runs_later(
                backend.partition, config, started, due_ms=later.at_ms, delay_ms=later.delay_ms, dedupe_ms=0
            )
        )
        commands.append(runs_of_callers(command, ids))
        run_ids += ids
    return run_ids, commands


def _limited(items: Iterable[T], what: str, limits: Limits) -> list[T]:
    listed, limit = list(items), limits.events_per_send
    if len(listed) > limit:
        raise EventError(f"{what} must have at most {limit:,} items, got {len(listed):,}: make several calls")
    return listed


def _invoked(backend: Backend, data: Any, event_id: str, limits: Limits, later: Later | None) -> bytes:
    """The event of a run that is started by name and not by an event. Its time is that at which the run starts."""
    now_ms = backend.partition.clock.now_ms()
    at_ms = now_ms if later is None else later.due_ms(now_ms)
    return _encode(backend, Event(INVOKED, data), event_id, at_ms, limits)


def _encode(backend: Backend, event: Event[Any], event_id: str, now_ms: int, limits: Limits) -> bytes:
    limit, cipher = limits.event_bytes, backend.cipher
    return encode_event(event, event_id=event_id, now_ms=now_ms, limit_bytes=limit, cipher=cipher)
