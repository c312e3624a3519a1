"""The product's name in outside systems: Redis keys, environment variables, loggers. No other module spells it."""

from __future__ import annotations

__all__ = [
    "ENCRYPTION_KEYS_VARIABLE",
    "ENV_PREFIX",
    "KEY_PREFIX",
    "PRODUCT",
    "REDIS_URL_VARIABLE",
    "variable",
]

PRODUCT = "stepflow"
"""The command, the top logger, the consumer group."""
KEY_PREFIX = PRODUCT
"""Redis keys start with it and a colon: ``stepflow:run:…``."""
ENV_PREFIX = PRODUCT.upper()
"""Environment variables start with it and an underscore: ``STEPFLOW_REDIS_URL``."""


def variable(name: str) -> str:
    """The environment variable of a setting, as in ``variable("REDIS_URL")``."""
    return f"{ENV_PREFIX}_{name}"


REDIS_URL_VARIABLE = variable("REDIS_URL")
ENCRYPTION_KEYS_VARIABLE = variable("ENCRYPTION_KEYS")
