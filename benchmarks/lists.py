"""Lists: what a page of 50 costs the server among very many runs, and what the indexes take of its memory.

``python -m benchmarks.lists --runs 1000000`` fills a server of its own with ended runs of ten functions. One in a
hundred has failed, and two in a hundred have a tag.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import redis

from stepflow.client.find import run_query
from stepflow_broker.embedded_server import EmbeddedServer
from stepflow_broker.protocol.command import in_chunks
from stepflow_broker.protocol.partition import Partition
from stepflow_broker.redis_client.broker import Broker
from stepflow_broker.redis_client.operation import Operation
from stepflow_broker.redis_client.partitions import partition_for
from stepflow_broker.transitions.runs.run_index import RunQuery
from stepflow_broker.views.find_runs import RunPage, find_page
from stepflow_engine.cipher import NO_ENCRYPTION

__all__ = ["main"]

_FUNCTIONS = 10
_PAGE = 50
_PAGES = 200
_PASSES = 3
_SEEDED = 1_000
_BEGAN_MS = 1_764_000_000_000
_SEED = """
local run_key, index, expiry, names = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
redis.call('SADD', KEYS[5], 'tenant')
for n = tonumber(ARGV[1]), tonumber(ARGV[2]) - 1 do
  local run, name = string.sub(redis.sha1hex(n), 1, 32), 'f' .. (n % 10)
  local at, failed, tagged = tonumber(ARGV[3]) + math.floor(n / 20), n % 100 == 7, n % 50 == 7
  local status = failed and 'failed' or 'completed'
  redis.call('HSET', run_key .. run, 'app', 'shop', 'function', name, 'queue', 'shop', 'event', ARGV[4], 'attempt', 0,
    'created_at', at, 'status', status, 'dedupe_ms', 0, 'started_at', at, 'fence', at, 'ended_at', at + 5,
    failed and 'error' or 'output', '{"name":"ValueError","message":"no"}')
  if tagged then redis.call('HSET', run_key .. run, 'indexed', '12 tag tenant=1') end
  redis.call('PEXPIRE', run_key .. run, 604800000)
  redis.call('ZADD', index .. 'function shop/' .. name, at, run)
  redis.call('ZADD', index .. 'ended shop/' .. name, at + 5, run)
  if failed then redis.call('ZADD', index .. 'failed shop/' .. name, at + 5, run) end
  if tagged then redis.call('ZADD', index .. 'tag tenant=1', at, run) end
  redis.call('ZADD', expiry, at + 604800000, run .. ' 7 shop/' .. name)
  redis.call('SADD', names, 'shop/' .. name)
end
"""


def main() -> None:
    """Fill a server, read pages of several lists, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=100_000, help="how many runs the server has")
    count = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as folder, EmbeddedServer(Path(folder), fsync="no") as server:
        client = redis.Redis.from_url(server.url)
        partition = partition_for(server.url, NO_ENCRYPTION)
        _seed(client, partition, count)
        _print_memory(client, partition, count)
        print(f"\n{count:,} runs, {_PAGES} pages of {_PAGE}: milliseconds at the server, and round trips\n")
        print(f"{'list':<34} {'p50':>7} {'p95':>7} {'max':>7} {'trips':>6}")
        broker = Broker(server.url)
        for name, wanted in _lists(count):
            print(f"{name:<34} " + _measure(client, broker, partition, wanted))
        broker.close()


def _seed(client: redis.Redis, partition: Partition, count: int) -> None:
    event = '{"name":"shop/order","id":"0","ts":1764000000000,"data":{"order":17,"items":["a","b","c"],"total":40}}'
    keys = [partition.keys(kind) for kind in ("RUN", "INDEX", "EXPIRY", "RUN_FUNCTIONS", "TAG_NAMES")]
    began = time.monotonic()
    for part in in_chunks(range(count), _SEEDED):
        client.eval(_SEED, len(keys), *keys, part[0], part[-1] + 1, _BEGAN_MS, event)
    print(f"filled in {time.monotonic() - began:.0f} s")


def _print_memory(client: redis.Redis, partition: Partition, count: int) -> None:
    print(f"\n{'index':<26} {'bytes a run':>12}")
    for kind, subject in (
        ("INDEX", "function shop/f0"),
        ("INDEX", "ended shop/f0"),
        ("INDEX", "failed shop/f7"),
        ("INDEX", "tag tenant=1"),
        ("EXPIRY", ""),
    ):
        key = partition.keys(kind, subject)
        size = int(client.memory_usage(key, samples=0) or 0)
        print(f"{subject or 'expiry':<26} {size / int(client.zcard(key)):>12.0f}")
    print(f"{'whole server':<26} {int(client.info('memory')['used_memory']) / count:>12.0f}")


def _lists(count: int) -> Iterator[tuple[str, RunQuery]]:
    middle = _BEGAN_MS + count // 40
    yield "newest of all functions", run_query("")
    yield "newest of the app", run_query("shop")
    yield "of a function", run_query("", ("shop/f0",))
    yield "failed", run_query("", status="failed")
    yield "failed of a function", run_query("", ("shop/f7",), status="failed")
    yield "completed", run_query("", status="completed")
    yield "ended of a function", run_query("", ("shop/f0",), status=["completed", "failed"])
    yield "with a tag", run_query("", tags={"tenant": 1})
    yield "before a time", RunQuery(until_ms=middle)
    yield "failed among those of a tag", run_query("", tags={"tenant": 1}, status="failed")


def _measure(client: redis.Redis, broker: Broker, partition: Partition, wanted: RunQuery) -> str:
    """The time of the commands of each page by the server's own log, without the network.

    The pages are read several times, and the median of each page counts: the log has the time by the clock, with that
    in which other programs had the processor.
    """
    client.config_set("slowlog-log-slower-than", 0)
    client.config_set("slowlog-max-len", 10_000)
    passes, trips = list[list[float]](), 0
    for _ in range(_PASSES):
        times, cursor = list[float](), ""
        for _ in range(_PAGES):
            client.slowlog_reset()
            page, pages = _run(broker, find_page(partition, wanted, cursor=cursor, limit=_PAGE))
            entries = client.slowlog_get(10_000)
            times.append(sum(entry["duration"] for entry in entries if b"SLOWLOG" not in entry["command"]) / 1000)
            trips, cursor = max(trips, pages), page.next_cursor
        passes.append(times)
    medians = [statistics.median(times) for times in zip(*passes, strict=True)]
    p95 = statistics.quantiles(medians, n=20)[-1]
    return f"{statistics.median(medians):>7.2f} {p95:>7.2f} {max(medians):>7.2f} {trips:>6}"


def _run(broker: Broker, operation: Operation[RunPage]) -> tuple[RunPage, int]:
    """The result of an operation, and the number of its round trips."""
    trips = 0
    try:
        calls = next(operation)
        while True:
            trips += 1
            calls = operation.send(broker.execute_all(calls))
    except StopIteration as end:
        return end.value, trips


if __name__ == "__main__":
    main()
