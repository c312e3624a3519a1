"""Virtual environments of the peers: one each under ``.peers/``, made when missing or when its pins have changed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["PEERS", "ROOT", "Environment", "InstallError"]

ROOT = Path(__file__).parents[1]
PEERS = ROOT / ".peers"
_INSTALL_S = 600
_MESSAGE_LINES = 15


class InstallError(Exception):
    """A peer could not be installed; the message ends with what the installer said."""


@dataclass(frozen=True, slots=True)
class Environment:
    """Where a peer is installed.

    Attributes:
        name: of its folder.
        packages: from PyPI, with their versions.
        npm: packages from npm, with their versions.
    """

    name: str
    packages: Sequence[str]
    npm: Sequence[str] = ()

    @property
    def folder(self) -> Path:
        """The virtual environment."""
        return PEERS / self.name

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.folder / "bin" / "python"

    def path(self, env: Mapping[str, str]) -> str:
        """PATH with the programs of the environment first."""
        own = [self.folder / "bin", self.folder / "node_modules" / ".bin"]
        return os.pathsep.join([*map(str, own), env.get("PATH", "")])

    def make(self) -> None:
        """Install what is pinned, unless it is.

        Raises:
            InstallError: something could not be installed; the next call starts afresh.
        """
        stamp, pins = self.folder / ".pins", "\n".join([sys.version, *self.packages, *self.npm])
        if stamp.exists() and stamp.read_text() == pins:
            return
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.parent.mkdir(exist_ok=True)
        _call([sys.executable, "-m", "venv", str(self.folder)])
        _call([str(self.python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *self.packages])
        if self.npm:
            _call(["npm", "install", "--silent", "--no-fund", "--no-audit", "--prefix", str(self.folder), *self.npm])
        stamp.write_text(pins)


def _call(command: Sequence[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_INSTALL_S)
    except FileNotFoundError:
        raise InstallError(f"there is no program {command[0]!r}: install it") from None
    except subprocess.TimeoutExpired:
        raise InstallError(f"not done within {_INSTALL_S} s: {' '.join(command)}") from None
    if done.returncode:
        said = "\n".join((done.stdout + done.stderr).splitlines()[-_MESSAGE_LINES:])
        raise InstallError(f"{' '.join(command)} ended with {done.returncode}\n{said}")
