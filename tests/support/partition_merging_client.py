"""A client that shows the keys of all partitions as if there were one, so that tests need not know how many there are.

A key that belongs to a run or a job is looked for where the run lives. Of any other there is one in each partition:
what they hold is shown together, and a write goes to each. A key that begins with a partition's tag is that key alone.
"""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import reduce
from itertools import chain
from typing import Any

import redis

from stepflow_broker.protocol.keys import KEYS, Key, Keys
from stepflow_broker.redis_client.partitions import keys_for
from stepflow_broker.redis_client.url import read_url
from tests.support.roles import as_role

__all__ = ["WholeClient", "server_urls", "whole_client"]

_COUNTS = "stepflow:wait-counts:"
"""What stands in these are numbers of members, which are added up."""
_TAG = re.compile(r"^\{sf:\d+\}:")
_KINDS = sorted(KEYS, key=lambda kind: -len(kind.text))
_COPIED = ("stepflow:functions", "stepflow:paused")
"""Each partition has the same in these: something is there when it is in all."""


def _joined(replies: Iterable[Iterable[Any]]) -> list[Any]:
    return list(chain.from_iterable(replies))


def _united(replies: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    return reduce(lambda one, other: {**one, **other}, replies, {})


def _first(replies: Iterable[Any]) -> Any:
    return next((reply for reply in replies if reply is not None), None)


def _sum_of_texts(replies: Iterable[str | None]) -> str | None:
    numbers = [int(reply) for reply in replies if reply is not None]
    return str(sum(numbers)) if numbers else None


def _sums_of_texts(replies: Iterable[Mapping[str, str]]) -> dict[str, str]:
    counts = sum((Counter({field: int(text) for field, text in reply.items()}) for reply in replies), Counter())
    return {field: str(number) for field, number in counts.items()}


_SHOWN: dict[str, Callable[[list[Any]], Any]] = {
    **dict.fromkeys(("hlen", "llen", "scard", "xlen", "zcard", "zcount"), sum),
    **dict.fromkeys(("hdel", "hset", "lpush", "rpush", "sadd", "zadd", "zrem"), sum),
    **dict.fromkeys(("hkeys", "hvals", "lrange", "zrange", "xrange", "xpending_range"), _joined),
    **dict.fromkeys(("hget", "get", "zscore"), _first),
    "hexists": any,
    "hgetall": _united,
    "pttl": max,
    "set": all,
    "smembers": lambda replies: set(_joined(replies)),
    "ttl": max,
    "xadd": list,
    "type": lambda replies: next((reply for reply in replies if reply != "none"), "none"),
    "xpending": lambda replies: {"pending": sum(reply["pending"] for reply in replies)},
}
_SHOWN_OF_COUNTS: dict[str, Callable[[list[Any]], Any]] = {"hget": _sum_of_texts, "hgetall": _sums_of_texts}
_SHOWN_OF_COPIES: dict[str, Callable[[list[Any]], Any]] = {"hexists": all, "hlen": min}


class WholeClient:
    """Reads and writes the partitions of one deployment together.

    Args:
        client: of the server or the cluster; it decodes replies. What is not about keys is its own.
        keys: of any partition.
    """

    def __init__(self, client: Any, keys: Keys) -> None:
        self._client = client
        self._keys = keys

    def __getattr__(self, command: str) -> Any:
        show = _SHOWN.get(command)
        if show is None:
            return getattr(self._client, command)
        return lambda key, *words, **options: self._show(command, show, key, words, options)

    def _show(self, command: str, show: Callable[[list[Any]], Any], key: str, words: Any, options: Any) -> Any:
        if key in _COPIED:
            show = _SHOWN_OF_COPIES.get(command, show)
        if key.startswith(_COUNTS):
            show = _SHOWN_OF_COUNTS.get(command, show)
        found = [getattr(self._client, command)(name, *words, **options) for name in self._names(key)]
        return found[0] if len(found) == 1 else show(found)

    def exists(self, *keys: str) -> int:
        """How many keys there are."""
        return sum(self._client.exists(name) for key in keys for name in self._names(key))

    def delete(self, *keys: str) -> int:
        """Delete keys; how many there were."""
        return sum(self._client.delete(name) for key in keys for name in self._names(key))

    def pubsub_channels(self, channel: str) -> list[str]:
        """The channels of this name that somebody listens to."""
        where = {"target_nodes": "all"} if isinstance(self._client, redis.RedisCluster) else {}
        return [name for one in self._names(channel) for name in self._client.pubsub_channels(one, **where)]

    def keys(self, pattern: str) -> list[str]:
        """The names of keys, without their tags, each once."""
        return list(self.scan_iter(pattern))

    def scan_iter(self, pattern: str = "*", count: int = 1_000) -> Iterator[str]:
        """As `keys`."""
        names = {_TAG.sub("", name) for name in self._client.scan_iter(f"*{pattern}", count=count)}
        return (name for name in names if name.startswith(pattern.partition("*")[0]))

    def _names(self, key: str) -> list[str]:
        """The keys that one key stands for."""
        kind = next((kind for kind in _KINDS if key.startswith(kind.text)), None)
        if kind is None or _TAG.match(key):
            return [key]
        subject = key.removeprefix(kind.text)
        if _is_of_run(kind):
            return [self._keys.of(subject)(kind.name, subject)]
        return list(dict.fromkeys(keys(kind.name, subject) for keys in self._keys.all))


def _is_of_run(kind: Key) -> bool:
    return kind.ids.startswith("<run>")


def server_urls(url: str) -> list[str]:
    """The URL of each server that a URL names, as one of its own."""
    text = read_url(as_role(url, "admin")).text
    scheme, _, hosts = text.partition("://")
    return [f"{scheme.removesuffix('+cluster')}://{host}" for host in hosts.split(",")]


@contextlib.contextmanager
def whole_client(url: str, **options: Any) -> Iterator[Any]:
    """A client that decodes replies and has all rights: redis-py's own of a server whose keys are not divided."""
    given, keys = read_url(as_role(url, "admin")), keys_for(url)
    kind = redis.RedisCluster if given.is_of_cluster else redis.Redis
    with kind.from_url(server_urls(url)[0], decode_responses=True, **options) as found:
        yield found if len(keys.all) == 1 else WholeClient(found, keys)
