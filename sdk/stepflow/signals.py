"""Signals: what a run is sent by its id."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from stepflow_engine.codec import dumps_checked
from stepflow_engine.errors import SignalError
from stepflow_engine.limits import check_id
from stepflow_engine.times import utc_time

__all__ = ["Signal", "check_signal", "read_signal"]


@dataclass(frozen=True, slots=True)
class Signal:
    """What a run was sent with `Run.signal`, as ``wait_for_signal`` returns it.

    Attributes:
        name: the name of the signal.
        data: its data, as plain JSON data.
        id: identifies the signal in its run.
        at: when it arrived, in UTC.

    Example::

        paused = await ctx.step.wait_for_signal("pause", "pause", timeout="1h")
        if paused is not None:
            ctx.logger.info("paused", extra={"by": paused.data["by"]})
    """

    name: str
    data: Any
    id: str
    at: datetime


def read_signal(value: Mapping[str, Any]) -> Signal:
    """The signal with the parsed JSON text ``value``."""
    at = utc_time(value["at"])
    return Signal(value["name"], value["data"], value["id"], at)


def check_signal(run_id: str, name: object, data: Any, signal_id: object, *, limit_bytes: int) -> bytes:
    """The data of a signal as JSON text.

    Raises:
        SignalError: the name or the id is invalid, or the data is not JSON or over the limit.
    """

    def refuse(message: str) -> SignalError:
        return SignalError(message, run_id=run_id, signal=str(name)[:100])

    try:
        check_id(name, "signal name")
        if signal_id is not None:
            check_id(signal_id, "signal id")
    except ValueError as error:
        raise refuse(str(error)) from None
    return dumps_checked(data, what=f"data of signal {name!r}", limit_bytes=limit_bytes, refuse=refuse)
