"""Partitions: into how many parts the keys are divided, which all processes have to agree on.

Each is a world of its own, with its queues, timers, streams and registry, so that no script ever needs the keys of two.
A run's id says in which it lives.
"""

from __future__ import annotations

import contextlib

from stepflow_broker.protocol import replies
from stepflow_broker.protocol.command import Command, command, run_script
from stepflow_broker.protocol.keys import Keys
from stepflow_broker.redis_client.broker import Broker
from stepflow_broker.redis_client.url import read_url, safe_url
from stepflow_engine.errors import ConfigurationError, PermissionDeniedError

__all__ = ["agree_partitions", "check_partitions", "keys_for", "read_partitions", "refuse_other"]


def keys_for(url: str) -> Keys:
    """The keys of a server, those of its first partition; `Keys.of` and `Keys.at` find the others.

    Raises:
        ConfigurationError: the URL cannot be one of a server.
    """
    return Keys.over(read_url(url).partitions)


def agree_partitions(keys: Keys) -> Command[int]:
    """The number of partitions that the server's keys have; the first to ask decides."""
    return run_script("agree_partitions", int, (keys("PARTITIONS"),), len(keys.all))


def read_partitions(keys: Keys) -> Command[int | None]:
    """The same, if it was decided; it changes nothing."""
    return command(replies.integer_or_none, "GET", keys("PARTITIONS"))


def check_partitions(broker: Broker, keys: Keys, *, decide: bool = True) -> None:
    """Refuse a URL that divides the keys otherwise than those that are there: its processes would not find them.

    Args:
        decide: if nothing was decided yet, this URL does, unless its user may only look.

    Raises:
        ConfigurationError: it does.
    """
    agreed = broker.execute(read_partitions(keys))
    if agreed is None and decide:
        with contextlib.suppress(PermissionDeniedError):
            agreed = broker.execute(agree_partitions(keys))
    refuse_other(agreed, keys, broker.url)


def refuse_other(agreed: int | None, keys: Keys, url: str) -> None:
    """Refuse a URL whose number is not the one that was decided, if one was; see `check_partitions`."""
    if agreed not in (None, len(keys.all)):
        raise ConfigurationError(
            f"the keys at {safe_url(url)} are divided into {agreed} partitions, and this URL says "
            f"{len(keys.all)}: write partitions={agreed} in redis_url; the number cannot be changed later"
        )
