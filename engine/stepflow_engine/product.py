"""The name of the product, and what is derived from it. No other module spells the name.

Console scripts, packages and modules have the name too; see ``pyproject.toml``.
"""

from __future__ import annotations

__all__ = [
    "DEBUG",
    "ENCRYPTION_KEYS",
    "ENV_PREFIX",
    "KEY_PREFIX",
    "NAME",
    "OUTPUT",
    "REDIS_URL",
    "RUN_LOGGER",
    "WORKER_LOGGER",
    "WORKER_PROGRAM",
    "install_command",
    "variable",
]

NAME = "stepflow"
"""The name of the product, its distribution, its command, its root logger and its consumer group."""
KEY_PREFIX = NAME
"""The first part of each Redis key and channel, before a colon."""
ENV_PREFIX = NAME.upper()
"""The first part of each environment variable, before an underscore."""
WORKER_PROGRAM = f"{NAME}-worker"
"""The program that runs workers."""
RUN_LOGGER = f"{NAME}.run"
"""The logger of ``ctx.logger``."""
WORKER_LOGGER = f"{NAME}.worker"
"""The logger of the worker processes."""


def variable(name: str) -> str:
    """The environment variable of a setting."""
    return f"{ENV_PREFIX}_{name}"


REDIS_URL = variable("REDIS_URL")
ENCRYPTION_KEYS = variable("ENCRYPTION_KEYS")
OUTPUT = variable("OUTPUT")
DEBUG = variable("DEBUG")


def install_command(extra: str) -> str:
    """The command that installs an extra."""
    return f"pip install '{NAME}[{extra}]'"
