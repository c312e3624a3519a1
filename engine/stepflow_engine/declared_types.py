"""Checks that a value comes back from JSON as what it was.

A declared type whose values cannot come back is refused before anything is executed. Whether a value comes back can
also depend on the value. Then it is refused when it is stored.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import ipaddress
import itertools
import pathlib
import types
import typing
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any

from pydantic import BaseModel, ConfigDict, PydanticUserError, TypeAdapter

from stepflow_engine.codec import (
    Restore,
    adapter_for,
    dumps_event,
    dumps_output,
    loads,
    order_of,
    restore,
    return_annotation,
)
from stepflow_engine.errors import EventError, StepOutputError
from stepflow_engine.model_json import find_secret, models_of

__all__ = ["check_event_data", "check_value", "plain_adapter", "refuse_unreadable_type", "storable_adapter"]

_SAMPLES: dict[Any, tuple[Any, ...]] = {
    type(None): (None,),
    bool: (True,),
    int: (1,),
    float: (1.5, 1.0),
    str: ("a",),
    bytes: (b"a",),
    decimal.Decimal: (decimal.Decimal("1.10"),),
    uuid.UUID: (uuid.UUID(int=1),),
    dt.date: (dt.date(2030, 1, 31),),
    dt.time: (dt.time(9, 30),),
    dt.datetime: (dt.datetime(2030, 1, 31), dt.datetime(2030, 1, 31, 9, 30, tzinfo=dt.UTC)),
    dt.timedelta: (dt.timedelta(hours=1),),
    pathlib.Path: (pathlib.Path("a"),),
    pathlib.PurePath: (pathlib.PurePath("a"),),
    ipaddress.IPv4Address: (ipaddress.IPv4Address(1),),
    ipaddress.IPv6Address: (ipaddress.IPv6Address(1),),
    list: ([1],),
    tuple: ((1,),),
    set: ({1},),
    frozenset: (frozenset({1}),),
    dict: ({"a": 1},),
}
"""Some values of each type. A union of types is refused if one of them would come back as another type."""
_PLAIN = (str, int, float, bool, type(None), list, dict)
_SEQUENCES = (list, tuple, deque)
_CONTAINERS = frozenset({"list", "set", "frozenset", "dict"})
_CONTENTS = frozenset({"items_schema", "keys_schema", "values_schema"})
_UNSTORED = "which is not stored or not read, would lose its value"
_MAX_SAMPLES = 100
_MAX_CHANGES = 1_000
_MANY = 1_000_000_000


def storable_adapter(handler: Callable[..., Any]) -> Restore | None:
    """The adapter that restores the result of a handler to its return annotation; ``None``: plain JSON data.

    Raises:
        ValueError: the type of the result is or has a secret, or its values do not come back.
    """
    annotation = return_annotation(handler)
    try:
        fault, adapter = _fault_and_adapter(annotation, order_of(annotation))
    except TypeError:  # not hashable, so it cannot be cached; pydantic knows no such type
        return None
    if fault:
        raise ValueError(fault)
    return adapter


@lru_cache(maxsize=1024)
def _fault_and_adapter(annotation: Any, order: str) -> tuple[str, Restore | None]:
    return _fault(annotation, order), None if annotation is None else adapter_for(annotation)


def plain_adapter(handler: Callable[..., Any]) -> Restore:
    """The adapter that checks a result which the handler has not returned, of a handler that declares plain data."""
    try:
        return _strict_adapter(return_annotation(handler) or Any)
    except TypeError:  # not hashable
        return _strict_adapter(Any)


@lru_cache(maxsize=1024)
def _strict_adapter(annotation: Any) -> Restore:
    try:
        return TypeAdapter(annotation, config=ConfigDict(strict=True))
    except PydanticUserError:  # a type that has a configuration of its own, or that pydantic does not know
        return TypeAdapter(Any)


def refuse_unreadable_type(annotation: Any) -> None:
    """Refuse a type whose values would not come back from JSON, before anything is executed.

    Raises:
        ValueError: the type is or has a secret, or some of its values would come back as others.
    """
    try:
        fault = _fault(annotation, order_of(annotation))
    except TypeError:  # not hashable; pydantic knows no such type
        return
    if fault:
        raise ValueError(fault)


@lru_cache(maxsize=1024)
def _fault(annotation: Any, _order: str) -> str:
    secret = find_secret(annotation)
    if secret:
        return (
            f"the result has the secret {secret}, which would be stored as {'*' * 10}: return plain text, which "
            "encryption protects, or a name under which the secret is stored elsewhere"
        )
    for model in models_of(annotation):
        for name, field in model.model_fields.items():
            if field.exclude and field.is_required():
                return (
                    f"the result has the field {model.__name__}.{name}, which is excluded, so it is not stored, and "
                    "the model cannot be read without it: give it a default, or store it"
                )
    return _sample_fault(annotation)


def _sample_fault(annotation: Any) -> str:
    """What is wrong with a type, found with samples of its values; ``""``: nothing that is known."""
    adapter = adapter_for(annotation)
    if adapter is None:
        return ""
    shown = _shown(annotation)
    for sample in itertools.islice(_samples(annotation), _MAX_SAMPLES):
        try:
            restored = restore(adapter, _as_json(sample), what="")
        except StepOutputError as error:
            return (
                f"the result is declared as {shown}, of which {sample!r} could not be stored and read back "
                f"({str(error).removeprefix(': ')}): declare another type"
            )
        if restored != sample:
            return (
                f"the result is declared as {shown}, of which {sample!r} would come back as {restored!r}: "
                "declare one of the types, or return a model that says which it is"
            )
    return ""


def _samples(annotation: Any) -> Iterator[Any]:
    """Some values of a type; none of a type about which nothing is known, such as a model."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is None or annotation in _SAMPLES:
        yield from _SAMPLES[annotation or type(None)]
    elif isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        yield from annotation
    elif origin is typing.Literal:
        yield from arguments
    elif origin in (typing.Union, types.UnionType):
        yield from _samples_of_union(arguments)
    elif origin in (list, set, frozenset, deque) and arguments:
        yield from (origin([item]) for item in _samples(arguments[0]))
    elif origin is tuple and arguments:
        members = [next(_samples(part), ...) for part in arguments if part is not ...]
        if ... not in members:
            yield tuple(members)
    elif origin is dict and arguments:
        values = list(_samples(arguments[1])) or [None] * (arguments[1] is Any)
        keys = list(_samples(arguments[0]))
        yield from ({key: values[0]} for key in keys if values)
        yield from ({keys[0]: value} for value in values if keys)


