"""What a filter of runs names: apps, functions, tags and groups of errors. One that does not exist is an error."""

from __future__ import annotations

from collections.abc import Iterable

from stepflow_broker.protocol.command import command
from stepflow_broker.protocol.partition import Partition
from stepflow_broker.redis_client.operation import Operation
from stepflow_broker.registry.function_config import FunctionConfig
from stepflow_broker.registry.functions import read_functions
from stepflow_broker.transitions.runs.run_index import RunQuery, read_run_functions, read_tag_names
from stepflow_engine.errors import FilterError, FunctionNotFoundError
from stepflow_engine.failure import Failure
from stepflow_engine.product import NAME
from stepflow_engine.suggestions import suggestion

__all__ = ["check_app", "check_names", "functions_named"]

_MAX_TAG_NAMES = 1_000


def functions_named(partition: Partition, name: str) -> Operation[tuple[str, ...]]:
    """The functions of all apps that have this id, as ``app/function``. One round trip.

    Raises:
        FunctionNotFoundError: there is none.
    """
    names, _ = yield from _known_functions(partition)
    found = tuple(sorted(one for one in names if one.partition("/")[2] == name))
    if not found:
        raise _no_function(name, [one.partition("/")[2] for one in names])
    return found


def check_app(partition: Partition, app: str) -> Operation[None]:
    """Refuse an app of which no function is registered or has runs. One round trip.

    Raises:
        FilterError: there is no such app.
    """
    names, _ = yield from _known_functions(partition)
    apps = {name.partition("/")[0] for name in names}
    if app not in apps:
        raise FilterError("app", f"there is no app {app!r}: {suggestion(app, apps, 'apps')}")


def _known_functions(partition: Partition) -> Operation[tuple[set[str], list[FunctionConfig]]]:
    """The functions that are registered, or that have runs."""
    configs, *parts = yield [read_functions(partition.keys), *[read_run_functions(one) for one in partition.all]]
    return {*(config.name for config in configs), *(name for part in parts for name in part)}, configs


def check_names(partition: Partition, wanted: RunQuery, known: Iterable[str]) -> Operation[None]:
    """Refuse a filter that finds nothing because it names what does not exist."""
    if not (wanted.functions or wanted.tags or wanted.error_group):
        return
    names, configs = yield from _known_functions(partition)
    names |= set(known)
    for name in wanted.functions:
        if name not in names:
            raise _no_function(name, names)
    tag_names = {tag.name for config in configs for tag in config.tags}
    if wanted.tags:
        parts = yield [read_tag_names(one) for one in partition.all]
        tag_names |= {name for part in parts for name in part}
    for name, _ in wanted.tags:
        if name not in tag_names and len(tag_names) < _MAX_TAG_NAMES:
            raise FilterError("tags", f"there is no tag {name!r}: {suggestion(name, tag_names, 'tags')}")
    if wanted.error_group and not (yield from _has_group(partition, wanted.error_group)):
        raise FilterError("error", f"there is no group of errors {wanted.error_group!r}: '{NAME} errors' lists them")


def _has_group(partition: Partition, group: str) -> Operation[bool]:
    counts = yield [
        command(int, "EXISTS", one.keys(kind, subject))
        for one in partition.all
        for kind, subject in (("ERROR_GROUP", group), ("INDEX", f"error {group}"))
    ]
    return any(counts)


def _no_function(name: str, known: Iterable[str]) -> FunctionNotFoundError:
    text = f"could not find function with ID: {name}: {suggestion(name, known, 'functions')}"
    return FunctionNotFoundError("", Failure("FunctionNotFoundError", text), function_id=name)
