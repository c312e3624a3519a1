"""What must hold at the end of every fault test: the invariants, as the tests know them and as the doctor does."""

from __future__ import annotations

import redis

from stepflow_broker.doctor.examine import examine
from stepflow_broker.redis_client.broker import Broker
from tests.support.invariants import check_invariants
from tests.support.plain import plain_partition

__all__ = ["check_health"]


def check_health(url: str, client: redis.Redis) -> None:
    """Fail if the server is in a state that it must never be in. ``client`` decodes replies."""
    check_invariants(client)
    broker = Broker(url)
    try:
        errors = [finding for finding in examine(broker, plain_partition(url)) if finding.is_open]
    finally:
        broker.close()
    assert not errors, f"the doctor finds {len(errors)} errors, first {errors[0].code}: {errors[0].text}"