def _samples_of_union(members: tuple[Any, ...]) -> Iterator[Any]:
    """Samples of all members, and the same JSON as values of the member that is plain data."""
    for sample in itertools.chain.from_iterable(map(_samples, members)):
        yield sample
        try:
            plain = _as_json(sample)
        except StepOutputError:
            continue
        if type(plain) is not type(sample) and type(plain) in members:
            yield plain


def _as_json(value: Any) -> Any:
    return loads(dumps_output(value, what="", limit_bytes=_MANY))


def _shown(annotation: Any) -> str:
    return annotation.__name__ if isinstance(annotation, type) else str(annotation).replace("typing.", "")


# -- values ------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class _Change:
    """A part of a value that comes back as something else.

    Attributes:
        path: where it is, as in ``$.items[3]``.
        text: what it would come back as.
        is_lost: whether data would be lost. If not, the part has another type.
        is_plain: whether it comes back as plain data.
    """

    path: str
    text: str
    is_lost: bool = False
    is_plain: bool = False


def check_value(adapter: Restore, value: Any, data: Any, *, what: str) -> None:
    """Refuse a value that has the declared type and comes back as another value.

    A value of another type is converted to the declared type, such as a dict to a model. Where the type is open
    (``Any``), values come back as plain data: a date as text, a tuple as a list.

    Args:
        adapter: of the declared type.
        data: the value as plain JSON data.
        what: the step, function or event, for errors.

    Raises:
        StepOutputError: the data does not fit the declared type, data would be lost, or come back as another type.
    """
    _refuse_changed(adapter, value, restore(adapter, data, what=what), what)


def check_event_data(adapter: Restore | None, data: Any, *, limit_bytes: int) -> None:
    """Refuse a model as the data of an event, if the function that gets it would read another value.

    Data that does not fit the type is not refused here: the run fails, and names what does not fit.

    Args:
        adapter: of the data that the function declares; ``None``: it declares plain data.

    Raises:
        EventError: data would be lost, or come back as another type.
    """
    if adapter is None or not _has_fields(data):
        return
    plain = loads(dumps_event(data, limit_bytes=limit_bytes))
    try:
        restored = restore(adapter, plain, what="event data")
    except StepOutputError:
        return
    try:
        _refuse_changed(adapter, data, restored, "event data")
    except StepOutputError as error:
        raise EventError(str(error)) from None


