"""What flow control promises, said over the history of the starts: who may start, when, and who gives way to whom.

It knows nothing of the scripts, their keys, or the order in which they ask the rules. A run that is refused has changed
nothing: it has displaced nobody, and has used up no start of any rule. One that is debounced away never started: who
takes its place takes its singleton and its start within the rate limit too. Each user has a throttle and a debounce,
each shop a singleton and a rate limit; an order starts once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction

from stepflow_broker.registry.flow_control import FlowConfig, ThrottleConfig
from stepflow_engine.state_machine import RunStatus

__all__ = ["DAY_MS", "FlowModel", "Life", "Sent"]

DAY_MS = 24 * 3600 * 1000


@dataclass(frozen=True, slots=True)
class Sent:
    """An event that starts a run, when it comes."""

    run: str
    user: int
    shop: int
    order: int
    ts: int
    at_ms: int


@dataclass(slots=True)
class Life:
    """A run that was started: not refused at once.

    Attributes:
        since_ms: when the first of the runs came that were debounced together, this one being the last.
        due_ms: when it starts, or its next attempt.
        state: ``delayed``, ``queued``, ``leased`` or ``ended``.
        begun: whether its time to start has come.
        status, reason: how it ended.
    """

    sent: Sent
    since_ms: int
    start_ms: int
    due_ms: int
    state: str
    begun: bool
    status: RunStatus | None = None
    reason: str = ""

    @property
    def live(self) -> bool:
        return self.state != "ended"

    def end(self, status: RunStatus, reason: str = "") -> None:
        self.state, self.status, self.reason = "ended", status, reason


@dataclass(slots=True)
class _Bucket:
    """Starts of a throttle as tokens: ``burst`` fit in, and one comes every ``period / limit``."""

    throttle: ThrottleConfig
    tokens: Fraction
    at_ms: Fraction = Fraction(0)

    def take(self, now_ms: int) -> int:
        """When the next may start, and not before those that came before it."""
        gap_ms = Fraction(self.throttle.period_ms, self.throttle.limit)
        start_ms = max(Fraction(now_ms), self.at_ms)
        level = min(Fraction(self.throttle.burst), self.tokens + (start_ms - self.at_ms) / gap_ms)
        if level < 1:
            start_ms, level = start_ms + (1 - level) * gap_ms, Fraction(1)
        self.tokens, self.at_ms = level - 1, start_ms
        return math.ceil(start_ms)


@dataclass(slots=True)
class FlowModel:
    """The runs of one function, and what its flow control makes of the next."""

    flow: FlowConfig
    lives: dict[str, Life] = field(default_factory=dict)
    buckets: dict[int, _Bucket] = field(default_factory=dict)

    # -- starts ------------------------------------------------------------------

    def refusals(self, sent: Sent) -> set[str]:
        """Every reason for which a run may not start. More than one may hold; none: it starts."""
        return set(self._refusals(sent))

    def _refusals(self, sent: Sent) -> Iterator[str]:
        if self.flow.idempotency and self._is_duplicate(sent):
            yield "duplicate"
        waiting = self._waiting(sent)
        if waiting and sent.ts < waiting.sent.ts:
            yield "debounced"
        if (one := self.flow.singleton) and one.mode != "cancel" and (holder := self._holder(sent)):
            yield "singleton" if one.mode == "skip" else f"attached to {holder.sent.run}"
        if self.flow.rate_limit and self._is_over_rate(sent):
            yield "rate limited"

    def start(self, sent: Sent) -> Life:
        """A run starts that nothing refuses; those end that give way to it."""
        displaced, holder = self._displaced(sent), self._holder(sent)
        if holder:
            holder.end(RunStatus.CANCELLED)
        if displaced:
            displaced.end(RunStatus.SKIPPED, "debounced")
        since_ms = displaced.since_ms if displaced else sent.at_ms
        due_ms = self._due(sent, since_ms)
        late = due_ms > sent.at_ms
        life = Life(sent, since_ms, due_ms, due_ms, "delayed" if late else "queued", begun=not late)
        self.lives[sent.run] = life
        return life

    def _due(self, sent: Sent, since_ms: int) -> int:
        if throttle := self.flow.throttle:
            bucket = self.buckets.setdefault(sent.user, _Bucket(throttle, Fraction(throttle.burst)))
            return bucket.take(sent.at_ms)
        if debounce := self.flow.debounce:
            latest_ms = since_ms + debounce.timeout_ms if debounce.timeout_ms else math.inf
            return int(min(sent.at_ms + debounce.period_ms, latest_ms))
        return sent.at_ms

    def _waiting(self, sent: Sent) -> Life | None:
        """The run of this user that a debounce still puts off."""
        if not self.flow.debounce:
            return None
        of_user = [life for life in self.lives.values() if life.sent.user == sent.user and life.live and not life.begun]
        return next((life for life in of_user if sent.at_ms <= life.start_ms), None)

    def _displaced(self, sent: Sent) -> Life | None:
        waiting = self._waiting(sent)
        return waiting if waiting and sent.ts >= waiting.sent.ts else None

    def _holder(self, sent: Sent) -> Life | None:
        """The live run of this shop, unless a debounce puts this one in its place."""
        if not self.flow.singleton:
            return None
        displaced = self._displaced(sent)
        of_shop = [life for life in self.lives.values() if life.sent.shop == sent.shop and life.live]
        return next((life for life in of_shop if life is not displaced), None)

    def _is_duplicate(self, sent: Sent) -> bool:
        same = [life for life in self.lives.values() if life.sent.order == sent.order]
        return any(sent.at_ms - life.sent.at_ms <= DAY_MS for life in same)

    def _is_over_rate(self, sent: Sent) -> bool:
        rate, displaced = self.flow.rate_limit, self._displaced(sent)
        assert rate
        recent = [life for life in self.started() if sent.at_ms - life.sent.at_ms < rate.period_ms]
        counted = [life for life in recent if life.sent.shop == sent.shop and life is not displaced]
        return len(counted) >= rate.limit

    # -- what becomes of them ----------------------------------------------------

    def fire(self, now_ms: int) -> int:
        """Queue those whose time has come."""
        due = [life for life in self.lives.values() if life.state == "delayed" and life.due_ms <= now_ms]
        for life in due:
            life.state, life.begun = "queued", True
        return len(due)

    def live(self) -> dict[str, Life]:
        return {run: life for run, life in self.lives.items() if life.live}

    def timers(self) -> dict[str, float]:
        """Who is put off until when, as the server lists it."""
        return {f"job:{run}": life.due_ms for run, life in self.lives.items() if life.state == "delayed"}

    def holders(self) -> dict[int, str]:
        """The live run of each shop, of a singleton."""
        return {life.sent.shop: run for run, life in self.live().items()} if self.flow.singleton else {}

    def started(self) -> list[Life]:
        """The runs that started, or will: those that were not debounced away."""
        return [life for life in self.lives.values() if life.reason != "debounced"]
