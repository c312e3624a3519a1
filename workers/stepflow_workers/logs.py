"""The log format of worker processes: the name of an event, then its fields as ``key=value``."""

from __future__ import annotations

import json
import logging
import sys
from typing import Any

from stepflow_engine.failure import Failure
from stepflow_engine.product import NAME
from stepflow_engine.terminal_text import printable, printable_lines

__all__ = ["configure_logging"]

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class FieldFormatter(logging.Formatter):
    """Adds the fields in ``extra`` to each line, and removes control sequences.

    A record is one line, and the lines of its traceback are indented. So no text of a user looks like another record.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Format a record as one line, with the traceback if it has one."""
        traceback = self.formatException(record.exc_info) if record.exc_info else record.exc_text or ""
        record.message, record.asctime = record.getMessage(), self.formatTime(record, self.datefmt)
        line = printable(self.formatMessage(record).replace("\n", "\\n"))
        fields = [_field(name, value) for name, value in vars(record).items() if name not in _STANDARD and value != ""]
        rest = [f"  {text}" for text in printable_lines(traceback).split("\n")] if traceback else []
        return "\n".join([" ".join([line, *fields]), *rest])

    def formatException(self, ei: Any) -> str:  # noqa: N802  logging's name
        """Format an error of a user, which may not let itself be printed, with bounded work."""
        failures = [Failure.of(ei[1])] if ei[1] is not None else []
        while failures and failures[-1].cause is not None:
            failures.append(failures[-1].cause)
        return "\ncaused:\n".join(failure.traceback.rstrip("\n") for failure in reversed(failures))


def _field(name: str, value: object) -> str:
    """``name=value``; a value with spaces is quoted, and the elements of a list have commas between them."""
    text = ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    if any(char in text for char in ' "=\n'):
        text = json.dumps(text, ensure_ascii=False)
    return printable(f"{name}={text}")


def configure_logging(level: str) -> None:
    """Send the log of stepflow to standard error. The root logger does not change.

    Loggers of stepflow that a configuration has disabled are enabled again: `logging.config.dictConfig` disables all
    that exist, unless it is told otherwise.

    Args:
        level: the name of the lowest level shown, as in ``"INFO"``.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(FieldFormatter("%(asctime)s %(levelname)-7s %(process)d %(message)s", "%H:%M:%S"))
    logger = logging.getLogger(NAME)
    logger.handlers = [handler]
    logger.setLevel(level.upper())
    logger.propagate = False
    for name in list(logging.root.manager.loggerDict):
        if name == NAME or name.startswith(f"{NAME}."):
            logging.getLogger(name).disabled = False
