"""A primary, its replicas and the sentinels that watch them, as local processes, and fail-overs of them."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import redis

from stepflow_broker.embedded_server import EmbeddedServer, find_server
from tests.support.processes import until

__all__ = ["PASSWORD", "PRIMARY", "SENTINEL_PASSWORD", "SentinelSet"]

PRIMARY = "mymaster"
PASSWORD = "server-secret"
SENTINEL_PASSWORD = "sentinel-secret"
DOWN_AFTER_MS = 1_000
_CONFIG = f"""
port 0
bind 127.0.0.1
requirepass {SENTINEL_PASSWORD}
sentinel monitor {PRIMARY} 127.0.0.1 {{port}} 2
sentinel auth-pass {PRIMARY} {PASSWORD}
sentinel down-after-milliseconds {PRIMARY} {DOWN_AFTER_MS}
sentinel failover-timeout {PRIMARY} 4000
sentinel parallel-syncs {PRIMARY} 2
"""


class _Server(EmbeddedServer):
    """One of the servers, by turns primary and replica."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, requirepass=PASSWORD, masterauth=PASSWORD, repl_diskless_sync_delay="0")

    def admin(self) -> redis.Redis:
        return redis.Redis(port=self.port, password=PASSWORD, decode_responses=True, socket_timeout=10)

    def send(self, number: signal.Signals) -> None:
        assert self.process is not None, "the server does not run"
        self.process.send_signal(number)


class _Sentinel:
    """One sentinel, with its configuration in a folder of its own."""

    def __init__(self, folder: Path, primary_port: int, port: int) -> None:
        folder.mkdir(parents=True)
        self.port = port
        config = folder / "sentinel.conf"
        config.write_text(_CONFIG.format(port=primary_port).replace("port 0", f"port {port}", 1) + f"dir {folder}\n")
        with (folder / "sentinel.log").open("wb") as log:
            words = [str(find_server()), str(config), "--sentinel"]
            self.process = subprocess.Popen(words, stdout=log, stderr=log, start_new_session=True)

    def client(self) -> redis.Redis:
        return redis.Redis(port=self.port, password=SENTINEL_PASSWORD, decode_responses=True, socket_timeout=2)

    def answers(self) -> bool:
        """Whether it has started."""
        with contextlib.suppress(redis.ConnectionError), self.client() as client:
            return bool(client.ping())
        return False

    def hurry(self) -> None:
        """Have it look for replicas, and tell others of itself, more often than each ten and two seconds."""
        with contextlib.suppress(redis.ResponseError), self.client() as client:  # Redis 6 cannot
            client.execute_command("SENTINEL", "DEBUG", "INFO-PERIOD", 2000, "PUBLISH-PERIOD", 1000)

    def knows_all(self) -> bool:
        """Whether it knows the other sentinels and two replicas, which follow the primary."""
        with contextlib.suppress(redis.RedisError), self.client() as client:
            primary = client.sentinel_master(PRIMARY)
            replicas = client.sentinel_slaves(PRIMARY)
            following = [one for one in replicas if one["master-link-status"] == "ok" and not one["is_disconnected"]]
            return primary["num-other-sentinels"] == 2 and len(following) == 2 and not primary["is_sdown"]
        return False

    def address(self) -> int:
        """The port of the primary, as it tells it."""
        with self.client() as client:
            return int(client.sentinel_get_master_addr_by_name(PRIMARY)[1])


class SentinelSet:
    """Three servers and three sentinels.

    Attributes:
        servers: those that run are one primary and its replicas.
        failovers: how many there were.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.servers = [_Server(folder / f"server-{n}") for n in range(3)]
        self.sentinels: list[_Sentinel] = []
        self.failovers = 0

    @property
    def url(self) -> str:
        """Of the primary, whichever it is."""
        return self.url_with(*[sentinel.port for sentinel in self.sentinels])

    def url_with(self, *ports: int) -> str:
        """Of the primary, with the sentinels at these ports."""
        hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
        return f"redis+sentinel://:{PASSWORD}@{hosts}/{PRIMARY}/0?sentinel_password={SENTINEL_PASSWORD}"

    @property
    def primary(self) -> _Server:
        """The server that the sentinels call the primary."""
        port = self.sentinels[0].address()
        return next(server for server in self.servers if server.port == port)

    def __enter__(self) -> SentinelSet:
        first, *others = [server.start() for server in self.servers]
        for server in others:
            with server.admin() as admin:
                admin.replicaof("127.0.0.1", str(first.port))
        with first.admin() as admin:
            until(lambda: admin.wait(2, 100) == 2, what="the replicas")
        for n in range(3):
            self.sentinels.append(_Sentinel(self._folder / f"sentinel-{n}", first.port, _unused_port()))
        until(lambda: all(one.answers() for one in self.sentinels), what="the sentinels")
        for sentinel in self.sentinels:
            sentinel.hurry()
        self.await_agreement()
        return self

    def __exit__(self, *_: object) -> None:
        for sentinel in self.sentinels:
            sentinel.process.kill()
            sentinel.process.wait()
        for server in self.servers:
            server.stop()

    @contextlib.contextmanager
    def stray_sentinel(self) -> Iterator[tuple[int, redis.Redis]]:
        """A sentinel of another installation, whose primary has the same name: its port, a client of its primary."""
        server = _Server(self._folder / "stray-server").start()
        stray = _Sentinel(self._folder / "stray-sentinel", server.port, _unused_port())
        try:
            until(stray.answers, what="the stray sentinel")
            with server.admin() as admin:
                yield stray.port, admin
        finally:
            stray.process.kill()
            stray.process.wait()
            server.stop()

    def await_agreement(self) -> None:
        """Wait until all sentinels see the same primary, two replicas of it, and one another."""
        until(lambda: all(one.knows_all() for one in self.sentinels), seconds=60, what="the sentinels' agreement")
        until(lambda: len({one.address() for one in self.sentinels}) == 1, what="one primary for all sentinels")

    # -- faults ------------------------------------------------------------------

    def kill_primary(self, *, alone_s: float = 0.0) -> float:
        """Kill the primary, as a crash would; when, in seconds of `time.monotonic`.

        Args:
            alone_s: how long it goes on before that while no replica can follow it.
        """
        primary = self.primary
        with self._cut_off(primary) if alone_s else contextlib.nullcontext():
            time.sleep(alone_s)
            killed_at = time.monotonic()
            primary.kill()
        return killed_at

    def await_failover(self) -> None:
        """Wait until the sentinels name another primary than the one that was killed."""
        dead = {server.port for server in self.servers if server.process is None}
        assert dead, "no server was killed"
        until(lambda: all(one.address() not in dead for one in self.sentinels), seconds=60, what="the fail-over")
        self.failovers += 1

    def bring_back(self) -> None:
        """Start the servers that were killed; the sentinels make replicas of them."""
        for server in self.servers:
            if server.process is None:
                server.start()
        self.await_agreement()

    @contextlib.contextmanager
    def _cut_off(self, primary: _Server) -> Iterator[None]:
        """The replicas get nothing of what the primary writes."""
        replicas = [server for server in self.servers if server is not primary and server.process is not None]
        for replica in replicas:
            replica.send(signal.SIGSTOP)
        try:
            with primary.admin() as admin:
                admin.execute_command("CLIENT", "KILL", "TYPE", "replica")
            yield
        finally:
            for replica in replicas:
                replica.send(signal.SIGCONT)


def _unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
