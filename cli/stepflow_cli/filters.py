"""Options that select runs, and how their values are parsed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import click

from stepflow_broker.protocol.clock import now_ms
from stepflow_broker.protocol.partition import Partition
from stepflow_broker.redis_client.broker import Broker
from stepflow_broker.redis_client.operation import run_operation
from stepflow_broker.registry.tags import check_tag_name, tag_value
from stepflow_broker.views.find_runs import functions_named
from stepflow_cli.options import duration
from stepflow_engine.errors import ConfigurationError, FilterError
from stepflow_engine.expression import condition

__all__ = [
    "TimeArgument",
    "function_names",
    "function_option",
    "named_as_options",
    "parse_condition",
    "parse_function",
    "parse_tag",
    "parse_time",
    "resolve_time",
    "tag_filter",
]

C = TypeVar("C", bound=Callable[..., Any])
TimeArgument = timedelta | datetime
"""A time on the command line: an age, or a point in time."""
_TIME_FORMS = "an age such as 2h or 3d, or a time with a zone such as 2026-01-31T09:30:00Z"


def parse_time(value: str) -> TimeArgument:
    """Parse an age or a time with a zone."""
    try:
        return timedelta(seconds=duration(value))
    except (click.BadParameter, OverflowError):
        pass
    try:
        when = datetime.fromisoformat(value)
    except ValueError:
        raise click.BadParameter(f"time must be {_TIME_FORMS}, got {value!r}") from None
    if when.utcoffset() is None:
        raise click.BadParameter(f"time must have a time zone, got {value!r}: use {_TIME_FORMS}")
    return when


def resolve_time(moment: TimeArgument | None, at_ms: int | None = None) -> datetime | None:
    """A time, with an age resolved at a time in ms since the epoch; ``None``: now."""
    if not isinstance(moment, timedelta):
        return moment
    now = datetime.fromtimestamp((now_ms() if at_ms is None else at_ms) / 1000, UTC)
    try:
        return now - moment
    except OverflowError:
        return datetime(1970, 1, 1, tzinfo=UTC)


def parse_condition(value: str) -> str:
    """Parse a CEL expression on an event."""
    try:
        return condition(value).text
    except ConfigurationError as error:
        raise click.BadParameter(str(error)) from None


def parse_function(value: str) -> tuple[str | None, str]:
    """Parse ``NAME`` or ``APP/NAME``: the app id or ``None``, and the function id."""
    app, slash, function = value.rpartition("/")
    if not function or (slash and not app):
        raise click.BadParameter(f"function must be NAME or APP/NAME, got {value!r}")
    return app or None, function


def parse_tag(value: str) -> tuple[str, str]:
    """Parse ``NAME=VALUE``."""
    name, equals, text = value.partition("=")
    try:
        if not equals:
            raise ValueError(f"tag must be NAME=VALUE, got {value!r}")
        return check_tag_name(name), tag_value(name, text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def tag_filter(tags: Iterable[tuple[str, str]]) -> dict[str, str]:
    """The values of ``--tag`` by name.

    Raises:
        BadParameter: two of them have one name.
    """
    values: dict[str, str] = {}
    for name, value in tags:
        if values.setdefault(name, value) != value:
            text = (
                f"a run has one value of a tag, got {name}={values[name]} and {name}={value}: list each value by itself"
            )
            raise click.BadParameter(text, click.get_current_context(), param_hint="'--tag'")
    return values


@contextmanager
def named_as_options() -> Iterator[None]:
    """Errors of filters name the option of the command line."""
    try:
        yield
    except FilterError as error:
        option = {"tags": "tag"}.get(error.parameter, error.parameter.rstrip("_"))
        raise click.BadParameter(str(error), click.get_current_context(), param_hint=f"'--{option}'") from error


def function_option(text: str) -> Callable[[C], C]:
    """The option ``--function`` with this help."""
    return click.option("--function", type=parse_function, metavar="NAME", help=text)


def function_names(broker: Broker, partition: Partition, function: tuple[str | None, str] | None) -> tuple[str, ...]:
    """The functions that ``--function`` names, as ``app/function``; empty: any.

    Raises:
        FunctionNotFoundError: no app has a function with this id.
    """
    if function is None:
        return ()
    app, name = function
    return (f"{app}/{name}",) if app else run_operation(broker, functions_named(partition, name))
