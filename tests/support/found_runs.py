"""Runs as lists show them."""

from __future__ import annotations

from typing import Any

from stepflow_broker.protocol.partition import Partition
from stepflow_broker.redis_client.broker import Broker
from stepflow_broker.redis_client.operation import run_operation
from stepflow_broker.transitions.runs.run_index import RunQuery
from stepflow_broker.views.find_runs import find_page
from stepflow_broker.views.run_view import RunView
from stepflow_engine.state_machine import RunStatus

__all__ = ["ENDED", "found_runs"]

ENDED = frozenset(status for status in RunStatus if status.ended)


def found_runs(broker: Broker, partition: Partition, *, limit: int = 100, **wanted: Any) -> list[RunView]:
    """The first page of a list."""
    return run_operation(broker, find_page(partition, RunQuery(**wanted), limit=limit)).runs
