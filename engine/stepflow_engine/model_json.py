"""Models of pydantic as JSON that gives the same model again, and the types for which there is none."""

from __future__ import annotations

import io
import typing
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import orjson
import pydantic
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

__all__ = ["find_secret", "is_file", "is_secret", "models_of", "plain_model", "type_parts"]

_SECRETS = (pydantic.SecretStr, pydantic.SecretBytes, pydantic.Secret)


def is_secret(value: object) -> bool:
    """Whether pydantic would write asterisks in the place of a value."""
    return isinstance(value, _SECRETS)


def is_file(value: object) -> bool:
    """Whether a value is an open file or another stream, of which pydantic would write what is left to read."""
    if isinstance(value, io.IOBase):
        return True
    try:
        return callable(getattr(value, "read", None)) and hasattr(value, "__next__")
    except Exception:  # noqa: BLE001  user code: it is no file, whatever it is
        return False


def plain_model(model: BaseModel) -> Any:
    """A model as plain data: with the names that it writes and its computed fields, if it can be read from that.

    Otherwise by the names of its fields and without computed fields, which pydantic reads if it is asked to.
    """
    plain = to_jsonable_python(model)
    if not _needs_check(type(model)) or _is_read_from(model, plain):
        return plain
    by_name = to_jsonable_python(model, by_alias=False, round_trip=True)
    return by_name if _is_read_from(model, by_name) else plain


def _is_read_from(model: BaseModel, plain: Any) -> bool:
    try:
        return bool(type(model).model_validate_json(orjson.dumps(plain), by_alias=True, by_name=True) == model)
    except Exception:  # noqa: BLE001  user code: validators and comparisons
        return False


@lru_cache(maxsize=1024)
def _needs_check(kind: type[BaseModel]) -> bool:
    """Whether what a model writes may differ from what it reads: an alias or a computed field in it or its parts."""
    return any(one.model_computed_fields or any(map(_has_alias, one.model_fields.values())) for one in models_of(kind))


def _has_alias(field: FieldInfo) -> bool:
    return any((field.alias, field.serialization_alias, field.validation_alias))


@lru_cache(maxsize=1024)
def find_secret(annotation: Any) -> str:
    """Where a type has a secret that would be stored as asterisks, such as ``Login.password``; ``""``: nowhere."""
    if _is_secret_type(annotation):
        return str(annotation.__name__)
    for model in models_of(annotation):
        decorators = model.__pydantic_decorators__
        revealed = {name for one in decorators.field_serializers.values() for name in one.info.fields}
        for name, field in model.model_fields.items():
            hidden = any(_is_secret_type(part) for part in type_parts(field.annotation))
            if hidden and not field.exclude and not revealed & {name, "*"} and not decorators.model_serializers:
                return f"{model.__name__}.{name}"
    return ""


def _is_secret_type(annotation: Any) -> bool:
    origin = typing.get_origin(annotation) or annotation
    return isinstance(origin, type) and issubclass(origin, _SECRETS)


def models_of(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models that a type consists of."""
    known: set[type[BaseModel]] = set()
    waiting = list(type_parts(annotation))
    while waiting:
        part = waiting.pop()
        if isinstance(part, type) and issubclass(part, BaseModel) and part not in known:
            known.add(part)
            yield part
            waiting += [inner for field in part.model_fields.values() for inner in type_parts(field.annotation)]


def type_parts(annotation: Any) -> Iterator[Any]:
    """A type and its arguments, at all levels."""
    yield annotation
    for argument in typing.get_args(annotation):
        yield from type_parts(argument)
