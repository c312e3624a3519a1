"""Which server a command connects to, and the files of ``stepflow dev``."""

from __future__ import annotations

import contextlib
import fcntl
import getpass
import os
import signal
import socket
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from stepflow import Stepflow
from stepflow_broker.protocol.partition import Partition
from stepflow_broker.redis_client.broker import Broker
from stepflow_broker.redis_client.connection import DEFAULT_URL
from stepflow_broker.redis_client.partitions import check_partitions, partition_for
from stepflow_broker.registry.functions import registry_version
from stepflow_broker.views.listings import server_process
from stepflow_cli.formatting import echo
from stepflow_engine.cipher import Cipher
from stepflow_engine.errors import BackendUnavailableError, ConfigurationError
from stepflow_engine.product import NAME

__all__ = [
    "DEV_FOLDER",
    "actor",
    "announce_url",
    "find_app",
    "find_partitions",
    "find_server",
    "find_url",
    "last_port",
    "lock_folder",
    "server_note",
    "url_of_apps",
    "withdraw_url",
]

DEV_FOLDER = Path(f".{NAME}")
"""The data folder of the server of ``stepflow dev``, in the current folder."""

_URL_FILE = DEV_FOLDER / "url"
_PORT_FILE = DEV_FOLDER / "port"
_STOP_S = 20.0
_POLL_S = 0.02


def find_url(redis_url: str | None) -> str:
    """The URL for a command: the option, else the server of ``stepflow dev`` in this folder, else the default.

    Args:
        redis_url: the value of ``--redis-url`` or ``STEPFLOW_REDIS_URL``.
    """
    return redis_url or _announced()[0] or DEFAULT_URL


def server_note() -> str:
    """The note on an unavailable server: which other server ``stepflow dev`` runs in this folder; ``""`` if none."""
    if not DEV_FOLDER.exists():
        return ""
    url = _announced()[0]
    if url:
        return f"; the server of '{NAME} dev' in this folder is at {url} ({_URL_FILE})"
    return f"; '{NAME} dev' does not run in this folder"


def find_server(redis_url: str | None, cipher: Cipher) -> tuple[Broker, Partition]:
    """The broker and the first partition for a command; see `find_url`.

    Args:
        redis_url: as for `find_url`.
        cipher: opens what the command shows; `NO_ENCRYPTION`: it shows no payloads.

    Raises:
        ConfigurationError: the server has another number of partitions than the URL says.
    """
    broker = Broker(find_url(redis_url))
    partition = partition_for(broker.url, cipher)
    check_partitions(broker, partition.keys, decide=False)
    return broker, partition


def find_partitions(redis_url: str | None, cipher: Cipher) -> tuple[Broker, Partition]:
    """As `find_server`, for a command that shows what it finds in all partitions.

    On a cluster that has lost nodes, the partition leaves their partitions out of `Partition.all`, and a line on
    standard error says so.

    Raises:
        ConfigurationError: as `find_server`.
        BackendUnavailableError: no node answers.
    """
    broker, partition = find_server(redis_url, cipher)
    if len(partition.all) == 1:
        return broker, partition
    answers = broker.execute_each([registry_version(one.keys) for one in partition.all])
    lost = [one for one, answer in zip(partition.all, answers, strict=True) if isinstance(answer, Exception)]
    if not lost:
        return broker, partition
    echo(f"note: {len(lost)} of {len(partition.all)} partitions do not answer, and are left out", err=True)
    return broker, partition.without(lost)


def actor() -> str:
    """Who calls the command, for the audit log: ``user@host``."""
    user = "unknown"
    with contextlib.suppress(OSError, KeyError):  # the process may run as a user without a name
        user = getpass.getuser()
    return f"{user}@{socket.gethostname()}"


def find_app(redis_url: str | None) -> Stepflow:
    """An app without functions, for a command that uses the SDK.

    Raises:
        ConfigurationError: as `find_server`.
    """
    app = Stepflow(NAME, redis_url=find_url(redis_url))
    app.backend.actor = actor()
    check_partitions(app.backend.broker, app.backend.partition.keys, decide=False)
    return app


def url_of_apps(redis_url: str | None, apps: Sequence[Stepflow]) -> str:
    """The URL for a worker: the option, else the URL that its apps have.

    Raises:
        ConfigurationError: there is no option, and the apps have different URLs.
    """
    urls = {app.backend.url for app in apps}
    if redis_url:
        return redis_url
    if len(urls) > 1:
        names = ", ".join(app.id for app in apps)
        raise ConfigurationError(f"apps {names} must have the same server: start a worker for each, or use --redis-url")
    return urls.pop()


@contextlib.contextmanager
def lock_folder() -> Iterator[None]:
    """The data folder, which this process alone uses until the context ends. No other user can read it.

    A server that a killed ``stepflow dev`` has left in it is stopped.

    Raises:
        ConfigurationError: another ``stepflow dev`` uses it.
    """
    DEV_FOLDER.mkdir(mode=0o700, exist_ok=True)
    DEV_FOLDER.chmod(0o700)  # its files have the data of all runs
    with (DEV_FOLDER / "dev.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            url = _announced()[0]
            where = f", with a server at {url}" if url else ""
            raise ConfigurationError(
                f"folder {DEV_FOLDER}: another '{NAME} dev' uses it{where}: stop that command, or use another folder"
            ) from None
        url, process = _announced()
        if url:
            _stop_process(process)
        yield


def _stop_process(process: int) -> None:
    """Stop a server of this machine, and wait until it has written its data."""
    deadline = time.monotonic() + _STOP_S
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, signal.SIGTERM)
        while time.monotonic() < deadline:
            os.kill(process, 0)
            time.sleep(_POLL_S)
        os.kill(process, signal.SIGKILL)


def last_port() -> int:
    """The port of the last server in the data folder, so that programs find the next one too; 0 if it is not free."""
    with contextlib.suppress(OSError, ValueError):
        port = int(_PORT_FILE.read_text())
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
        return port
    return 0


def announce_url(url: str, port: int) -> None:
    """Write the URL to a file, so that commands in this folder use the server, and its port for the next start."""
    _URL_FILE.write_text(url + "\n")
    _PORT_FILE.write_text(f"{port}\n")


def withdraw_url() -> None:
    """Remove the file with the URL."""
    _URL_FILE.unlink(missing_ok=True)


def _announced() -> tuple[str, int]:
    """URL and process id of the announced server; empty if it does not answer, as after a crash."""
    with contextlib.suppress(OSError, ConfigurationError, BackendUnavailableError):
        url = _URL_FILE.read_text().strip()
        broker = Broker(url, retry_for_s=0)
        try:
            return url, broker.execute(server_process())
        finally:
            broker.close()
    return "", 0
