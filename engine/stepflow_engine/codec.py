"""JSON in and out: what a step returns is what every later pass is given.

The rule is an equal round trip or a typed error. A value that JSON cannot hold (NaN, an integer over 64 bits,
a lone surrogate, nesting that is too deep) is refused here, where the code that made it can still be named.
"""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import orjson
from pydantic import PydanticUserError, TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError, to_jsonable_python

from stepflow_engine.errors import EventError, StepOutputError

__all__ = [
    "Restore",
    "adapter_for",
    "dumps",
    "dumps_event",
    "dumps_output",
    "loads",
    "pretty",
    "restore",
    "result_adapter",
    "round_trip",
    "validation_message",
]

Restore = TypeAdapter[Any]
_PLAIN = frozenset({None, type(None), bool, int, float, str, dict, list, object, Any, "None"})
_SCALARS = frozenset({type(None), bool, int, float, str})
_RESOLVED: dict[tuple[types.CodeType | None, int], Any] = {}
_MOST_RESOLVED = 4096
_PLAIN_ORIGINS = frozenset({dict, list})


class _NotJsonError(ValueError):
    """The value has no JSON form; the message says where and why."""


def loads(text: bytes | str) -> Any:
    """Parse JSON text that stepflow wrote."""
    return orjson.loads(text)


def dumps(value: Any) -> bytes:
    """JSON text of a value that is known to be JSON (stepflow's own records)."""
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
        text = _encode(data)
    except _NotJsonError as error:
        raise EventError(f"the event's data is not JSON: {error}") from error
    if len(text) > limit_bytes:
        raise EventError(
            f"the event's data is {len(text):,} bytes of JSON; at most {limit_bytes:,} are accepted: "
            "store it elsewhere and send a reference to it"
        )
    return text


def dumps_output(value: Any, *, what: str, limit_bytes: int) -> bytes:
    """JSON text of what a step or a function returned.

    Args:
        value: the result.
        what: names the step or function in an error.
        limit_bytes: the most bytes of JSON that are accepted.

    Raises:
        StepOutputError: the result is not JSON, or its text is over the limit.
    """
    try:
        text = _encode(value)
    except _NotJsonError as error:
        raise StepOutputError(f"the result of {what} is not JSON: {error}; return plain data or a model") from error
    if len(text) > limit_bytes:
        raise StepOutputError(
            f"the result of {what} is {len(text):,} bytes of JSON; at most {limit_bytes:,} are accepted: "
            "store it elsewhere and return a reference to it"
        )
    return text


def _encode(value: Any) -> bytes:
    try:
        text = orjson.dumps(value, default=to_jsonable_python)
    except TypeError as error:
        text = _encode_odd(value, error)
    if b"null" in text:
        _refuse_not_finite(value)
    return text


def _encode_odd(value: Any, first: TypeError) -> bytes:
    """Try again with keys that are not text; say what is wrong if that fails too."""
    try:
        text = orjson.dumps(value, default=to_jsonable_python, option=orjson.OPT_NON_STR_KEYS)
        orjson.loads(text)
    except (TypeError, ValueError) as error:
        reason = first.__cause__ if isinstance(first.__cause__, PydanticSerializationError) else error
        raise _NotJsonError(f"{_find_fault(value)}{reason}") from error
    return text


def _find_fault(value: Any, path: str = "$") -> str:
    """The path of the first part of ``value`` that JSON cannot hold, as ``"at $.user.id: "``."""
    items: Any = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list | tuple):
        items = enumerate(value)
    if path.count(".") + path.count("[") < 20:
        for name, item in items:
            try:
                orjson.dumps(item, default=to_jsonable_python, option=orjson.OPT_NON_STR_KEYS)
            except TypeError:
                inner = f"{path}[{name}]" if isinstance(name, int) else f"{path}.{name}"
                return _find_fault(item, inner)
    return "" if path == "$" else f"at {path}: "


def _refuse_not_finite(value: Any) -> None:
    """Refuse NaN and infinities, which orjson writes as null."""
    stack: list[Any] = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, float):
            if not math.isfinite(item):
                raise _NotJsonError(f"it contains {item!r}, which JSON has no number for")
        elif isinstance(item, dict):
            stack.extend(item.values())
        elif isinstance(item, list | tuple | set | frozenset):
            stack.extend(item)
        elif hasattr(item, "__dataclass_fields__") or hasattr(item, "model_fields_set"):
            stack.extend(vars(item).values() if hasattr(item, "__dict__") else ())


def round_trip(value: Any, text: bytes) -> Any:
    """The value that ``text``, its JSON, is read back as."""
    return value if type(value) in _SCALARS else orjson.loads(text)


# -- typed results -----------------------------------------------------------


@lru_cache(maxsize=1024)
def adapter_for(annotation: Any) -> Restore | None:
    """What restores JSON data to ``annotation``; ``None`` when plain JSON data already is it.

    Types that pydantic does not know (a class of the user's own) are left as plain data.
    """
    if annotation in _PLAIN:
        return None
    if typing.get_origin(annotation) in _PLAIN_ORIGINS and _all_plain(annotation):
        return None
    if isinstance(annotation, types.UnionType) and _all_plain(annotation):
        return None
    try:
        adapter: Restore = TypeAdapter(annotation)  # pyright: ignore[reportArgumentType]
    except (PydanticUserError, TypeError, NameError):
        return None
    return adapter


def _all_plain(annotation: Any) -> bool:
    return all(
        part in _PLAIN or (typing.get_origin(part) in _PLAIN_ORIGINS and _all_plain(part))
        for part in typing.get_args(annotation)
    )


def result_adapter(handler: Callable[..., Any]) -> Restore | None:
    """What restores the JSON of a handler's result to its return annotation, if it has a telling one."""
    function = getattr(handler, "__func__", None) or getattr(handler, "func", None) or handler
    annotations = getattr(function, "__annotations__", None)
    if not annotations:
        return None
    annotation = annotations.get("return")
    if isinstance(annotation, str) and annotation not in _PLAIN:
        annotation = _resolve(function)
    try:
        return adapter_for(annotation)
    except TypeError:  # an annotation that cannot be hashed cannot be cached, and none that pydantic knows is such
        return None


def _resolve(function: Callable[..., Any]) -> Any:
    """The type that a return annotation written as text stands for, remembered by code and module."""
    place = (getattr(function, "__code__", None), id(getattr(function, "__globals__", None)))
    if place not in _RESOLVED:
        if len(_RESOLVED) >= _MOST_RESOLVED:
            _RESOLVED.clear()
        try:
            _RESOLVED[place] = typing.get_type_hints(function).get("return")
        except (NameError, TypeError, AttributeError):
            _RESOLVED[place] = None
    return _RESOLVED[place]


def restore(adapter: Restore | None, data: Any, *, what: str) -> Any:
    """Give ``data`` the type that the code declares for it.

    Raises:
        StepOutputError: the data does not fit the declared type.
    """
    if adapter is None:
        return data
    try:
        return adapter.validate_python(data)
    except ValidationError as error:
        raise StepOutputError(
            f"the result of {what} does not fit its declared return type: {validation_message(error)}"
        ) from error


def validation_message(error: ValidationError) -> str:
    """What pydantic found, in one line."""
    parts = []
    for item in error.errors(include_url=False, include_context=False):
        where = ".".join(str(part) for part in item["loc"])
        parts.append(f"{where}: {item['msg']}" if where else item["msg"])
    return "; ".join(parts)
