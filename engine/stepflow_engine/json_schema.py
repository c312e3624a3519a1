"""JSON schemas: check one, and compare data with it. Nothing is read from the network."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from functools import cache
from typing import Any

from pydantic import TypeAdapter, ValidationError

__all__ = ["Misfit", "SchemaError", "check_schema", "misfits"]

_TIMES = {"date-time": datetime, "date": date, "time": time, "duration": timedelta}
"""The formats that pydantic reads, and so must find as it reads them."""
_LONGEST = 300


class SchemaError(ValueError):
    """A value is no JSON schema, or refers to one that is elsewhere."""


@dataclass(frozen=True, slots=True)
class Misfit:
    """A part of some data that does not fit a schema.

    Attributes:
        path: where it is: ``$`` the whole, ``$.items[0].price`` a part.
        text: what is wrong, and what is allowed.
    """

    path: str
    text: str


def check_schema(schema: Any) -> None:
    """Check that a value is a JSON schema (draft 2020-12) which is complete in itself.

    Raises:
        SchemaError: it is none.
    """
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError as InvalidSchema
    from referencing import Registry
    from referencing.exceptions import Unresolvable
    from referencing.jsonschema import DRAFT202012

    try:
        Draft202012Validator.check_schema(schema)
    except InvalidSchema as error:
        raise SchemaError(f"{error.json_path}: {error.message:.{_LONGEST}}") from None
    resolver = Registry().with_resource("", DRAFT202012.create_resource(schema)).resolver()
    for reference in _references(schema):
        try:
            resolver.lookup(reference)
        except Unresolvable:
            raise SchemaError(
                f"$ref must refer to a part of the schema itself, as in '#/$defs/item', got {reference!r:.100}"
            ) from None


def misfits(schema: Any, data: Any) -> list[Misfit]:
    """How data does not fit a schema, the outermost part first; empty: it fits.

    Raises:
        SchemaError: the value is no JSON schema.
    """
    from jsonschema.exceptions import best_match

    check_schema(schema)
    errors = [best_match([error]) or error for error in _validator(schema).iter_errors(data)]
    errors.sort(key=lambda error: (len(error.absolute_path), error.json_path))
    return [Misfit(error.json_path, f"{error.message:.{_LONGEST}}") for error in errors]


def _validator(schema: Any) -> Any:
    from jsonschema import Draft202012Validator
    from referencing import Registry

    return Draft202012Validator(schema, registry=Registry(), format_checker=_formats())


@cache
def _formats() -> Any:
    from jsonschema import Draft202012Validator, FormatChecker

    known = Draft202012Validator.FORMAT_CHECKER.checkers
    checker = FormatChecker(formats=[name for name in known if name in FormatChecker.checkers and name not in _TIMES])
    for name, kind in _TIMES.items():
        checker.checks(name, raises=ValidationError)(_reads(TypeAdapter(kind)))
    return checker


def _reads(adapter: TypeAdapter[Any]) -> Any:
    def check(value: object) -> bool:
        if isinstance(value, str):
            adapter.validate_python(value)
        return True

    return check


def _references(schema: Any) -> Iterator[str]:
    stack = [schema]
    while stack:
        part = stack.pop()
        if isinstance(part, dict):
            reference = part.get("$ref", part.get("$dynamicRef"))
            if isinstance(reference, str):
                yield reference
            stack.extend(part.values())
        elif isinstance(part, list):
            stack.extend(part)
