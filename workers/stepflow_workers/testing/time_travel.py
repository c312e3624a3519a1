"""TimeTravel: sets the clock of a harness ahead, and says what becomes due and when nothing is left to do."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import redis

from stepflow.options.cron_times import next_start
from stepflow_broker.redis_client.broker import Broker
from stepflow_broker.registry.schedules import ScheduleConfig
from stepflow_broker.transitions.schedules import read_schedules
from stepflow_workers.testing.clock import VirtualClock
from stepflow_workers.testing.errors import NotIdleError
from stepflow_workers.worker import StepWorker

__all__ = ["TimeTravel"]

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.0005, 0.005
_SWEEP = """
for _, key in ipairs(redis.call('KEYS', '*')) do
  local left = redis.call('PTTL', key)
  local is_of_worker = string.sub(key, 1, #ARGV[2]) == ARGV[2] or string.sub(key, 1, #ARGV[3]) == ARGV[3]
  if left >= 0 and not is_of_worker then
    if left <= tonumber(ARGV[1]) then redis.call('UNLINK', key) else redis.call('PEXPIRE', key, left - ARGV[1]) end
  end
end
"""
"""Keys expire by the real time of the server. The sweep shortens their lives by the time that was skipped, but not of
those that say that the worker of the harness lives."""


class TimeTravel:
    """The time of one harness.

    Args:
        worker: the worker of the harness.
        longest_s: how long `settle` waits, in seconds of real time.
    """

    def __init__(self, client: redis.Redis, clock: VirtualClock, worker: StepWorker, *, longest_s: float) -> None:
        self._client = client
        self._clock = clock
        self._worker = worker
        self._longest_s = longest_s
        self._keys = worker.partition.keys
        self._sweep = client.register_script(_SWEEP)

    def settle(self) -> None:
        """Wait until nothing can happen without time or something from outside.

        Raises:
            NotIdleError: the worker still works after the time that it has.
        """
        deadline, pause_s = time.monotonic() + self._longest_s, _FIRST_PAUSE_S
        while not (self._worker.has_followed and not self._left()):
            if time.monotonic() > deadline:
                left = ", ".join(self._left()) or "periodic tasks"
                raise NotIdleError(
                    f"the worker still works after {self._longest_s:g} s: {left}; give the harness more idle_timeout=, "
                    "if a handler takes so long"
                )
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _left(self) -> list[str]:
        """What is left to do, at one moment; empty: nothing."""
        keys, lists = self._keys, self._worker.lists
        with self._client.pipeline(transaction=True) as pipeline:
            pipeline.xlen(keys("EVENTS"))
            pipeline.xlen(keys("FINISHED"))
            pipeline.zrange(keys("LEASES"), 0, 9)
            pipeline.zcount(keys("BULKS"), "+inf", "+inf")
            pipeline.zrangebyscore(keys("TIMEOUTS"), "-inf", self._clock.now_ms(), start=0, num=10)
            for name in lists:
                pipeline.llen(keys("RQ_QUEUE", name))
            events, finished, leases, bulks, due, *ready = pipeline.execute()
        names = ("events to route", "ended runs", "bulks", "ready jobs")
        counts = zip(names, (events, finished, bulks, sum(ready)), strict=True)
        counted = [f"{count} {name}" for name, count in counts if count]
        return counted + [f"job {job.decode()}" for job in leases] + [f"timer {timer.decode()}" for timer in due]

    def next_due_ms(self) -> int | None:
        """When the next timer or schedule is due; ``None``: none is."""
        return min(self._due(), default=None)

    def _due(self) -> Iterator[int]:
        timers: Any = self._client.zrange(self._keys("TIMEOUTS"), 0, 0, withscores=True)
        for _, due_ms in timers:
            yield round(due_ms)
        now_ms = self._clock.now_ms()
        crons = [
            (cron, cron.name_of(function.name))
            for function in self._worker.functions.values()
            for cron in function.config.crons
        ]
        if self._client.hlen(self._keys("SCHEDULES")):
            crons += [(one.cron, one.name) for one in self._schedules() if not one.paused_at]
        for cron, name in crons:
            if (next_ms := next_start(cron, after_ms=now_ms, name=name)) is not None:
                yield next_ms

    def _schedules(self) -> Sequence[ScheduleConfig]:
        broker = Broker(self._worker.settings.redis_url)
        try:
            return broker.execute(read_schedules(self._worker.partition))
        finally:
            broker.close()

    def go_to(self, at_ms: int) -> None:
        """Set the clock to a time, and wait until all that is due then is done. What is due before it comes first."""
        self.settle()
        while (due_ms := self.next_due_ms()) is not None and due_ms <= at_ms:
            self.jump(due_ms)
        self.jump(at_ms)

    def jump(self, at_ms: int) -> None:
        """Set the clock to a time at once."""
        by_ms = self._clock.set_to(at_ms)
        if by_ms:
            self._sweep(args=[by_ms, self._keys("RQ_WORKER"), self._keys("CODE")])
        self._worker.clock_set()
        self.settle()
