"""A server that fails: killed and restarted on its port, robbed of its last writes, out of memory, on a full disk."""

from __future__ import annotations

import contextlib
import resource
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import redis

from stepflow_broker.embedded_server import EmbeddedServer

__all__ = ["AofSizes", "FaultyServer"]

_SAMPLE_S = 0.005


class FaultyServer(EmbeddedServer):
    """An embedded server with faults. The arguments are those of `EmbeddedServer`.

    Attributes:
        kills: how many times it was killed.
    """

    kills = 0

    @property
    def pid(self) -> int:
        """Of the process that runs now."""
        assert self.process is not None, "the server does not run"
        return self.process.pid

    @property
    def aof(self) -> Path:
        """The append-only file that it writes now."""
        return max((self.folder / "appendonlydir").glob("*.incr.aof"), key=lambda path: path.stat().st_mtime_ns)

    def restart(self, *, away_s: float = 0.0) -> None:
        """Kill it, and start it again with the data that it has written, after ``away_s`` seconds."""
        self.kill()
        self.kills += 1
        time.sleep(away_s)
        self.start()

    def lose_power(self, sizes: AofSizes, lost_s: float) -> None:
        """Kill it, take back what it wrote in its last ``lost_s`` seconds, and start it again."""
        died_at = time.monotonic()
        self.kill()
        self.kills += 1
        with self.aof.open("r+b") as file:
            file.truncate(sizes.at(died_at - lost_s))
        self.start()

    def admin(self) -> redis.Redis:
        """A client of its own, for settings; to be closed by the caller."""
        return redis.Redis.from_url(self.url, decode_responses=True, socket_timeout=60)

    # -- faults that last --------------------------------------------------------

    @contextlib.contextmanager
    def out_of_memory(self) -> Iterator[None]:
        """It refuses whatever may need memory: OOM."""
        with self.admin() as admin:
            admin.config_set("maxmemory", "100kb")
            try:
                yield
            finally:
                admin.config_set("maxmemory", "0")

    @contextlib.contextmanager
    def without_replicas(self) -> Iterator[None]:
        """It wants a replica, and refuses all writes: NOREPLICAS."""
        with self.admin() as admin:
            admin.config_set("min-replicas-to-write", "1")
            try:
                yield
            finally:
                admin.config_set("min-replicas-to-write", "0")

    @contextlib.contextmanager
    def full_disk(self) -> Iterator[None]:
        """Its append-only file cannot grow: it refuses all writes (MISCONF) until it can write what it could not.

        Its process may write no file beyond the size that the append-only file has: as on a full disk, a write fails,
        or writes only a part.
        """
        before = resource.prlimit(self.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(self.pid, resource.RLIMIT_FSIZE, (self.aof.stat().st_size, before[1]))
        try:
            yield
        finally:
            resource.prlimit(self.pid, resource.RLIMIT_FSIZE, before)

    @contextlib.contextmanager
    def failing_snapshots(self) -> Iterator[None]:
        """Its snapshot failed, and it refuses all writes (MISCONF) until one succeeds: a folder stands in its place."""
        obstacle = self.folder / "dump.rdb"
        obstacle.mkdir()
        with self.admin() as admin:
            admin.config_set("save", "3600 1")
            admin.bgsave()
            _until_saved(admin, "err")
            try:
                yield
            finally:
                obstacle.rmdir()
                admin.bgsave()
                _until_saved(admin, "ok")
                admin.config_set("save", "")


class AofSizes:
    """Watches how the append-only file of a server grows, so that it can be cut back to what it was.

    Args:
        server: a running one.
    """

    def __init__(self, server: FaultyServer) -> None:
        self._server = server
        self._sizes: list[tuple[float, int]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> AofSizes:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(5)

    def _watch(self) -> None:
        path = self._server.aof
        while not self._stop.wait(_SAMPLE_S):
            self._sizes.append((time.monotonic(), path.stat().st_size))

    def at(self, moment: float) -> int:
        """The file's size at a moment of `time.monotonic`, or when the watch began."""
        assert self._sizes, "the file was not watched"
        return max((size for at, size in self._sizes if at <= moment), default=self._sizes[0][1])


def _until_saved(admin: redis.Redis, status: str) -> None:
    deadline = time.monotonic() + 10
    while (info := admin.info("persistence"))["rdb_bgsave_in_progress"] or info["rdb_last_bgsave_status"] != status:
        assert time.monotonic() < deadline, f"the snapshot did not end as {status}: {info}"
        time.sleep(0.02)
