"""What an app does as a producer: it sends events, and starts runs of functions."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Sequence
from typing import Any, overload

from typing_extensions import TypeVar

from stepflow.client.backend import Backend
from stepflow.client.bulk_cancel import CancelsRuns
from stepflow.client.run import Run
from stepflow.event import INVOKED, Event, encode_event
from stepflow.functions.function import Function
from stepflow_broker.protocol.command import Command
from stepflow_broker.protocol.status import ScriptStatus
from stepflow_broker.registry.functions import FunctionConfig, read_function
from stepflow_broker.transitions.events import add_event
from stepflow_broker.transitions.runs import start_run, start_runs
from stepflow_engine.cipher import NO_ENCRYPTION, Cipher
from stepflow_engine.durations import Duration
from stepflow_engine.errors import EventError, FunctionNotFoundError
from stepflow_engine.failure import Failure
from stepflow_engine.ids import run_id_for, with_partition_prefix
from stepflow_engine.limits import Limits

__all__ = ["StartsRuns"]

I = TypeVar("I", default=Any)  # noqa: E741  input
O = TypeVar("O", default=Any)  # noqa: E741  output
T = TypeVar("T")
_START_CHUNK = 100
"""How many runs one script starts: enough to share its cost, few enough not to keep others waiting."""


class StartsRuns(CancelsRuns):
    """The producing side of an app.

    Attributes:
        id: the app's.
        functions: those that it has declared, by their ids.
        limits: bounds of its runs.
        producer: its way to the server.
    """

    def __init__(
        self,
        app_id: str,
        redis_url: str | None,
        *,
        retention_ms: int,
        limits: Limits,
        cipher: Cipher = NO_ENCRYPTION,
        replica_timeout_ms: int = 0,
    ) -> None:
        self.id = app_id
        self.functions: dict[str, Function[Any, Any]] = {}
        self.limits = limits
        self.backend = Backend(
            redis_url, retention_ms=retention_ms, cipher=cipher, replica_timeout_ms=replica_timeout_ms
        )

    @overload
    def send(self, event: str, data: Any = None, *, id: str = "") -> str: ...
    @overload
    def send(self, event: Event[Any], /) -> str: ...
    @overload
    def send(self, event: Sequence[Event[Any]], /) -> list[str]: ...
    def send(self, event: str | Event[Any] | Sequence[Event[Any]], data: Any = None, *, id: str = "") -> Any:
        """Send an event, or several in one round trip. Every function whose trigger matches gets a run.

        Args:
            event: the event's name; or an `Event`; or a list of at most 5,000 of them.
            data: what is known of it; JSON.
            id: names this one event; sent again within 24 hours, it starts nothing.

        Returns:
            The event's id, or a list of ids.

        Raises:
            EventError: an event is not JSON or over a limit; none of the list is sent.
            BackendUnavailableError: the server does not answer. It is safe to repeat the call with the same id.
            ReplicationError: the app's durability is "replicated", and no replica has confirmed it; as above.
        """
        events, single = self._events(event, data, id)
        ids, calls = self._add_events(events)
        self.backend.deliver(calls)
        return ids[0] if single else ids

    @overload
    async def asend(self, event: str, data: Any = None, *, id: str = "") -> str: ...
    @overload
    async def asend(self, event: Event[Any], /) -> str: ...
    @overload
    async def asend(self, event: Sequence[Event[Any]], /) -> list[str]: ...
    async def asend(self, event: str | Event[Any] | Sequence[Event[Any]], data: Any = None, *, id: str = "") -> Any:
        """As `send`, without blocking the event loop."""
        events, single = self._events(event, data, id)
        ids, calls = self._add_events(events)
        await self.backend.adeliver(calls)
        return ids[0] if single else ids

    @overload
    def start(self, function: Function[I, O], data: Any = None, *, id: str | None = None) -> Run[O]: ...
    @overload
    def start(self, function: str, data: Any = None, *, id: str | None = None) -> Run[Any]: ...
    def start(self, function: Any, data: Any = None, *, id: str | None = None) -> Run[Any]:
        """Start a run of a function.

        Args:
            function: a function, or the id of one: of this app, or ``"app/function"`` of another.
            data: the input; JSON.
            id: makes the start repeatable: within 24 hours the same id means the same run.

        Raises:
            FunctionNotFoundError: an id that neither this app nor any worker has registered.
            EventError: the data is not JSON or over the limit.
            BackendUnavailableError: the server does not answer; with an id, the same call can be made again safely.
            ReplicationError: the app's durability is "replicated", and no replica has confirmed it; as above.
        """
        run_id, call = self._start(self._config(function), data, id)
        self.backend.deliver([call])
        return Run(self.backend, run_id, getattr(function, "output", None))

    @overload
    async def astart(self, function: Function[I, O], data: Any = None, *, id: str | None = None) -> Run[O]: ...
    @overload
    async def astart(self, function: str, data: Any = None, *, id: str | None = None) -> Run[Any]: ...
    async def astart(self, function: Any, data: Any = None, *, id: str | None = None) -> Run[Any]:
        """As `start`, without blocking the event loop."""
        run_id, call = self._start(await self._aconfig(function), data, id)
        await self.backend.adeliver([call])
        return Run(self.backend, run_id, getattr(function, "output", None))

    @overload
    def start_many(self, function: Function[I, O], data: Iterable[Any]) -> list[Run[O]]: ...
    @overload
    def start_many(self, function: str, data: Iterable[Any]) -> list[Run[Any]]: ...
    def start_many(self, function: Any, data: Iterable[Any]) -> list[Run[Any]]:
        """Start a run of a function for each of ``data``, all in one round trip; see `start`.

        Args:
            data: the data of each run's event; at most 5,000 of them.

        Raises:
            EventError: one of ``data`` is not JSON or is over the limit, or there are too many; none was started.
        """
        runs, calls = self._start_many(function, self._config(function), data)
        self.backend.deliver(calls)
        return runs

    @overload
    async def astart_many(self, function: Function[I, O], data: Iterable[Any]) -> list[Run[O]]: ...
    @overload
    async def astart_many(self, function: str, data: Iterable[Any]) -> list[Run[Any]]: ...
    async def astart_many(self, function: Any, data: Iterable[Any]) -> list[Run[Any]]:
        """As `start_many`, without blocking the event loop."""
        runs, calls = self._start_many(function, await self._aconfig(function), data)
        await self.backend.adeliver(calls)
        return runs

    @overload
    def invoke(self, function: Function[I, O], data: Any = None, *, timeout: Duration | None = None) -> O: ...
    @overload
    def invoke(self, function: str, data: Any = None, *, timeout: Duration | None = None) -> Any: ...
    def invoke(self, function: Any, data: Any = None, *, timeout: Duration | None = None) -> Any:
        """Start a run and wait for its result; see `start` and `Run.result`."""
        return self.start(function, data).result(timeout)

    @overload
    async def ainvoke(self, function: Function[I, O], data: Any = None, *, timeout: Duration | None = None) -> O: ...
    @overload
    async def ainvoke(self, function: str, data: Any = None, *, timeout: Duration | None = None) -> Any: ...
    async def ainvoke(self, function: Any, data: Any = None, *, timeout: Duration | None = None) -> Any:
        """As `invoke`, without blocking the event loop."""
        return await (await self.astart(function, data)).aresult(timeout)

    def run(self, run_id: str) -> Run[Any]:
        """A handle of the run with this id; whether there is one is seen when it is used."""
        return Run(self.backend, run_id)

    # -- how ---------------------------------------------------------------------

    def _events(
        self, event: str | Event[Any] | Sequence[Event[Any]], data: Any, id: str
    ) -> tuple[list[Event[Any]], bool]:
        if isinstance(event, str):
            return [Event(event, data, id)], True
        if isinstance(event, Event):
            return [event], True
        given: Any = event
        found: list[Any] = self._counted(given, "events in one send") if isinstance(given, Iterable) else [given]
        for one in found:
            if not isinstance(one, Event):
                raise EventError(f"send sends an event's name, an Event or a list of those, not {type(one).__name__}")
        return found, False

    def _counted(self, items: Iterable[T], what: str) -> list[T]:
        found, most = list(items), self.limits.events_per_send
        if len(found) > most:
            raise EventError(f"{len(found):,} {what}; at most {most:,} are accepted: send them in several calls")
        return found

    def _add_events(self, events: list[Event[Any]]) -> tuple[list[str], list[Command[str]]]:
        ids, calls, now_ms = [], [], _now_ms()
        for event in events:
            event_id = event.id or uuid.uuid4().hex
            text = self._encode(event, event_id, now_ms)
            ids.append(event_id)
            calls.append(add_event(self.backend.keys.at(event_id), text, event_id=event_id, dedupe=bool(event.id)))
        return ids, calls

    def _start(self, config: FunctionConfig, data: Any, id: str | None) -> tuple[str, Command[ScriptStatus]]:
        run_id = with_partition_prefix(
            config.pinned_partition, uuid.uuid4().hex if id is None else run_id_for(id, config.name)
        )
        call = start_run(
            self.backend.keys,
            config,
            run_id=run_id,
            event=self._invoked(data, run_id if id is None else id),
            dedupe=id is not None,
            cipher=self.backend.cipher,
        )
        return run_id, call

    def _start_many(
        self, function: Any, config: FunctionConfig, data: Iterable[Any]
    ) -> tuple[list[Run[Any]], list[Command[list[ScriptStatus]]]]:
        given, runs, calls = (
            self._counted(data, "runs in one start_many"),
            list[str](),
            list[Command[list[ScriptStatus]]](),
        )
        for first in range(0, len(given), _START_CHUNK):
            place = config.pinned_partition or uuid.uuid4().hex  # what one script starts lives in one place
            chunk = [
                (with_partition_prefix(place, uuid.uuid4().hex), one) for one in given[first : first + _START_CHUNK]
            ]
            started = [(run_id, self._invoked(one, run_id)) for run_id, one in chunk]
            calls.append(start_runs(self.backend.keys, config, started, cipher=self.backend.cipher))
            runs += [run_id for run_id, _ in chunk]
        output = getattr(function, "output", None)
        return [Run(self.backend, run_id, output) for run_id in runs], calls

    def _invoked(self, data: Any, event_id: str) -> bytes:
        """The event of a run that is started by name."""
        return self._encode(Event(INVOKED, data), event_id, _now_ms())

    def _encode(self, event: Event[Any], event_id: str, now_ms: int) -> bytes:
        limit, cipher = self.limits.event_bytes, self.backend.cipher
        return encode_event(event, event_id=event_id, now_ms=now_ms, limit_bytes=limit, cipher=cipher)

    def _config(self, function: Any) -> FunctionConfig:
        known = self._local_config(function)
        return known or self._found(function, self.backend.broker.execute(self._read_config(function)))

    async def _aconfig(self, function: Any) -> FunctionConfig:
        known = self._local_config(function)
        return known or self._found(function, await self.backend.abroker.execute(self._read_config(function)))

    def _read_config(self, function: str) -> Command[FunctionConfig | None]:
        return read_function(self.backend.keys, *self._split(function))

    def _local_config(self, function: Any) -> FunctionConfig | None:
        if isinstance(function, Function):
            return function.config
        if not isinstance(function, str):
            raise TypeError(f"a function or its id is needed, not {type(function).__name__}")
        app, name = self._split(function)
        return self.functions[name].config if app == self.id and name in self.functions else None

    def _split(self, function: str) -> tuple[str, str]:
        app, slash, name = function.partition("/")
        return (app, name) if slash else (self.id, function)

    @staticmethod
    def _found(function: str, config: FunctionConfig | None) -> FunctionConfig:
        if config is None:
            message = (
                f"could not find function with ID: {function}: no worker has registered it; start its worker first"
            )
            raise FunctionNotFoundError("", Failure("FunctionNotFoundError", message), function_id=function)
        return config


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
