"""Schedules that were created at run time, and a server whose clock jumps. No server: its answers are given."""

from __future__ import annotations

import asyncio
from typing import Any

from stepflow import Context, Stepflow
from stepflow_broker.protocol.command import Command
from stepflow_broker.redis_client.partitions import partition_for
from stepflow_broker.registry.crons import CronConfig
from stepflow_broker.registry.schedules import ScheduleConfig, ScheduleState
from stepflow_engine.cipher import NO_ENCRYPTION
from stepflow_workers.scheduling.schedules import ScheduleTicker

URL = "redis://127.0.0.1:6379/0"
MINUTE_MS, DAY_MS = 60_000, 86_400_000
NOW_MS = 1_796_000_040_000


class AnsweringBroker:
    """Answers as a server with one schedule would."""

    def __init__(self, schedule: ScheduleConfig) -> None:
        self.schedules = [schedule]
        self.now_ms = NOW_MS
        self.version = 1
        self.until_ms = 0
        self.started: list[int] = []
        self.asked: list[str] = []

    async def execute(self, call: Command[Any]) -> Any:
        action = call.action.partition(" ")[0]
        self.asked.append(action)
        if action == "time":
            return self.now_ms
        if action == "get":
            return self.version
        if action == "hvals":
            return self.schedules
        if action == "hmget":
            return [ScheduleState(self.until_ms)]
        words = call.args[7:]  # without the keys and the time
        assert (action, words[0]) == ("fire_schedule", "shop/s")
        self.until_ms = int(words[3])
        self.started += [int(time_ms) for time_ms in words[14::4]]
        return len(words[14::4])


def ticking(schedule: ScheduleConfig) -> tuple[ScheduleTicker, AnsweringBroker]:
    app = Stepflow("shop", redis_url=URL)

    @app.function("tick")
    async def tick(ctx: Context) -> None:
        pass

    broker: Any = AnsweringBroker(schedule)
    return ScheduleTicker(broker, partition_for(URL, NO_ENCRYPTION), app.functions.values()), broker


def schedule(**fields: Any) -> ScheduleConfig:
    return ScheduleConfig("shop", "s", "shop/tick", CronConfig("* * * * *")).changed(**fields)


def test_runs_start_again_after_the_clock_of_the_server_was_ahead() -> None:
    ticker, broker = ticking(schedule())

    async def live_through() -> None:
        await ticker.refresh()
        for now_ms in (NOW_MS, NOW_MS + 3 * DAY_MS, NOW_MS + 1_000):
            broker.now_ms = now_ms
            await ticker.tick()
        broker.started.clear()
        for minute in (1, 2, 3):
            broker.now_ms = NOW_MS + minute * MINUTE_MS
            await ticker.tick()

    asyncio.run(live_through())
    assert broker.started == [NOW_MS + minute * MINUTE_MS for minute in (1, 2, 3)]


def test_a_worker_without_schedules_asks_for_their_version_only() -> None:
    for other in (schedule(function="shop/other"), schedule(paused_at=1)):
        ticker, broker = ticking(other)

        async def live(ticker: ScheduleTicker = ticker) -> None:
            for _ in range(3):
                await ticker.refresh()
                await ticker.tick()

        asyncio.run(live())
        assert broker.asked == ["get", "hvals", "get", "get"]
