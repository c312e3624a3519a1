"""Snapshots: all that a server holds, as a value that can be compared, looked at, and put back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import redis

from stepflow_broker.protocol.command import Command, command
from stepflow_broker.protocol.keys import GROUP, Keys
from stepflow_broker.protocol.scripts import script, script_names
from stepflow_broker.redis_client.broker import Broker

__all__ = ["Snapshot", "SnapshotServer", "Value", "look"]

T = TypeVar("T")
_KEPT_MS = 3_600_000
_TAKE = """
local read = {
  string = function(key) return redis.call('GET', key) end,
  hash = function(key) return redis.call('HGETALL', key) end,
  list = function(key) return redis.call('LRANGE', key, 0, -1) end,
  set = function(key) return redis.call('SMEMBERS', key) end,
  zset = function(key) return redis.call('ZRANGE', key, 0, -1, 'WITHSCORES') end,
  stream = function(key)
    return {redis.call('XRANGE', key, '-', '+'), redis.call('XPENDING', key, ARGV[1], '-', '+', 1000)}
  end,
}
local all = {}
for n, key in ipairs(redis.call('KEYS', '*')) do
  local type = redis.call('TYPE', key).ok
  all[n] = {key, type, redis.call('PTTL', key), redis.call('DUMP', key), read[type](key)}
end
return all
"""


@dataclass(frozen=True, slots=True, eq=False)
class Value:
    """What one key holds.

    Attributes:
        type: the Redis type.
        expires: whether it has a time to live.
        dump: its serialised form.
        content: a text, a list (list, set), a dict (hash, zset) or, of a stream, (entries, ids that are pending).
    """

    type: str
    expires: bool
    dump: bytes
    content: Any


class Snapshot(dict[str, Value]):
    """A server's keys, and the readings of a client that decodes replies."""

    def changed_from(self, other: Mapping[str, Value]) -> set[str]:
        """The keys that differ."""
        return {name for name in self.keys() | other.keys() if self.get(name) is not other.get(name)}

    def content(self, name: str, empty: Any) -> Any:
        """What a key holds, or ``empty``."""
        value = self.get(name)
        return empty if value is None else value.content

    def hgetall(self, name: str) -> dict[str, str]:
        return dict(self.content(name, {}))

    def hget(self, name: str, field: str) -> str | None:
        return self.hgetall(name).get(field)

    def hkeys(self, name: str) -> list[str]:
        return list(self.content(name, {}))

    def lrange(self, name: str, _first: int, _last: int) -> list[str]:
        return list(self.content(name, []))

    def smembers(self, name: str) -> set[str]:
        return set(self.content(name, []))

    def zrange(self, name: str, _first: int, _last: int, *, withscores: bool = False) -> list[Any]:
        return list(self.content(name, {}).items() if withscores else self.content(name, {}))

    def zscore(self, name: str, member: str) -> float | None:
        return self.content(name, {}).get(member)  # type: ignore[no-any-return]

    def xrange(self, name: str, least: str, most: str) -> list[tuple[str, dict[str, str]]]:
        entries, _ = self.content(name, ([], []))
        return [entry for entry in entries if least == "-" or entry[0] in (least, most)]

    def exists(self, name: str) -> bool:
        return name in self

    def pttl(self, name: str) -> int:
        return -2 if name not in self else _KEPT_MS if self[name].expires else -1

    def scan_iter(self, pattern: str, *, count: int) -> Iterator[str]:
        del count
        return (name for name in self if name.startswith(pattern.removesuffix("*")))


_READS: dict[str, Callable[[Any, str], object]] = {
    "hash": lambda pipeline, name: pipeline.hgetall(name),
    "list": lambda pipeline, name: pipeline.lrange(name, 0, -1),
    "set": lambda pipeline, name: pipeline.smembers(name),
    "zset": lambda pipeline, name: pipeline.zrange(name, 0, -1, withscores=True),
    "stream": lambda pipeline, name: pipeline.xrange(name),
}


