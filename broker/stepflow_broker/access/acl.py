"""The ACL file with one Redis user for each role: ``python -m stepflow_broker.access.acl > users.acl``.

``--passwords FOLDER`` reads the password of each role from the file of its name in the folder, such as ``producer``,
and writes its SHA-256. A role without a password cannot log in. A file ``admin`` adds a user ``admin`` with all rights.
The user ``default``, which connections without a user get, is switched off. ``--cluster`` is for a Redis Cluster, of
which each node needs the file, and for a server with partitions (``?partitions=``).
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Mapping
from pathlib import Path

from stepflow_broker.access.roles import ROLES, Role
from stepflow_broker.protocol.keys import ANY_PARTITION, KEYS, MOVING, Keys
from stepflow_engine.errors import ConfigurationError

__all__ = ["ADMIN", "acl_file", "read_passwords", "rules"]

ADMIN = "admin"
SERVER = (7, 0)
_PATTERN = {"R": "%R~", "W": "%W~", "RW": "~"}


def acl_file(passwords: Mapping[str, str], *, server: tuple[int, int] = SERVER, cluster: bool = False) -> str:
    """The text of the ACL file.

    Args:
        passwords: role → password; ``admin`` is allowed too.
        server: the oldest version of Redis or Valkey that reads the file.
        cluster: whether the keys have partitions.
    """
    granted = [(role, " ".join(rules(role, server, cluster=cluster))) for role in ROLES]
    users = [f"{role.user} {_login(passwords.get(role.name))} {rights}" for role, rights in granted]
    if ADMIN in passwords:
        users.append(f"{ADMIN} {_login(passwords[ADMIN])} ~* &* +@all")
    users.append("default off sanitize-payload resetkeys resetchannels -@all")
    return "".join(f"user {user}\n" for user in users)


def rules(role: Role, server: tuple[int, int] = SERVER, *, cluster: bool = False) -> list[str]:
    """The rules of a role for ``ACL SETUSER``. Redis 6.2 does not distinguish reading a key from writing it."""
    name = Keys(ANY_PARTITION if cluster else "")
    texts = {key: name(key.name, "*" if key.ids else "") for key in KEYS}
    keys = [(role.access(key), text) for key, text in texts.items() if key.type != "channel"]
    return [
        "resetkeys",
        *((_PATTERN[access] if server >= (7, 0) else "~") + text for access, text in keys if access),
        *[f"~{ANY_PARTITION}{MOVING}"] * cluster,  # Redis ACLs count the declared keys of a script as writes
        "resetchannels",
        *(f"&{text}" for key, text in texts.items() if key.type == "channel" and role.uses(key)),
        *role.more,
        "-@all",
        *(f"+{word}" for word in (*role.commands, *role.in_cluster * cluster)),
        *["+client|setinfo"] * (server >= (7, 2)),  # redis-py sends it; older servers do not know it
    ]


def _login(password: str | None) -> str:
    if password is None:
        return "off sanitize-payload"
    return f"on sanitize-payload #{hashlib.sha256(password.encode()).hexdigest()}"


def read_passwords(folder: Path) -> dict[str, str]:
    """Read the passwords in a folder: role → first line of its file.

    Raises:
        ConfigurationError: the folder has no password, or a file is empty or unreadable.
    """
    passwords: dict[str, str] = {}
    for name in (*(role.name for role in ROLES), ADMIN):
        path = folder / name
        try:
            lines = path.read_text().splitlines()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise ConfigurationError(f"the password in {path} cannot be read: {error.strerror}") from None
        if not lines or not lines[0]:
            raise ConfigurationError(f"the password file {path} is empty: put the password on its first line")
        passwords[name] = lines[0]
    if not passwords:
        names = ", ".join(role.name for role in ROLES)
        raise ConfigurationError(f"there is no password in {folder}: name its files {names} or {ADMIN}")
    return passwords


def _version(text: str) -> tuple[int, int]:
    major, _, minor = text.partition(".")
    return int(major), int(minor or 0)


def main() -> None:
    """Print the ACL file."""
    parser = argparse.ArgumentParser(
        prog="python -m stepflow_broker.access.acl", description="Print an ACL file for Redis."
    )
    parser.add_argument("--passwords", type=Path, metavar="FOLDER", help="files with passwords, named as the roles")
    parser.add_argument("--server", type=_version, default=SERVER, metavar="VERSION", help="of the server; 7.0")
    parser.add_argument("--cluster", action="store_true", help="for a Redis Cluster, and for redis://…?partitions=")
    options = parser.parse_args()
    try:
        passwords = read_passwords(options.passwords) if options.passwords else {}
    except ConfigurationError as error:
        sys.exit(f"error: {error}")
    sys.stdout.write(acl_file(passwords, server=options.server, cluster=options.cluster))


if __name__ == "__main__":
    main()
