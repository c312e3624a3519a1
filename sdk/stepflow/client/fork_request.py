"""What a caller wants of a fork."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from stepflow.client.pauses import check_reason
from stepflow.event import checked_event_id
from stepflow_engine.codec import dumps
from stepflow_engine.errors import ForkError
from stepflow_engine.limits import check_id

__all__ = ["SAME_DATA", "Children", "ForkRequest", "Keys"]

_NAMED_RESULTS = 20
Keys = Literal["auto", "keep", "new"]
"""Which idempotency keys the steps of a fork use."""
Children = Literal["adopt", "again"]
"""What becomes of children that have ended."""


class _SameData:
    """The type of `SAME_DATA`."""

    def __repr__(self) -> str:
        return "the data of the run"


SAME_DATA: Final = _SameData()
"""The default of ``data=``: the fork has the data of its source."""


@dataclass(frozen=True, slots=True)
class ForkRequest:
    """What to fork; see `Client.fork`.

    Attributes:
        action: the name of the call, for messages.
        bulk: the bulk that it belongs to, which is in the audit log, so that its forks are not; ``""``: none. A run
            that has a fork already gets none by a bulk.
    """

    before: str | None = None
    failed: bool = False
    data: Any = SAME_DATA
    results: Mapping[str, Any] = field(default_factory=dict)
    keys: Keys = "auto"
    children: Children = "adopt"
    id: str | None = None
    reason: str = ""
    action: str = "fork"
    bulk: str = ""

    def check(self) -> None:
        """Refuse arguments that can never be right.

        Raises:
            ForkError: an argument is invalid, or two contradict each other.
            EventError: the id is invalid.
            ConfigurationError: the reason is invalid.
        """
        if self.before is not None:
            self._check_step(self.before, "before")
        if not isinstance(self.failed, bool):
            raise ForkError(f"{self.action}: failed must be True or False, got {self.failed!r:.100}")
        if self.before is not None and self.failed:
            raise ForkError(f"{self.action}: before and failed=True contradict each other: pass one of them")
        if not isinstance(self.results, Mapping) or not all(isinstance(one, str) for one in self.results):
            raise ForkError(f'{self.action}: results must be a dict from step ids to values, as in {{"price": 12}}')
        for step_id in self.results:
            self._check_step(step_id, "results: step id")
        if self.keys not in ("auto", "keep", "new"):
            raise ForkError(f'{self.action}: keys must be "auto", "keep" or "new", got {self.keys!r}')
        if self.children not in ("adopt", "again"):
            raise ForkError(f'{self.action}: children must be "adopt" or "again", got {self.children!r}')
        checked_event_id(self.id)
        check_reason(self.reason)

    def _check_step(self, step_id: str, what: str) -> None:
        try:
            check_id(step_id, what)
        except ValueError as error:
            raise ForkError(f"{self.action}: {error}") from None

    def details(self, fork_id: str) -> bytes:
        """What the audit log has of the fork, as JSON text."""
        more = {"before": self.before} if self.before is not None else {}
        names = list(self.results)
        more_names = [f"and {len(names) - _NAMED_RESULTS:,} more"] if len(names) > _NAMED_RESULTS else []
        edited = {"results": [*names[:_NAMED_RESULTS], *more_names]} if names else {}
        data = {} if self.data is SAME_DATA else {"data": "other"}
        return dumps({"run": fork_id, **more, **edited, **data})

    def forked_by(self, actor: str) -> str:
        """Who has made the fork, and why, as it is stored."""
        who = f"{actor}, bulk {self.bulk}" if self.bulk else actor
        return ": ".join(part for part in (who, self.reason) if part)
