"""Which server a command talks to."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from stepflow import Stepflow
from stepflow_broker.protocol.keys import Keys
from stepflow_broker.redis_client.broker import Broker
from stepflow_broker.redis_client.connection import DEFAULT_URL
from stepflow_broker.redis_client.partitions import check_partitions, keys_for
from stepflow_broker.views.listings import server_process
from stepflow_engine.errors import BackendUnavailableError, ConfigurationError

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

DEV_FOLDER = Path(".stepflow")
"""Where ``stepflow dev`` keeps its server's data, in the folder that it is started from."""

_APP = "stepflow"
"""The id of the app that the command line is."""
_URL_FILE = DEV_FOLDER / "url"


def find_url(given: str | None) -> str:
    """The server of a command: the URL given, else that of ``stepflow dev`` in this folder, else the default.

    Args:
        given: from ``--redis-url``, or else from ``STEPFLOW_REDIS_URL``.
    """
    return given or _announced()[0] or DEFAULT_URL


def find_server(given: str | None) -> tuple[Broker, Keys]:
    """The server of a command, and its keys; see `find_url`.

    Raises:
        ConfigurationError: the keys there are divided otherwise than the URL says: nothing would be found.
    """
    broker = Broker(find_url(given))
    keys = keys_for(broker.url)
    check_partitions(broker, keys, decide=False)
    return broker, keys


def find_app(given: str | None) -> Stepflow:
    """An app without functions on the server of a command.

    Raises:
        ConfigurationError: as `find_server`.
    """
    app = Stepflow(_APP, redis_url=find_url(given))
    check_partitions(app.backend.broker, app.backend.keys, decide=False)
    return app


def url_of_apps(given: str | None, apps: Sequence[Stepflow]) -> str:
    """The server of a worker: the URL given, else the one that its apps name.

    Raises:
        ConfigurationError: no URL is given and the apps name different ones.
    """
    urls = {app.backend.url for app in apps}
    if given:
        return given
    if len(urls) > 1:
        names = ", ".join(app.id for app in apps)
        raise ConfigurationError(f"apps {names} name different servers: start a worker for each, or give --redis-url")
    return urls.pop()


def check_folder() -> None:
    """Refuse to start a second server on the data of one that runs, be it that its ``stepflow dev`` was killed.

    Raises:
        ConfigurationError: there is one; the message says how to end it.
    """
    url, process = _announced()
    if url:
        raise ConfigurationError(
            f"a server of 'stepflow dev' runs in this folder already, at {url}: end that command first, "
            f"or, if it was killed, its server with: kill {process}"
        )


def announce_url(url: str) -> None:
    """Let the commands that are started in this folder find the server."""
    DEV_FOLDER.mkdir(exist_ok=True)
    _URL_FILE.write_text(url + "\n")


def withdraw_url() -> None:
    """The server that was announced is gone."""
    _URL_FILE.unlink(missing_ok=True)


def _announced() -> tuple[str, int]:
    """The announced server and its process, if it answers: a file that a crash left behind may lead nowhere."""
    with contextlib.suppress(OSError, ConfigurationError, BackendUnavailableError):
        url = _URL_FILE.read_text().strip()
        broker = Broker(url, retry_for_s=0)
        try:
            return url, broker.execute(server_process())
        finally:
            broker.close()
    return "", 0