def _refuse_changed(adapter: Restore, value: Any, restored: Any, what: str) -> None:
    changes = list(itertools.islice(_changes(value, restored, "$"), _MAX_CHANGES))
    changed = next((change for change in changes if change.is_lost), None)
    if changed is None and changes and _has_type(adapter, value):
        is_open = _is_open(adapter)
        changed = next((change for change in changes if not (is_open and change.is_plain)), None)
    if changed is not None:
        raise StepOutputError(
            f"{what}: {changed.text} at {changed.path}: declare it as the one type that it has, or pass plain data"
        )


def _changes(value: Any, restored: Any, path: str) -> Iterator[_Change]:
    if _are_equal(value, restored):
        return
    if _has_fields(value) and _has_fields(restored):
        yield from _changed_fields(value, restored, path)
    elif isinstance(value, dict) and isinstance(restored, dict) and value.keys() == restored.keys():
        for key in value:
            yield from _changes(value[key], restored[key], f"{path}.{key}")
    elif isinstance(value, _SEQUENCES) and isinstance(restored, _SEQUENCES) and len(value) == len(restored):
        for number, (one, other) in enumerate(zip(value, restored, strict=True)):
            yield from _changes(one, other, f"{path}[{number}]")
    elif type(value) is not type(restored) or not _has_same_json(value, restored):
        text = f"{_a(value)} would come back as {_a(restored)}"
        yield _Change(path, text, is_plain=isinstance(restored, _PLAIN))


def _changed_fields(value: Any, restored: Any, path: str) -> Iterator[_Change]:
    """The changes of a model or a dataclass."""
    fields, others = _fields_of(value), _fields_of(restored)
    if isinstance(value, type(restored)):
        lost = fields.keys() - others.keys()
        if lost:
            yield _Change(path, f"{_a(value)} would lose its fields {', '.join(sorted(lost))} as {_a(restored)}", True)
    elif not isinstance(restored, type(value)):
        yield _Change(path, f"{_a(value)} would come back as {_a(restored)}")
        return
    unstored = _unstored(type(restored))
    for name in fields.keys() & others.keys():
        inner = f"{path}.{name}"
        for change in _changes(fields[name], others[name], inner):
            yield _Change(inner, f"the field {name}, {_UNSTORED}", is_lost=True) if name in unstored else change
    for name, data in _private_data(value).items():
        if not _are_equal(data, _private_data(restored).get(name)):
            yield _Change(f"{path}.{name}", f"the private attribute {name} would lose its value", True)


def _has_fields(value: Any) -> bool:
    return isinstance(value, BaseModel) or (dataclasses.is_dataclass(value) and not isinstance(value, type))


def _fields_of(value: Any) -> dict[str, Any]:
    if isinstance(value, BaseModel):
        return {name: value.__dict__.get(name) for name in type(value).model_fields} | (value.model_extra or {})
    return {field.name: getattr(value, field.name, None) for field in dataclasses.fields(value)}


def _unstored(kind: type[Any]) -> set[str]:
    """The fields of a model or dataclass that JSON does not have, or that are not read from it."""
    if issubclass(kind, BaseModel):
        return {name for name, field in kind.model_fields.items() if field.exclude}
    return {field.name for field in dataclasses.fields(kind) if not field.init}


def _private_data(value: Any) -> dict[str, Any]:
    """The private attributes of a model that are data. Others, such as a lock, are made anew."""
    private = (getattr(value, "__pydantic_private__", None) or {}) if isinstance(value, BaseModel) else {}
    return {name: data for name, data in private.items() if isinstance(data, _PLAIN) and data is not None}


def _are_equal(value: Any, restored: Any) -> bool:
    try:
        return bool(value == restored)
    except Exception:  # noqa: BLE001  user code: it may compare in any way
        return False


def _has_same_json(value: Any, restored: Any) -> bool:
    """Whether two values that are not equal only lack a comparison."""
    if isinstance(value, _PLAIN):
        return False
    try:
        return bool(_as_json(value) == _as_json(restored))
    except StepOutputError:
        return False


def _has_type(adapter: Restore, value: Any) -> bool:
    try:
        return _are_equal(adapter.validate_python(value, strict=True), value)
    except Exception:  # noqa: BLE001  user code: validators
        return False


def _is_open(adapter: Restore) -> bool:
    """Whether the declared type has parts that do not say what they contain."""
    waiting: list[Any] = [adapter.core_schema]
    while waiting:
        part = waiting.pop()
        if isinstance(part, Mapping):
            if part.get("type") == "any" or part.get("extra_fields_behavior") == "allow":
                return True
            if part.get("type") in _CONTAINERS and not part.keys() & _CONTENTS:
                return True
            waiting += part.values()
        elif isinstance(part, list | tuple):
            waiting += part
    return False


def _a(value: Any) -> str:
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiAEI' else 'a'} {name}"
