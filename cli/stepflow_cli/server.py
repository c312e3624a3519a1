"""Which server a command connects to, and the files of ``stepflow dev``."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from stepflow import Stepflow
from stepflow_broker.protocol.partition import Partition
from stepflow_broker.redis_client.broker import Broker
from stepflow_broker.redis_client.connection import DEFAULT_URL
from stepflow_broker.redis_client.partitions import check_partitions, partition_for
from stepflow_broker.views.listings import server_process
from stepflow_engine.cipher import Cipher
from stepflow_engine.errors import BackendUnavailableError, ConfigurationError
from stepflow_engine.product import NAME

__all__ = [
    "DEV_FOLDER",
    "announce_url",
    "check_folder",
    "find_app",
    "find_server",
    "find_url",
    "url_of_apps",
    "withdraw_url",
]

DEV_FOLDER = Path(f".{NAME}")
"""The data folder of the server of ``stepflow dev``, in the current folder."""

_URL_FILE = DEV_FOLDER / "url"


def find_url(redis_url: str | None) -> str:
    """The URL for a command: the option, else the server of ``stepflow dev`` in this folder, else the default.

    Args:
        redis_url: the value of ``--redis-url`` or ``STEPFLOW_REDIS_URL``.
    """
    return redis_url or _announced()[0] or DEFAULT_URL


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


def find_app(redis_url: str | None) -> Stepflow:
    """An app without functions, for a command that uses the SDK.

    Raises:
        ConfigurationError: as `find_server`.
    """
    app = Stepflow(NAME, redis_url=find_url(redis_url))
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


def check_folder() -> None:
    """Check that no other server uses the data folder; a killed ``stepflow dev`` may have left one.

    Raises:
        ConfigurationError: there is one. The message says how to stop it.
    """
    url, process = _announced()
    if url:
        raise ConfigurationError(
            f"folder {DEV_FOLDER}: a server of '{NAME} dev' already uses it, at {url}: stop that command, "
            f"or, if it was killed, stop its server with: kill {process}"
        )


def announce_url(url: str) -> None:
    """Write the URL to a file, so that commands in this folder use the server."""
    DEV_FOLDER.mkdir(exist_ok=True)
    _URL_FILE.write_text(url + "\n")


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
