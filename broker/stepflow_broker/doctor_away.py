"""Waits for runs of other partitions, compared with these runs.

No script can see both. The child is looked at first and the wait again after: who ends the wait does so before the
child's finished event is dropped, and the child is kept until then. So a wait that still stands, for a child that is
gone or has no event, would never end but by its time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from stepflow_broker.broker import Broker
from stepflow_broker.call import Call, command
from stepflow_broker.finding import Findings
from stepflow_broker.keys import Keys
from stepflow_engine.states import RunStatus

__all__ = ["examine_away"]

_PAGE = 200
_Wait = tuple[str, str, str]
"""Run, step key, child."""


def examine_away(broker: Broker, keys: Keys, findings: Findings, waits: Sequence[_Wait]) -> None:
    """Look at the children of waits, and again at the waits of those that will not be heard of."""
    for first in range(0, len(waits), _PAGE):
        page = waits[first : first + _PAGE]
        codes = _look(broker, keys, [child for _, _, child in page])
        suspects = [(code, wait) for code, wait in zip(codes, page, strict=True) if code]
        stands = broker.run_all([_stands(keys, wait) for _, wait in suspects]) if suspects else []
        for (code, (run, key, child)), still in zip(suspects, stands, strict=True):
            if still:
                findings.add(code, f"{run}:{key}", child)


def _look(broker: Broker, keys: Keys, children: Sequence[str]) -> list[str]:
    """What is wrong with children: a code for each, or ``""``."""
    states = broker.run_all([_read_child(keys, child) for child in children])
    ended = [(child, entry) for child, (status, entry) in zip(children, states, strict=True) if entry]
    heard = dict(zip(ended, broker.run_all([_is_told(keys, *one) for one in ended]) if ended else (), strict=True))
    return [
        "away_missing" if not status else "away_unheard" if _has_ended(status) and not heard.get((child, entry)) else ""
        for child, (status, entry) in zip(children, states, strict=True)
    ]


def _has_ended(status: str) -> bool:
    return status in set(RunStatus) and RunStatus(status).ended


def _read_child(keys: Keys, child: str) -> Call[tuple[str, str]]:
    """Its status, and the id of its finished event."""
    return command(_texts, "HMGET", keys.of(child)("RUN", child), "status", "finished")


def _is_told(keys: Keys, child: str, entry: str) -> Call[bool]:
    """Whether its finished event is still on the stream."""
    return command(bool, "XRANGE", keys.of(child)("FINISHED"), entry, entry)


def _stands(keys: Keys, wait: _Wait) -> Call[bool]:
    """Whether a step still waits for its child."""
    run, key, child = wait
    expected = ["waiting", child]
    step = (f"{key}:state", f"{key}:child")
    return command(lambda reply: list(_texts(reply)) == expected, "HMGET", keys.of(run)("STEPS", run), *step)


def _texts(reply: list[Any]) -> tuple[str, str]:
    first, second = [(value or b"").decode() for value in reply]
    return first, second
