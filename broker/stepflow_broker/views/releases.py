"""Releases of the code: which live workers have, and how many live runs of pinned functions need each."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from stepflow_broker.protocol import replies
from stepflow_broker.protocol.clock import server_time_ms
from stepflow_broker.protocol.command import command
from stepflow_broker.protocol.partition import Partition
from stepflow_broker.redis_client.operation import Operation, single
from stepflow_broker.registry.code import read_code
from stepflow_broker.transitions.runs.run_index import RunQuery
from stepflow_broker.views.find_runs import find_page
from stepflow_engine.state_machine import LIVE

__all__ = ["ReleaseRecord", "read_live_releases", "read_releases"]

_PAGE = 500
_RELEASE = "release "


@dataclass(frozen=True, slots=True)
class ReleaseRecord:
    """A release of a pinned function.

    Attributes:
        version: the version of the code.
        runs: how many live runs only its workers execute. Its workers can stop when there are none.
        live: whether a live worker has it.
    """

    version: str
    runs: int
    live: bool

    def to_json(self) -> dict[str, Any]:
        """The fields of the JSON output."""
        return {"version": self.version, "runs": self.runs, "live": self.live}


def read_live_releases(partition: Partition, function: str) -> Operation[frozenset[str]]:
    """The releases of a function (``app/function``) that live workers have. Three round trips."""
    now = partition.clock.script_ms() or (yield from single(server_time_ms(partition.clock)))
    digests = yield from single(read_code(partition, now))
    sets = (
        (yield [command(replies.texts, "SMEMBERS", partition.keys("CODE", one)) for one in digests]) if digests else []
    )
    members = [member for names in sets if function in names for member in names]
    return frozenset(member.removeprefix(_RELEASE) for member in members if member.startswith(_RELEASE))


def read_releases(partition: Partition, function: str) -> Operation[list[ReleaseRecord]]:
    """The releases of a pinned function that live workers have, or that live runs need, by their names."""
    live = yield from read_live_releases(partition, function)
    runs = Counter[str](dict.fromkeys(live, 0))
    wanted, cursor = RunQuery(functions=(function,), statuses=LIVE), ""
    while True:
        page = yield from find_page(partition, wanted, cursor=cursor, limit=_PAGE, known=(function,))
        runs.update(run.version for run in page.runs if run.pinned and run.started_at is not None)
        if not (cursor := page.next_cursor):
            return [ReleaseRecord(version, runs[version], version in live) for version in sorted(runs)]
