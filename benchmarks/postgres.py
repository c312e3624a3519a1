"""A PostgreSQL server for benchmarks, with PostgreSQL's own defaults: every commit waits for the disk.

Standard library only: this file is imported in the virtual environments of the peers.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.servers import ProcessError, free_port, serving

__all__ = ["PostgresServer", "find_postgres", "postgres_server"]

_FOLDERS = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/opt/homebrew/opt/postgresql*/bin")
_USERS = ("postgres", "nobody")


@dataclass(frozen=True, slots=True)
class PostgresServer:
    """A running server.

    Attributes:
        host: ``user@address:port``, as a URL has it.
        pid: of the first process; the others are its children.
        version: ``postgresql 15.18``.
    """

    host: str
    pid: int
    version: str


def find_postgres() -> Path | None:
    """The folder with ``postgres`` and ``initdb``; None when PostgreSQL is not installed."""
    found = shutil.which("postgres")
    folders = [Path(found).resolve().parent] if found else []
    for pattern in _FOLDERS:
        folders += sorted(Path("/").glob(pattern.lstrip("/")), reverse=True)
    return next((folder for folder in folders if (folder / "initdb").exists()), None)


@contextlib.contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """A fresh server.

    Raises:
        ProcessError: PostgreSQL is not installed, or did not start.
    """
    programs = find_postgres()
    if programs is None:
        raise ProcessError("no PostgreSQL was found: install it (Debian: apt-get install postgresql)")
    with tempfile.TemporaryDirectory(prefix="bench-postgres-") as name:
        folder, port, as_user = Path(name), free_port(), _unprivileged(Path(name))
        data = str(folder / "data")
        _call([*as_user, str(programs / "initdb"), "-D", data, "-U", "bench", "-A", "trust"], folder)
        options = ("-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=")
        command = [*as_user, str(programs / "postgres"), "-D", data, "-p", str(port), *options]
        version = _call([str(programs / "postgres"), "--version"], folder).split()[2]
        with serving(command, port=port, log=folder / "server.log", cwd=folder, stop=signal.SIGINT) as process:
            yield PostgresServer(f"bench@127.0.0.1:{port}", process.pid, f"postgresql {version}")


def _unprivileged(folder: Path) -> list[str]:
    """PostgreSQL refuses to run as root: the words before its command, and the folder is given away."""
    if os.geteuid() != 0:
        return []
    known = {user.pw_name: user for user in pwd.getpwall()}
    user = next((known[name] for name in _USERS if name in known), None)
    if user is None:
        raise ProcessError(f"PostgreSQL does not run as root, and there is no user {' or '.join(_USERS)}")
    os.chown(folder, user.pw_uid, user.pw_gid)
    return ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]


def _call(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    if done.returncode:
        raise ProcessError(f"{' '.join(command)} ended with {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout
