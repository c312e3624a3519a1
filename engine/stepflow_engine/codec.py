"""JSON encoding: every replay reads the result that the step has returned.

A value either survives the round trip unchanged or raises a typed error. A value without a JSON form (NaN, an integer
over 64 bits, a lone surrogate, too many levels) is refused here, where the error can still name the code that made it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import enum
import logging
import math
import sys
import types
import typing
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any

import orjson
import typing_extensions
from pydantic import BaseModel, PydanticUserError, TypeAdapter, ValidationError
from pydantic_core import to_jsonable_python

from stepflow_engine.callables import undecorated
from stepflow_engine.errors import EventError, StepOutputError
from stepflow_engine.failure import Failure
from stepflow_engine.model_json import is_file, is_secret, plain_model
from stepflow_engine.product import NAME

__all__ = [
    "Restore",
    "adapter_for",
    "dumps",
    "dumps_checked",
    "dumps_event",
    "dumps_if_json",
    "dumps_output",
    "loads",
    "order_of",
    "pretty",
    "resolve_annotation",
    "restore",
    "result_adapter",
    "return_annotation",
    "round_trip",
    "validation_message",
]

Restore = TypeAdapter[Any]
_log = logging.getLogger(f"{NAME}.worker")
_PLAIN = frozenset({None, type(None), bool, int, float, str, dict, list, object, Any, "None"})
_OPTIONS = orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME
_MAX_LEVELS = 1_000
"""The largest number of nested levels. orjson reads 1,024, and a memo adds some."""
_SCALARS = frozenset({type(None), bool, int, float, str})
_RESOLVED: dict[int, tuple[types.CodeType, Any, Any]] = {}
"""Code and globals of a function, and its return type; by the id of the code, of which the hash costs a microsecond."""
_ORDERS: dict[int, tuple[Any, str]] = {}
"""By the id of a type, which it holds, so that no other type gets this id."""
_MAX_RESOLVED = 4096
_PARTED = (dict, list, tuple, enum.Enum)
_PLAIN_ORIGINS = frozenset({dict, list})
_ITERABLES = frozenset({Iterable, Iterator, Generator})


class _NotJsonError(ValueError):
    """The value has no JSON form; the message says where and why."""


class _TooLongError(Exception):
    """The text of the value is over the limit; the message is its size in bytes."""


def loads(text: bytes | str) -> Any:
    """Parse JSON text that stepflow wrote."""
    return orjson.loads(text)


def dumps(value: Any) -> bytes:
    """JSON text of a value that is known to be JSON, such as a record of stepflow."""
    return orjson.dumps(value)


def pretty(value: Any) -> str:
    """JSON text for people and scripts, indented."""
    return orjson.dumps(value, option=orjson.OPT_INDENT_2, default=to_jsonable_python).decode()


def dumps_event(data: Any, *, limit_bytes: int) -> bytes:
    """JSON text of an event's data.

    Raises:
        EventError: the data is not JSON, or its text is over ``limit_bytes``.
    """
    try:
        return _encode_user_value(data, limit_bytes, Exception)
    except _NotJsonError as error:
        raise EventError(f"event data must be JSON ({error}): send plain data or a model") from error
    except _TooLongError as error:
        raise EventError(
            f"event data must be at most {limit_bytes:,} bytes of JSON, got {error}: "
            "store it elsewhere and send a reference to it"
        ) from None


def dumps_output(value: Any, *, what: str, limit_bytes: int) -> bytes:
    """JSON text of the result of a step or a function.

    Args:
        value: the result.
        what: the step or function, for errors.
        limit_bytes: the largest size, in bytes of JSON.

    Raises:
        StepOutputError: the result is not JSON, or its text is over the limit.
    """
    try:
        return _encode_user_value(value, limit_bytes)
    except _NotJsonError as error:
        raise StepOutputError(f"{what}: result must be JSON ({error}): return plain data or a model") from error
    except _TooLongError as error:
        raise StepOutputError(
            f"{what}: result must be at most {limit_bytes:,} bytes of JSON, got {error}: "
            "store it elsewhere and return a reference to it"
        ) from None


def dumps_checked(value: Any, *, what: str, limit_bytes: int, refuse: Callable[[str], Exception]) -> bytes:
    """JSON text of a value of the caller, other than the data of an event and a result.

    Args:
        value: the value.
        what: what it is, for errors.
        limit_bytes: the largest size, in bytes of JSON.
        refuse: makes the error of a message. It is raised if the value is not JSON, or its text is over the limit.
    """
    try:
        return _encode_user_value(value, limit_bytes, Exception)
    except _NotJsonError as error:
        raise refuse(f"{what} must be JSON ({error}): pass plain data or a model") from error
    except _TooLongError as error:
        raise refuse(
            f"{what} must be at most {limit_bytes:,} bytes of JSON, got {error}: "
            "store it elsewhere and pass a reference to it"
        ) from None


def dumps_if_json(value: Any) -> bytes | None:
    """JSON text of a value of the caller; ``None``: it has none."""
    try:
        return _encode_user_value(value, sys.maxsize, Exception)
    except _NotJsonError:
        return None


def _encode_user_value(value: Any, limit_bytes: int, guarded: type[BaseException] = BaseException) -> bytes:
    """JSON text of a value whose code may raise anything.

    Args:
        limit_bytes: the largest size, in bytes.
        guarded: what becomes an error of the value. In a producer, Ctrl+C and the exception of a signal handler pass.
    """
    try:
        return _encode(value, limit_bytes)
    except (_NotJsonError, _TooLongError):
        raise
    except guarded as error:  # user code: an object may compute what it contains
        failure = Failure.of(error)
        raise _NotJsonError(f"reading it raised {failure.name}: {failure.message}") from error


def _encode(value: Any, limit_bytes: int) -> bytes:
    if type(value) in _SCALARS and not isinstance(value, float):
        return _within(_encode_scalar(value), limit_bytes)
    _refuse_deep(value)
    to_plain = _ToPlain()
    try:
        text = orjson.dumps(value, default=to_plain, option=_OPTIONS)
    except TypeError as error:
        text = _encode_with_any_keys(value, to_plain, error)
    _within(text, limit_bytes)  # first: what follows may take a second for millions of values
    if b"null" in text:
        _refuse_values_without_json(value)
    if to_plain.has_converted and text.count(b"[") + text.count(b"{") > _MAX_LEVELS:
        _refuse_unreadable(text)  # what was converted may have levels that the value did not show
    return text


def _within(text: bytes, limit_bytes: int) -> bytes:
    if len(text) > limit_bytes:
        raise _TooLongError(f"{len(text):,}")
    return text


def _encode_scalar(value: Any) -> bytes:
    try:
        return orjson.dumps(value)
    except TypeError as error:
        raise _NotJsonError(str(error)) from error


def _encode_with_any_keys(value: Any, to_plain: _ToPlain, first: TypeError) -> bytes:
    """Encode again and accept keys that are not text. If that fails too, the error says what is wrong."""
    if isinstance(first.__cause__, _NotJsonError):
        raise first.__cause__
    if first.__cause__ is not None and not isinstance(first.__cause__, Exception):
        raise first.__cause__  # Ctrl+C, for example
    try:
        _refuse_duplicate_keys(value)
        return orjson.dumps(value, default=to_plain, option=_OPTIONS | orjson.OPT_NON_STR_KEYS)
    except (TypeError, ValueError) as error:
        reason = first.__cause__ or error
        raise _NotJsonError(f"{_locate_error(value, to_plain)}{reason}") from error


class _ToPlain:
    """Converts objects that orjson does not know to plain data; once each: a generator can be read only once."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[int, tuple[Any, Any]] = {}

    @property
    def has_converted(self) -> bool:
        """Whether it has converted anything that may contain more values."""
        return bool(self._known)

    def __call__(self, item: Any) -> Any:
        if isinstance(item, dt.datetime | dt.date | dt.time):
            return item.isoformat()
        _refuse_without_json(item)
        known = self._known.get(id(item))
        if known is None:
            is_model = isinstance(item, BaseModel)
            # what pydantic converts in one go: its JSON no longer shows NaN, secrets and files
            _refuse_values_without_json(item.model_dump() if is_model else item)
            if dataclasses.is_dataclass(item):
                plain = _fields(item)
            else:
                plain = plain_model(item) if is_model else to_jsonable_python(item)
            _refuse_deep(plain)
            if not is_model:
                _refuse_values_without_json(plain)
            known = self._known[id(item)] = (item, plain)
        return known[1]


def _fields(item: Any) -> dict[str, Any]:
    return {field.name: getattr(item, field.name) for field in dataclasses.fields(item)}


def _refuse_deep(value: Any) -> None:
    """Refuse data with more levels than can be read back, before an encoder recurses into it."""
    level = {id(value): value}
    for _ in range(_MAX_LEVELS):
        inner = (part for item in level.values() for part in _parts(item))
        level = {id(part): part for part in inner if isinstance(part, _PARTED)}
        if not level:
            return
    raise _NotJsonError(f"more than {_MAX_LEVELS:,} levels")


def _parts(item: Any) -> Iterable[Any]:
    if isinstance(item, dict):
        return item.values()
    if isinstance(item, enum.Enum):
        return (item.value,)
    return item if isinstance(item, list | tuple) else ()


def _refuse_unreadable(text: bytes) -> None:
    """Refuse text with more levels than can be read back inside a memo."""
    try:
        orjson.loads(b"[[[[" + text + b"]]]]")
    except ValueError:
        raise _NotJsonError(f"more than {_MAX_LEVELS:,} levels") from None


def _refuse_duplicate_keys(value: Any) -> None:
    """Refuse different keys with the same text: JSON would lose one of them."""
    stack = [value]
    while stack:
        item = stack.pop()
        if dataclasses.is_dataclass(item):
            item = _fields(item)
        stack.extend(_parts(item))
        if isinstance(item, dict):
            if None in item:
                raise ValueError("None is a key of an object, which JSON would make the text null")
            text = orjson.dumps(dict.fromkeys(item, 0), option=orjson.OPT_NON_STR_KEYS)
            if len(orjson.loads(text)) < len(item):
                raise ValueError("two keys of an object have the same text")


def _locate_error(value: Any, to_plain: _ToPlain, path: str = "$") -> str:
    """The path of the first part of ``value`` without a JSON form, as in ``"at $.user.id: "``."""
    items: Any = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list | tuple):
        items = enumerate(value)
    if path.count(".") + path.count("[") < 20:
        for name, item in items:
            try:
                orjson.dumps(item, default=to_plain, option=_OPTIONS | orjson.OPT_NON_STR_KEYS)
            except TypeError:
                inner = f"{path}[{name}]" if isinstance(name, int) else f"{path}.{name}"
                return _locate_error(item, to_plain, inner)
    return "" if path == "$" else f"at {path}: "


_LISTS = (set, frozenset, deque)
"""The other types of a model that become a list in JSON."""


def _refuse_without_json(item: Any) -> None:
    """Refuse a secret and an open file, which pydantic writes as something else."""
    if is_secret(item):
        raise _NotJsonError(f"a {type(item).__name__} would be stored as {'*' * 10}: store the secret elsewhere")
    if is_file(item):
        raise _NotJsonError(f"a {type(item).__name__} is an open file or stream: read it")


def _refuse_values_without_json(value: Any) -> None:
    """Refuse NaN and infinities, which orjson writes as null, and what `_refuse_without_json` refuses."""
    stack: list[Any] = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, enum.Enum):
            item = item.value
        if isinstance(item, float) and not math.isfinite(item):
            raise _NotJsonError(f"{item!r} has no JSON form")
        if type(item) not in _SCALARS:
            _refuse_without_json(item)
        if isinstance(item, dict):
            stack.extend(item)
        stack.extend(item if isinstance(item, _LISTS) else _parts(item))


def round_trip(value: Any, text: bytes) -> Any:
    """The value that its JSON ``text`` is parsed to."""
    return value if type(value) in _SCALARS else orjson.loads(text)


# -- typed results -----------------------------------------------------------


def adapter_for(annotation: Any) -> Restore | None:
    """The adapter that restores JSON data to the type ``annotation``; ``None``: plain JSON data already has the type.

    Data of a type that pydantic does not know, such as a class of the user, stays plain.
    """
    return _adapter(annotation, order_of(annotation))


def order_of(annotation: Any) -> str:
    """What distinguishes types that are equal, for caches: ``A | B`` equals ``B | A``, but is read in another order."""
    if annotation is None or isinstance(annotation, type):
        return ""
    known = _ORDERS.get(id(annotation))
    if known is None or known[0] is not annotation:
        if len(_ORDERS) >= _MAX_RESOLVED:
            _ORDERS.clear()
        known = _ORDERS[id(annotation)] = (annotation, repr(annotation))
    return known[1]


@lru_cache(maxsize=1024)
def _adapter(annotation: Any, _order: str) -> Restore | None:
    if annotation in _PLAIN:
        return None
    if typing.get_origin(annotation) in _ITERABLES:  # what an iterable yields is stored as a list
        return adapter_for(list[typing.get_args(annotation)[0]])  # type: ignore[misc]
    if typing.get_origin(annotation) in _PLAIN_ORIGINS and _all_plain(annotation):
        return None
    if isinstance(annotation, types.UnionType) and _all_plain(annotation):
        return None
    try:
        adapter: Restore = TypeAdapter(annotation)  # pyright: ignore[reportArgumentType]
    except (PydanticUserError, TypeError, NameError):
        return adapter_for(_restorable(annotation)) if typing.is_typeddict(annotation) else None
    return adapter


def _restorable(typed_dict: Any) -> Any:
    """A TypedDict of `typing` as one of typing_extensions: before Python 3.12, pydantic reads only those."""
    fields = {
        name: hint if name in typed_dict.__required_keys__ else typing_extensions.NotRequired[hint]
        for name, hint in typing.get_type_hints(typed_dict).items()
    }
    return typing_extensions.TypedDict(typed_dict.__name__, fields)  # type: ignore[operator]


def _all_plain(annotation: Any) -> bool:
    return all(
        part in _PLAIN or (typing.get_origin(part) in _PLAIN_ORIGINS and _all_plain(part))
        for part in typing.get_args(annotation)
    ) and not (typing.get_origin(annotation) is dict and typing.get_args(annotation)[0] not in (str, Any))


def result_adapter(handler: Callable[..., Any]) -> Restore | None:
    """The adapter that restores the result of a handler to its return annotation; ``None``: plain JSON data."""
    annotation = return_annotation(handler)
    if annotation is None:
        return None
    try:
        return adapter_for(annotation)
    except TypeError:  # not hashable, so it cannot be cached; pydantic knows no such type
        return None


def return_annotation(handler: Callable[..., Any]) -> Any:
    """The type that a handler declares for its result; ``None``: none, or one that cannot be resolved."""
    function = undecorated(handler)
    annotations = getattr(function, "__annotations__", None)
    if not annotations or isinstance(function, type):
        return None
    annotation = annotations.get("return")
    return _resolve(function) if isinstance(annotation, str) and annotation not in _PLAIN else annotation


def _resolve(function: Callable[..., Any]) -> Any:
    """The type of a return annotation that is written as text; cached by code and module."""
    code, names = getattr(function, "__code__", None), getattr(function, "__globals__", None)
    known = _RESOLVED.get(id(code))
    if known is not None and known[0] is code and known[1] is names:
        return known[2]
    annotation = None
    try:
        annotation = resolve_annotation(function, "return")
    except (NameError, TypeError, AttributeError, SyntaxError) as error:
        _log.warning("annotation_unresolved", extra={"handler": _name(function), "error": str(error)})
    if code is not None:
        if len(_RESOLVED) >= _MAX_RESOLVED:
            _RESOLVED.clear()
        _RESOLVED[id(code)] = (code, names, annotation)
    return annotation


def resolve_annotation(function: Callable[..., Any], name: str, namespace: Mapping[str, Any] | None = None) -> Any:
    """The type of one annotation of a function; ``None``: it has no such annotation. Others need not be resolvable.

    Args:
        name: the name of the parameter, or ``return``.
        namespace: more names that the annotation can use.

    Raises:
        NameError, TypeError, AttributeError, SyntaxError: the annotation cannot be resolved.
    """
    annotations = getattr(function, "__annotations__", {})
    if name not in annotations:
        return None

    def only() -> None: ...

    only.__annotations__ = {name: annotations[name]}
    only.__type_params__ = getattr(function, "__type_params__", ())  # type: ignore[attr-defined]
    names = {**_closure(function), **(namespace or {})}
    hint = typing.get_type_hints(only, globalns=getattr(function, "__globals__", {}), localns=names)[name]
    return None if hint is type(None) else hint


def _closure(function: Callable[..., Any]) -> dict[str, Any]:
    """The names of enclosing functions that the code of a function uses."""
    names = getattr(getattr(function, "__code__", None), "co_freevars", ())
    cells = zip(names, getattr(function, "__closure__", None) or (), strict=False)
    known = {}
    for name, cell in cells:
        with contextlib.suppress(ValueError):  # the name has no value yet
            known[name] = cell.cell_contents
    return known


def _name(function: Callable[..., Any]) -> str:
    return str(getattr(function, "__qualname__", type(function).__qualname__))


def restore(adapter: Restore | None, data: Any, *, what: str) -> Any:
    """Convert ``data`` to the type that the code declares for it.

    Raises:
        StepOutputError: the data does not fit the declared type.
    """
    if adapter is None:
        return data
    try:
        return adapter.validate_json(orjson.dumps(data), by_alias=True, by_name=True)
    except ValidationError as error:
        raise StepOutputError(
            f"{what}: result does not fit the declared return type: {validation_message(error)}"
        ) from error
    except BaseException as error:  # user code: a validator
        failure = Failure.of(error)
        raise StepOutputError(
            f"{what}: the declared return type cannot read the result: {failure.name}: {failure.message}"
        ) from error


def validation_message(error: ValidationError) -> str:
    """The errors of pydantic in one line."""
    parts = []
    for item in error.errors(include_url=False, include_context=False):
        where = ".".join(str(part) for part in item["loc"])
        parts.append(f"{where}: {item['msg']}" if where else item["msg"])
    return "; ".join(parts)
