"""An app whose workers end while they route one event, as in a crash of a native library."""

from __future__ import annotations

import os
from typing import Any

from stepflow import Context, Stepflow
from stepflow_broker.registry.function_config import FunctionConfig
from stepflow_workers.consumers import event_router

app = Stepflow("deadly")


@app.function("take", event="order")
async def take(ctx: Context) -> int:
    return int(ctx.event.data["number"])


_starts = event_router.starts


def starts(config: FunctionConfig, event: dict[str, Any]) -> bool:
    if event["data"].get("is_deadly"):
        os._exit(9)
    return _starts(config, event)


event_router.starts = starts  # type: ignore[attr-defined]
event_router._TAKE_OVER_MS = event_router._BLOCK_MS = 200
