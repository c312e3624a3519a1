"""Options that select runs, and how their values are parsed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from functools import wraps
from typing import Any, TypeVar, overload

import click

from stepflow.client.find import run_query
from stepflow_broker.protocol.clock import REAL_CLOCK
from stepflow_broker.protocol.partition import Partition
from stepflow_broker.redis_client.broker import Broker
from stepflow_broker.redis_client.operation import run_operation
from stepflow_broker.registry.tags import check_tag_name, tag_value
from stepflow_broker.transitions.runs.run_index import RunQuery
from stepflow_broker.views.filter_names import check_app, functions_named
from stepflow_cli.formatting import echo
from stepflow_cli.options import duration
from stepflow_engine.errors import ConfigurationError, FilterError
from stepflow_engine.expression import condition
from stepflow_engine.product import ENCRYPTION_KEYS, variable
from stepflow_engine.state_machine import RunStatus
from stepflow_engine.times import utc_time

__all__ = [
    "RunFilters",
    "TimeArgument",
    "condition_option",
    "function_names",
    "function_option",
    "named_as_options",
    "note_unreadable",
    "parse_condition",
    "parse_function",
    "parse_tag",
    "parse_time",
    "resolve_time",
    "run_filter_options",
    "since_option",
    "status_option",
    "tag_filter",
    "time_option",
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


@overload
def resolve_time(moment: TimeArgument, at_ms: int | None = None) -> datetime: ...
@overload
def resolve_time(moment: None, at_ms: int | None = None) -> None: ...
@overload
def resolve_time(moment: TimeArgument | None, at_ms: int | None = None) -> datetime | None: ...
def resolve_time(moment: TimeArgument | None, at_ms: int | None = None) -> datetime | None:
    """A time, with an age resolved at a time in ms since the epoch; ``None``: now."""
    if not isinstance(moment, timedelta):
        return moment
    now = utc_time(REAL_CLOCK.now_ms() if at_ms is None else at_ms)
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


# -- options -------------------------------------------------------------------
# `command` is the name of the command in the names of environment variables, such as "RUNS_LIST".


def function_option(text: str = "Only runs of this function: NAME or APP/NAME.") -> Callable[[C], C]:
    """The option ``--function`` with this help."""
    return click.option("--function", type=parse_function, metavar="NAME", help=text)


def status_option(command: str, statuses: Iterable[RunStatus] = RunStatus) -> Callable[[C], C]:
    """The option ``--status``, which may be repeated: one of these statuses."""
    return click.option(
        "--status",
        "statuses",
        envvar=variable(f"{command}_STATUS"),
        type=click.Choice([status.value for status in statuses]),
        multiple=True,
        help="Only runs with this status; may be repeated.",
    )


def condition_option(command: str) -> Callable[[C], C]:
    """The option ``--if``."""
    return click.option(
        "--if",
        "condition",
        envvar=variable(f"{command}_IF"),
        type=parse_condition,
        metavar="CEL",
        help="Only runs whose event matches this expression: 'event.data.n > 1'.",
    )


def time_option(
    name: str, text: str, parameter: str = "", envvar: str | None = None, *, required: bool = False
) -> Callable[[C], C]:
    """An option for a time, whose help begins with this text."""
    names = (name, parameter) if parameter else (name,)
    help_text = f"{text}: an age such as 2h, or an ISO time."
    return click.option(*names, envvar=envvar, type=parse_time, required=required, metavar="TIME", help=help_text)


def since_option(command: str, text: str = "Only runs since this") -> Callable[[C], C]:
    """The option ``--since``."""
    return time_option("--since", text, "after", variable(f"{command}_SINCE"))


def _tag_option(command: str) -> Callable[[C], C]:
    return click.option(
        "--tag",
        "tags",
        envvar=variable(f"{command}_TAG"),
        type=parse_tag,
        multiple=True,
        metavar="NAME=VALUE",
        help="Only runs with this tag; may be repeated.",
    )


def _prefix_option(command: str) -> Callable[[C], C]:
    return click.option(
        "--id",
        "prefix",
        envvar=variable(f"{command}_ID"),
        metavar="PREFIX",
        help="Only runs whose id begins with this: at least 4 digits.",
    )


@dataclass(frozen=True, slots=True)
class RunFilters:
    """The values of `run_filter_options`; ``function`` is an app id or ``None``, and a function id."""

    statuses: tuple[str, ...]
    app: str | None
    function: tuple[str | None, str] | None
    tags: tuple[tuple[str, str], ...]
    after: TimeArgument | None
    until: TimeArgument | None
    parent: str | None
    batch: str | None
    error: str | None
    condition: str | None
    event: str | None
    prefix: str | None

    def query(self, broker: Broker, partition: Partition) -> RunQuery:
        """The filter for the server, with ages resolved now.

        Raises:
            FilterError: a filter is invalid.
            BadParameter: a tag has two values.
            UsageError: the app and the function contradict each other.
            FunctionNotFoundError: no app, or not this one, has a function with this id.
        """
        app, function = self.app, self.function
        if app is not None and function is not None:
            if function[0] not in (None, app):
                raise click.UsageError(f"--app {app} and a function of app {function[0]} contradict each other")
            function = (app, function[1])
        if app is not None:
            run_operation(broker, check_app(partition, app))
        return run_query(
            "" if app is None else app,
            function_names(broker, partition, function),
            status=self.statuses,
            tags=tag_filter(self.tags),
            since=resolve_time(self.after),
            until=resolve_time(self.until),
            parent=self.parent,
            batch=self.batch,
            error=self.error,
            if_=self.condition,
            event=self.event,
            id=self.prefix,
        )


def run_filter_options(command: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """All filters of a list of runs, which the command gets as one argument: ``filters``, a `RunFilters`."""
    error = "Only runs that failed with this error: its name, a part of its message, or a group of 'errors'."
    options = (
        status_option(command),
        click.option("--app", metavar="APP", help="Only runs of this app."),
        function_option(),
        _tag_option(command),
        since_option(command),
        time_option("--until", "Only runs before this"),
        click.option("--parent", metavar="RUN", help="Only runs that this run has invoked."),
        click.option(
            "--batch", metavar="RUN", help="Only the runs of a batch: the run that executes it, or one of them."
        ),
        click.option("--error", metavar="TEXT", help=error),
        condition_option(command),
        click.option("--event", metavar="ID", help="Only runs that the event with this id has started."),
        _prefix_option(command),
    )

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def with_filters(*args: Any, **others: Any) -> Any:
            filters = RunFilters(**{one.name: others.pop(one.name) for one in fields(RunFilters)})
            return function(*args, filters=filters, **others)

        decorated: Callable[..., Any] = with_filters
        for option in reversed(options):
            decorated = option(decorated)
        return decorated

    return decorate


# -- values --------------------------------------------------------------------


def note_unreadable(count: int) -> None:
    """Say how many runs a list or a bulk left out because this process cannot decrypt them."""
    if count:
        runs = "1 run was" if count == 1 else f"{count:,} runs were"
        text = f"{runs} left out, because this process does not have the keys to compare"
        echo(f"note: {text}: set {ENCRYPTION_KEYS}", err=True)


def function_names(broker: Broker, partition: Partition, function: tuple[str | None, str] | None) -> tuple[str, ...]:
    """The functions that ``--function`` names, as ``app/function``; empty: any.

    Raises:
        FunctionNotFoundError: no app has a function with this id.
    """
    if function is None:
        return ()
    app, name = function
    return (f"{app}/{name}",) if app else run_operation(broker, functions_named(partition, name))
