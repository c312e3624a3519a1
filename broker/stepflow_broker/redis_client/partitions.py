"""Partitions: the number of parts into which the keys are divided. All processes must use the same number.

Each partition has its own queues, timers, streams and registry, so no script needs keys of two partitions. The id of a
run determines its partition.
"""

from __future__ import annotations

import contextlib

from stepflow_broker.protocol import replies
from stepflow_broker.protocol.clock import REAL_CLOCK, Clock
from stepflow_broker.protocol.command import Command, command, run_script
from stepflow_broker.protocol.keys import Keys
from stepflow_broker.protocol.partition import Partition
from stepflow_broker.redis_client.broker import Broker
from stepflow_broker.redis_client.url import read_url, safe_url
from stepflow_engine.cipher import Cipher
from stepflow_engine.errors import BackendUnavailableError, ConfigurationError, PermissionDeniedError

__all__ = ["agree_partitions", "check_partitions", "keys_for", "partition_for", "read_partitions", "refuse_other"]


def keys_for(url: str) -> Keys:
    """The keys of the first partition of a server. `Keys.of` and `Keys.at` return the others.

    Raises:
        ConfigurationError: the URL is invalid.
    """
    return Keys.over(read_url(url).partitions)


def partition_for(url: str, cipher: Cipher, clock: Clock = REAL_CLOCK) -> Partition:
    """The first partition of a server; `Partition.of` and `Partition.at` find the others.

    Raises:
        ConfigurationError: the URL cannot be one of a server.
    """
    return Partition.first_of(keys_for(url), cipher, clock)


def agree_partitions(keys: Keys) -> Command[int]:
    """Store the number of partitions, unless one is stored. The answer is the stored number."""
    return run_script("agree_partitions", int, (keys("PARTITIONS"),), len(keys.all))


def read_partitions(keys: Keys) -> Command[int | None]:
    """Read the stored number of partitions; ``None``: none is stored."""
    return command(replies.integer_or_none, "GET", keys("PARTITIONS"))


def check_partitions(broker: Broker, keys: Keys, *, decide: bool = True) -> None:
    """Refuse a URL with another number of partitions than the stored one: its processes would not find the keys.

    A cluster may have lost the node that stores the number. Then the check is left out, so that the others can be used.

    Args:
        decide: whether to store the number of this URL if none is stored. A read-only user stores nothing.

    Raises:
        ConfigurationError: the numbers differ.
    """
    try:
        agreed = broker.execute(read_partitions(keys))
    except BackendUnavailableError:
        if read_url(broker.url).is_of_cluster:
            return
        raise
    if agreed is None and decide:
        with contextlib.suppress(PermissionDeniedError):
            agreed = broker.execute(agree_partitions(keys))
    refuse_other(agreed, keys, broker.url)


def refuse_other(agreed: int | None, keys: Keys, url: str) -> None:
    """Refuse a URL whose number of partitions differs from the stored one; see `check_partitions`."""
    if agreed not in (None, len(keys.all)):
        raise ConfigurationError(
            f"the keys at {safe_url(url)} are divided into {agreed} partitions, and this URL says "
            f"{len(keys.all)}: write partitions={agreed} in redis_url; the number cannot be changed later"
        )
