"""Which server a command talks to."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from stepflow import Stepflow
from stepflow_broker.broker import Broker
from stepflow_broker.connection import DEFAULT_URL
from stepflow_broker.overview import ping
from stepflow_engine.errors import ConfigurationError, ServerError

__all__ = ["DEV_FOLDER", "announce_url", "find_url", "url_of_apps", "withdraw_url"]

DEV_FOLDER = Path(".stepflow")
"""Where ``stepflow dev`` keeps its server's data, in the folder that it is started from."""

_URL_FILE = DEV_FOLDER / "url"


def find_url(given: str | None) -> str:
    """The server of a command: the URL given, else that of ``stepflow dev`` in this folder, else the default.

    Args:
        given: from ``--redis-url``, or else from ``STEPFLOW_REDIS_URL``.
    """
    return given or _dev_url() or DEFAULT_URL


def url_of_apps(given: str | None, apps: Sequence[Stepflow]) -> str:
    """The server of a worker: the URL given, else the one that its apps name.

    Raises:
        ConfigurationError: no URL is given and the apps name different ones.
    """
    urls = {app.producer.url for app in apps}
    if given:
        return given
    if len(urls) > 1:
        names = ", ".join(app.id for app in apps)
        raise ConfigurationError(f"apps {names} name different servers: start a worker for each, or give --redis-url")
    return urls.pop()


def announce_url(url: str) -> None:
    """Let the commands that are started in this folder find the server."""
    DEV_FOLDER.mkdir(exist_ok=True)
    _URL_FILE.write_text(url + "\n")


def withdraw_url() -> None:
    """The server that was announced is gone."""
    _URL_FILE.unlink(missing_ok=True)


def _dev_url() -> str | None:
    """The announced server, if it answers: a file that a crash left behind leads nowhere."""
    with contextlib.suppress(OSError, ConfigurationError, ServerError):
        url = _URL_FILE.read_text().strip()
        broker = Broker(url, patience_s=0)
        try:
            broker.run(ping())
        finally:
            broker.close()
        return url
    return None
