"""The log format of worker processes: the name of an event, then its fields as ``key=value``."""

from __future__ import annotations

import logging
import sys
from typing import Any

from stepflow_engine.failure import Failure
from stepflow_engine.product import NAME

__all__ = ["configure_logging"]

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class FieldFormatter(logging.Formatter):
    """Adds the fields in ``extra`` to each line."""

    def format(self, record: logging.LogRecord) -> str:
        """Format a record as one line, with the traceback if it has one."""
        line = super().format(record)
        fields = [f"{name}={value}" for name, value in vars(record).items() if name not in _STANDARD]
        if not fields:
            return line
        first, newline, rest = line.partition("\n")
        return f"{first} {' '.join(fields)}{newline}{rest}"

    def formatException(self, ei: Any) -> str:  # noqa: N802  logging's name
        """Format an error of a user, which may not let itself be printed, with bounded work."""
        failures = [Failure.of(ei[1])] if ei[1] is not None else []
        while failures and failures[-1].cause is not None:
            failures.append(failures[-1].cause)
        return "\ncaused:\n".join(failure.traceback.rstrip("\n") for failure in reversed(failures))


def configure_logging(level: str) -> None:
    """Send the log of stepflow to standard error. The root logger does not change.

    Args:
        level: the name of the lowest level shown, as in ``"INFO"``.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(FieldFormatter("%(asctime)s %(levelname)-7s %(process)d %(message)s", "%H:%M:%S"))
    logger = logging.getLogger(NAME)
    logger.handlers = [handler]
    logger.setLevel(level.upper())
    logger.propagate = False
