"""Signals: what a run is sent by its id, for the waits of its code.

A signal ends a wait and becomes its memo in one script, or is kept in one. So a crash of the sender loses no signal,
and none is received twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stepflow_broker.protocol import replies
from stepflow_broker.protocol.command import Command, command, run_script
from stepflow_broker.protocol.partition import Partition
from stepflow_broker.protocol.status import ScriptStatus
from stepflow_broker.registry.event_values import id_digest
from stepflow_broker.transitions.invokes.invokes import Resolved
from stepflow_broker.transitions.steps.waits import WaitStart
from stepflow_engine.codec import dumps, loads

__all__ = ["WaitingSignal", "begin_signal_wait", "read_signals", "send_signal"]


@dataclass(frozen=True, slots=True)
class WaitingSignal:
    """A signal that no wait has received yet.

    Attributes:
        at_ms: when it arrived, in milliseconds since the epoch.
        data: plain JSON data, or sealed.
    """

    name: str
    id: str
    at_ms: int
    data: Any


def send_signal(
    partition: Partition, *, run_id: str, name: str, signal_id: str, data: bytes
) -> Command[tuple[ScriptStatus, str]]:
    """Send a run a signal. DONE, ALREADY (it was sent one with this id), NO_RUN, or FULL.

    Returns also, with NO_RUN, the status of a run that has ended, or ``undoing`` and the status that it will have
    (``""``: there is no such run), and with FULL what the run keeps already.

    Args:
        partition: any partition of the server.
        run_id: the run.
        name: the name of the signal.
        signal_id: its id. The same id is received once.
        data: its data as JSON text, sealed if the app encrypts.
    """
    signal = dumps({"id": signal_id, "name": name})[1:-1] + b',"data":' + data + b"}"
    return run_script(
        "send_signal",
        _status_and_text,
        partition.run_keys(run_id, "RUN"),
        partition.clock.script_ms(),
        run_id,
        name,
        id_digest(signal_id),
        signal,
    )


def begin_signal_wait(
    partition: Partition, start: WaitStart, name: str, *, run_id: str, fence: int
) -> Command[tuple[ScriptStatus, Resolved | None]]:
    """Store a wait. DONE, ALREADY, RESOLVED (a signal was kept, or no time is left), NO_RUN or STALE_FENCE."""

    def read(reply: list[Any]) -> tuple[ScriptStatus, Resolved | None]:
        code = ScriptStatus(reply[0])
        return code, Resolved(run_id, start.key, reply[1], reply[2]) if code is ScriptStatus.RESOLVED else None

    return run_script(
        "begin_signal_wait",
        read,
        partition.run_keys(run_id, "RUN"),
        partition.clock.script_ms(),
        run_id,
        fence,
        start.key,
        start.step_id,
        start.detail,
        start.delay_ms,
        name,
    )


def read_signals(partition: Partition, run_id: str) -> Command[list[WaitingSignal]]:
    """The signals of a run that no wait has received, in the order of arrival."""
    return command(lambda reply: _signals(replies.fields(reply)), "HGETALL", partition.run_key("SIGNALS", run_id))


def _status_and_text(reply: list[Any]) -> tuple[ScriptStatus, str]:
    return ScriptStatus(reply[0]), replies.text(reply[1])


def _signals(fields: Mapping[str, bytes]) -> list[WaitingSignal]:
    numbered = sorted((int(name), text) for name, text in fields.items() if name.isdecimal())
    found = (loads(text) for _, text in numbered)
    return [WaitingSignal(str(one["name"]), str(one["id"]), int(one["at"]), one["data"]) for one in found]
