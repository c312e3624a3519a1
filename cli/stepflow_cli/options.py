"""Options that several commands share, and how their values are parsed."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from stepflow_broker.redis_client.connection import DEFAULT_URL
from stepflow_cli.exit_codes import Session
from stepflow_engine.codec import loads
from stepflow_engine.durations import duration_ms
from stepflow_engine.limits import check_id
from stepflow_engine.product import DEBUG, NAME, OUTPUT, REDIS_URL
from stepflow_engine.sizes import size_bytes

__all__ = [
    "data_option",
    "debug_option",
    "duration",
    "json_data",
    "lease",
    "output_option",
    "queue_name",
    "reason_option",
    "server_options",
    "size",
]

C = TypeVar("C", bound=Callable[..., Any])
SHORTEST_LEASE_S = 2.0


def json_data(value: str) -> Any:
    """Parse JSON from the command line (JSON text), a file (``@file``), or standard input (``-``)."""
    try:
        text = _read(value)
    except OSError as error:
        raise click.BadParameter(
            f"data cannot be read from {value[1:]!r} ({error.strerror}): check the path after @"
        ) from None
    try:
        return loads(text)
    except ValueError as error:
        raise click.BadParameter(
            f"data must be JSON ({error}): write it in single quotes, as in '{{\"n\": 1}}'"
        ) from None


def _read(value: str) -> bytes | str:
    if value == "-":
        return sys.stdin.buffer.read()
    return Path(value[1:]).read_bytes() if value.startswith("@") else value


def duration(value: str) -> float:
    """Parse a duration to seconds: ``30``, ``30s``, ``5m``, ``1h``."""
    try:
        return duration_ms(float(value) if re.fullmatch(r"-?\d+(\.\d+)?", value) else value, name="time") / 1000
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def size(value: str) -> int:
    """Parse a size to bytes: ``500M``, ``2G``, ``512MiB``. The units are powers of 1,024."""
    try:
        return size_bytes(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def lease(value: str) -> float:
    """Parse a lease to seconds. A worker extends a lease three times per lease, but at most twice a second."""
    seconds = duration(value)
    if seconds < SHORTEST_LEASE_S:
        raise click.BadParameter(f"lease must be at least 2s, got {value}")
    return seconds


def queue_name(value: str) -> str:
    """Validate a queue name by the rules for functions."""
    if not value or set(value) & set(", ") or value.endswith(":steps"):
        raise click.BadParameter(
            f"queue must not be empty, contain ',' or a space, or end with ':steps', got {value!r}; "
            "for several queues, repeat the option"
        )
    return value


def _set_debug(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    ctx.ensure_object(Session).debug |= value


def debug_option(command: C) -> C:
    """The option ``--debug``."""
    return click.option(
        "--debug",
        is_flag=True,
        is_eager=True,
        expose_value=False,
        envvar=DEBUG,
        callback=_set_debug,
        help="Show the traceback of an error.",
    )(command)


def server_options(command: C) -> C:
    """The options ``--redis-url`` and ``--debug``."""
    return click.option(
        "--redis-url",
        metavar="URL",
        envvar=REDIS_URL,
        help=f"The server. Default: {REDIS_URL}, else the server of '{NAME} dev' in this folder, else {DEFAULT_URL}.",
    )(debug_option(command))


def output_option(command: C) -> C:
    """The option ``--output``."""
    return click.option(
        "-o",
        "--output",
        type=click.Choice(["table", "json"]),
        default="table",
        envvar=OUTPUT,
        show_default=True,
        help="A table, or JSON for scripts.",
    )(command)


def _reason(value: str) -> str:
    try:
        return check_id(value, "reason") if value else ""
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def reason_option(command: C) -> C:
    """The option ``--reason``."""
    return click.option(
        "--reason", type=_reason, metavar="TEXT", default="", help="The reason, which is stored with the runs."
    )(command)


def data_option(command: C) -> C:
    """The option ``--data``."""
    return click.option(
        "-d",
        "--data",
        type=json_data,
        metavar="JSON",
        help="The data: JSON, @file, or - for standard input.",
    )(command)
