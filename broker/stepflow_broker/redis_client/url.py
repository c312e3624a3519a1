"""URLs of servers: parsing, validation, and display without secrets.

In addition to the options of redis-py, a URL may name files with secrets. ``password_file=`` is read for each new
connection, so a changed password is used without a restart. ``ssl_password_file=`` is read once.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlencode, urlsplit

from redis.credentials import CredentialProvider
from redis.exceptions import AuthenticationError

from stepflow_engine.errors import ConfigurationError
from stepflow_engine.product import REDIS_URL

__all__ = [
    "CLUSTER_SCHEMES",
    "DEFAULT_URL",
    "SENTINEL_SCHEMES",
    "FilePassword",
    "ServerUrl",
    "bad_url",
    "read_address",
    "read_url",
    "safe_url",
    "user_of",
]

DEFAULT_URL = "redis://127.0.0.1:6379/0"

SENTINEL_SCHEMES = {"redis+sentinel": "redis", "rediss+sentinel": "rediss"}
"""Scheme of a URL that names sentinels → scheme of their servers."""
CLUSTER_SCHEMES = {"redis+cluster": "redis", "rediss+cluster": "rediss"}
"""Scheme of a URL that names nodes of a cluster → scheme of the nodes."""
CLUSTER_PARTITIONS = 12
"""The default on a cluster. 1, 2, 3, 4, 6 or 12 primaries get equally many partitions each."""
MOST_PARTITIONS = 256

_SEVERAL_HOSTS = (*SENTINEL_SCHEMES, *CLUSTER_SCHEMES)
_OURS = ("password_file", "ssl_password_file", "partitions")
_SECRETS = re.compile(r"([?&](?:ssl_|sentinel_)?password=)[^&]*")
_USER_INFO = re.compile(r"^((?>(?:[a-z+.-]+://|rediss?:|unix:)?)/*[^:/?#@]*):.*@", re.DOTALL | re.IGNORECASE)
_FILES = ("ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile")


def safe_url(url: str) -> str:
    """The URL without passwords, for people and logs. In an invalid URL, possible parts of them are removed too."""
    return _USER_INFO.sub(r"\1:***@", _SECRETS.sub(r"\1***", url))


def user_of(url: str) -> str:
    """The user in a URL; ``default`` if it names none."""
    try:
        return unquote(urlsplit(url).username or "default")
    except ValueError:
        return "default"


class FilePassword(CredentialProvider):
    """A user whose password is on the first line of a file."""

    def __init__(self, user: str, path: Path) -> None:
        self._user = user
        self._path = path

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        """The user, if there is one, and the current password in the file.

        Raises:
            AuthenticationError: the file is unreadable or empty.
        """
        try:
            password = _first_line(self._path, "password_file")
        except ConfigurationError as error:
            raise AuthenticationError(str(error)) from None
        return (self._user, password) if self._user else (password,)


@dataclass(frozen=True, slots=True)
class ServerUrl:
    """A URL in the form of redis-py.

    Attributes:
        text: the URL without the options that only stepflow knows.
        options: the options of connections that follow from these.
        partitions: the number of partitions of the keys.
    """

    text: str
    options: dict[str, Any]
    partitions: int = 1

    @property
    def is_of_sentinels(self) -> bool:
        """Whether it names sentinels instead of the server."""
        return self.text.partition("://")[0] in SENTINEL_SCHEMES

    @property
    def is_of_cluster(self) -> bool:
        """Whether it names nodes of a cluster."""
        return self.text.partition("://")[0] in CLUSTER_SCHEMES

    def __repr__(self) -> str:
        """Without secrets."""
        return f"ServerUrl({safe_url(self.text)!r})"


def read_url(url: str) -> ServerUrl:
    """Parse a URL.

    Raises:
        ConfigurationError: the URL is invalid, or names a file that does not exist.
    """
    if any("\ud800" <= char <= "\udfff" for char in url):  # from bytes in the environment that are not UTF-8
        raise bad_url(url, "it is not valid Unicode")
    parts = _parts(url)
    if parts is None:
        raise bad_url(url, "its port is no number; write % / ? # @ in a password as %25 %2F %3F %23 %40")
    if parts.scheme in ("redis", "rediss", *_SEVERAL_HOSTS) and "@" in parts.path + parts.query + parts.fragment:
        raise bad_url(url, "there is an @ after the address; write % / ? # @ in a password as %25 %2F %3F %23 %40")
    pairs = parse_qsl(parts.query)
    _check_files(pairs, url)
    query = dict(pairs)
    options: dict[str, Any] = {}
    if path := query.get("password_file"):
        _first_line(Path(path), "password_file")
        options["credential_provider"] = FilePassword(unquote(parts.username or ""), Path(path))
        parts = parts._replace(netloc=parts.netloc.rpartition("@")[2])
    if path := query.get("ssl_password_file"):
        options["ssl_password"] = _first_line(Path(path), "ssl_password_file")
    elif "ssl_keyfile" in query and "ssl_password" not in query:
        options["ssl_password"] = ""  # without it, OpenSSL asks for the password of a key on the terminal
    rest = urlencode([(name, value) for name, value in pairs if name not in _OURS])
    text = f"{parts.scheme}://{parts.netloc}{parts.path}{'?' if rest else ''}{rest}"
    return ServerUrl(text, options, _partitions(query.get("partitions"), parts.scheme, url))


def _partitions(text: str | None, scheme: str, url: str) -> int:
    if text is None:
        return CLUSTER_PARTITIONS if scheme in CLUSTER_SCHEMES else 1
    if not text.isdecimal() or not 1 <= int(text) <= MOST_PARTITIONS:
        raise ConfigurationError(
            f"partitions={text} in redis_url {safe_url(url)!r} is no number from 1 to {MOST_PARTITIONS}"
        )
    return int(text)


def _parts(url: str) -> SplitResult | None:
    """The parts of a URL; ``None``: it is invalid. The error of Python is dropped because it may quote the password."""
    with contextlib.suppress(ValueError):
        parts = urlsplit(url)
        _ = parts.port if parts.scheme not in _SEVERAL_HOSTS else ""
        return parts
    return None


def bad_url(url: str, why: str) -> ConfigurationError:
    """The error for an invalid URL.

    Args:
        why: the reason, without any part of the URL that may be secret.
    """
    return ConfigurationError(
        f"redis_url {safe_url(url)!r} is not a server's URL ({why}): write redis://host:6379/0, "
        "rediss://… for TLS, unix:///path, redis+sentinel://host1:26379,host2:26379/primary/0 for sentinels, or "
        f"redis+cluster://host1:6379,host2:6379 for a cluster, in redis_url= or {REDIS_URL}"
    )


def read_address(text: str, *, default_port: int, what: str) -> tuple[str, int]:
    """Parse one address of a list.

    Args:
        what: the name of the list for the message, such as ``sentinels``.

    Raises:
        ValueError: the address is invalid.
    """
    parts = urlsplit(f"//{text}")
    if not parts.hostname:
        raise ValueError(f"one of its {what} has no host: write host1:{default_port},host2:{default_port}")
    try:
        return parts.hostname, parts.port or default_port
    except ValueError:  # its text may quote a part of a password
        raise ValueError(f"the port of one of its {what} is no number") from None


def _check_files(pairs: list[tuple[str, str]], url: str) -> None:
    """Refuse unreadable files, which redis-py would report as a server that does not answer."""
    for name, path in pairs:
        if name in _FILES and not os.access(path, os.R_OK):
            raise ConfigurationError(
                f"{name} in redis_url {safe_url(url)!r} names {path!r}, which is not there or cannot be read"
            )


def _first_line(path: Path, option: str) -> str:
    try:
        line = next(_lines(path), "")
    except OSError as error:
        raise ConfigurationError(
            f"{option} {str(path)!r} cannot be read: {error.strerror}: correct redis_url"
        ) from None
    if not line:
        raise ConfigurationError(f"{option} {str(path)!r} is empty: put the password on its first line")
    return line


def _lines(path: Path) -> Iterator[str]:
    yield from path.read_text().splitlines()
