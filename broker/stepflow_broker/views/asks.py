"""The open asks: the steps of all runs that wait for the answer of a person."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from stepflow_broker.protocol import replies
from stepflow_broker.protocol.command import command
from stepflow_broker.protocol.partition import Partition
from stepflow_broker.redis_client.operation import Operation
from stepflow_broker.transitions.steps.asks import read_open_asks
from stepflow_broker.views.times import iso
from stepflow_engine.codec import loads
from stepflow_engine.encryption_scopes import redacted_detail
from stepflow_engine.errors import CorruptDataError
from stepflow_engine.ids import numbered_id

__all__ = ["MAX_COMPARED", "AskView", "find_asks"]

MAX_COMPARED = 20_000
"""How many asks of a partition are compared with the filters."""
_PAGE = 500


@dataclass(frozen=True, slots=True)
class AskView:
    """A step that waits for an answer. Times are milliseconds since the epoch.

    Attributes:
        run_id: the run.
        function: its function, as ``app/function``.
        step: the id by which the step is answered; the second with the id ``approve`` is ``approve#2``.
        to: whom the ask is for; ``""``: anybody.
        since: since when it waits.
        until: when it waits no longer.
        schema: the JSON schema of the answer; ``"encrypted"``: this process does not have the key.
    """

    run_id: str
    function: str
    step: str
    to: str
    since: int
    until: int
    schema: Any

    def to_json(self) -> dict[str, Any]:
        """The fields of the JSON output."""
        return {
            "run_id": self.run_id,
            "function": self.function,
            "step": self.step,
            "to": self.to or None,
            "since": iso(self.since),
            "until": iso(self.until),
            "schema": self.schema,
        }


def find_asks(
    partition: Partition, *, app: str = "", functions: Collection[str] = (), to: str | None = None, limit: int
) -> Operation[list[AskView]]:
    """The open asks, the oldest first.

    Args:
        partition: any partition of the server.
        app: only those of this app; ``""``: of any.
        functions: only those of these functions, as ``app/function``; empty: of any.
        to: only those for this person or group; ``None``: for any.
        limit: how many. At most `MAX_COMPARED` of a partition are compared.
    """

    def is_wanted(ask: AskView) -> bool:
        is_of = not app or ask.function.partition("/")[0] == app
        return is_of and (not functions or ask.function in functions) and (to is None or ask.to == to)

    found: list[AskView] = []
    open_parts = dict.fromkeys(partition.all, 0)
    left = dict.fromkeys(partition.all, limit)
    first = 0
    while open_parts and first < MAX_COMPARED:
        pages = yield [read_open_asks(one, first=first, limit=_PAGE) for one in open_parts]
        of_parts = dict(zip(list(open_parts), pages, strict=True))
        asks = yield from _read_asks(partition, [member for page in pages for member in page])
        for one, page in of_parts.items():
            wanted = [ask for member in page if (ask := asks.get(member)) is not None and is_wanted(ask)]
            found += wanted[: left[one]]
            left[one] -= len(wanted)
            if len(page) < _PAGE or left[one] <= 0:
                del open_parts[one]
        first += _PAGE
    return sorted(found, key=lambda ask: (ask.since, ask.run_id, ask.step))[:limit]


def _read_asks(partition: Partition, members: Sequence[tuple[str, str]]) -> Operation[dict[tuple[str, str], AskView]]:
    """The asks of an index by run and step key, without those that have ended meanwhile."""
    if not members:
        return {}
    answers = yield [
        call
        for run_id, key in members
        for call in (
            command(replies.raw, "HMGET", partition.run_key("RUN", run_id), "app", "function"),
            command(
                replies.raw,
                "HMGET",
                partition.run_key("STEPS", run_id),
                key,
                f"{key}:index",
                f"{key}:detail",
                f"{key}:began",
                f"{key}:due",
            ),
        )
    ]
    found = {}
    for member, of_run, step in zip(members, answers[::2], answers[1::2], strict=True):
        if step[0] is not None and step[1] == b"ask":
            found[member] = _view(partition, *member, of_run, step)
    return found


def _view(
    partition: Partition, run_id: str, key: str, of_run: Sequence[bytes | None], step: Sequence[bytes | None]
) -> AskView:
    step_id, _, detail_text, began, due = step
    app, function = (replies.shown_text(one) for one in of_run)
    try:
        detail = redacted_detail(partition.cipher, run_id, key, loads(b"{" + (detail_text or b"")))
    except ValueError as error:
        raise CorruptDataError(f"step {replies.shown_text(step_id)[:100]!r}", error) from None
    return AskView(
        run_id,
        f"{app}/{function}",
        numbered_id(replies.text(step_id), key),
        str(detail.get("to", "")),
        int(float(began or 0)),
        int(float(due or 0)),
        detail.get("schema"),
    )
