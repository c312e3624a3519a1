"""Schedules and a server whose clock jumps. No server: its answers are given."""

from __future__ import annotations

import asyncio
from typing import Any

from stepflow import Context, Stepflow
from stepflow_broker.protocol.command import Command
from stepflow_broker.redis_client.partitions import partition_for
from stepflow_engine.cipher import NO_ENCRYPTION
from stepflow_workers.scheduling.cron import CronTicker

URL = "redis://127.0.0.1:6379/0"
MINUTE_MS, DAY_MS = 60_000, 86_400_000
NOW_MS = 1_796_000_040_000


class AnsweringBroker:
    """Answers as a server with one schedule would."""

    def __init__(self) -> None:
        self.now_ms = NOW_MS
        self.crons: dict[str, int] = {}
        self.fired_at: list[int] = []

    async def execute(self, call: Command[Any]) -> Any:
        if call.action == "time":
            return self.now_ms
        if call.action != "fire_cron":
            return dict(self.crons)
        schedule, until_ms = str(call.args[6]), int(call.args[8])
        self.crons[schedule] = until_ms
        runs = len(call.args) > 9
        self.fired_at += [self.now_ms] if runs else []
        return int(runs)


def test_schedules_fire_again_after_the_clock_of_the_server_was_ahead() -> None:
    app = Stepflow("clocks", redis_url=URL)

    @app.function("tick", cron="* * * * *")
    async def tick(ctx: Context) -> None:
        pass

    broker: Any = AnsweringBroker()
    ticker = CronTicker(broker, partition_for(URL, NO_ENCRYPTION), app.functions.values())

    async def tick_at(now_ms: int) -> None:
        broker.now_ms = now_ms
        await ticker.tick()

    async def live_through() -> None:
        await tick_at(NOW_MS)
        await tick_at(NOW_MS + 3 * DAY_MS)
        await tick_at(NOW_MS + 1_000)
        broker.fired_at.clear()
        for minute in (1, 2, 3):
            await tick_at(NOW_MS + minute * MINUTE_MS)

    asyncio.run(live_through())
    assert broker.fired_at == [NOW_MS + minute * MINUTE_MS for minute in (1, 2, 3)]