def look(client: redis.Redis) -> Snapshot:
    """What a server holds, in three round trips; texts and serialised forms are left out."""
    names = client.keys()
    with client.pipeline(transaction=False) as pipeline:
        for name in names:
            pipeline.type(name).pttl(name)
        about = pipeline.execute()
        kinds, ttls = about[::2], about[1::2]
        for name, kind in zip(names, kinds, strict=True):
            _READS.get(kind, _exists)(pipeline, name)
        contents = pipeline.execute()
    return Snapshot(
        (name, Value(kind, ttl >= 0, b"", _decoded(kind, content)))
        for name, kind, ttl, content in zip(names, kinds, ttls, contents, strict=True)
        if kind != "none"  # it has expired in between
    )


def _exists(pipeline: Any, name: str) -> object:
    return pipeline.exists(name)


def _decoded(kind: str, content: Any) -> Any:
    match kind:
        case "stream":
            return content, []
        case "zset":
            return dict(content)
        case _:
            return content


class SnapshotServer:
    """A server that can be put into any state that it was in. It must be this object's alone.

    Args:
        url: the server's.
    """

    def __init__(self, url: str) -> None:
        self._broker = Broker(url)
        self._values: dict[tuple[bytes, bytes, bool], Value] = {}
        self._equal: dict[tuple[bytes, bool, str], Value] = {}
        self._now = Snapshot()
        client = self._broker.client(Keys())
        client.flushdb()
        take = str(client.script_load(_TAKE))
        for name in script_names():
            client.script_load(script(name).text)  # so that no call is sent a second time after those behind it
        self._take: Command[Snapshot] = command(self._read, "EVALSHA", take, 0, GROUP)

    def send(self, state: Snapshot, *calls: Command[Any]) -> tuple[list[Any], Snapshot]:
        """Put the server into a state and send calls: their answers, and the state after them."""
        back = [self._put_back(name, state.get(name)) for name in state.changed_from(self._now)]
        *answers, after = self._broker.execute_all([*back, *calls, self._take])
        self._now = after
        return answers[len(back) :], after

    def close(self) -> None:
        self._broker.close()

    @staticmethod
    def _put_back(name: str, value: Value | None) -> Command[Any]:
        if value is None:
            return command(int, "DEL", name)
        return command(bytes, "RESTORE", name, _KEPT_MS if value.expires else 0, value.dump, "REPLACE")

    def _read(self, reply: list[Any]) -> Snapshot:
        return Snapshot((key.decode(), self._value(key, *rest)) for key, *rest in reply)

    def _value(self, key: bytes, kind: bytes, ttl_ms: int, dump: bytes, content: Any) -> Value:
        """One object for all that is equal; a hash or a set has many serialised forms."""
        found = self._values.get((key, dump, ttl_ms > 0))
        if found is None:
            made = Value(kind.decode(), ttl_ms > 0, dump, _content(kind.decode(), content))
            found = self._equal.setdefault((key, made.expires, _text(made.content)), made)
            self._values[key, dump, made.expires] = found
        return found


def _content(kind: str, raw: Any) -> Any:
    match kind:
        case "hash":
            return _pairs(raw)
        case "zset":
            return {member: float(score) for member, score in _pairs(raw).items()}
        case "stream":
            entries, pending = raw
            return [(id.decode(), _pairs(fields)) for id, fields in entries], [entry[0].decode() for entry in pending]
        case "set":
            return sorted(member.decode() for member in raw)
        case "list":
            return [member.decode() for member in raw]
        case _:
            return raw.decode()


def _text(content: Any) -> str:
    """The same text for equal contents."""
    return repr(sorted(content.items()) if isinstance(content, dict) else content)


def _pairs(flat: list[bytes]) -> dict[str, str]:
    return {key.decode(): value.decode() for key, value in zip(flat[::2], flat[1::2], strict=True)}
