"""The schema of an ask: what the code expects, and the JSON schema that an answer must fit."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from pydantic import TypeAdapter
from pydantic.errors import PydanticUserError

from stepflow_engine.codec import Restore, adapter_for, dumps, dumps_checked, loads, order_of
from stepflow_engine.declared_types import refuse_unreadable_type
from stepflow_engine.errors import StepUsageError
from stepflow_engine.json_schema import SchemaError, check_schema

__all__ = ["MAX_SCHEMA_BYTES", "AnswerType", "answer_type"]

MAX_SCHEMA_BYTES = 64 * 1024
"""The largest JSON schema of an ask."""
_FORMS = (
    "pass a pydantic model, another type with annotations such as a dataclass or a TypedDict, "
    'or a JSON schema such as {"type": "boolean"}'
)


class AnswerType:
    """What an answer must be.

    Attributes:
        schema: the JSON schema, as JSON text.
        adapter: restores an answer to the declared type; ``None``: plain JSON data.
    """

    __slots__ = ("adapter", "schema")

    def __init__(self, schema: bytes, adapter: Restore | None) -> None:
        self.schema = schema
        self.adapter = adapter


def answer_type(schema: Any) -> AnswerType:
    """What the code passes as ``schema``: a type, or a JSON schema.

    Raises:
        StepUsageError: it is neither, or its JSON schema is over the limit.
    """
    if isinstance(schema, dict):
        text = dumps_checked(schema, what="ask: schema", limit_bytes=MAX_SCHEMA_BYTES, refuse=StepUsageError)
        return _of_json_schema(text)
    try:
        return _of_type(schema, order_of(schema))
    except TypeError:  # not hashable
        raise _refusal(schema) from None


@lru_cache(maxsize=256)
def _of_json_schema(text: bytes) -> AnswerType:
    try:
        check_schema(loads(text))
    except SchemaError as error:
        raise StepUsageError(f"ask: schema must be a JSON schema (draft 2020-12): {error}") from None
    return AnswerType(text, None)


@lru_cache(maxsize=256)
def _of_type(annotation: Any, _order: str) -> AnswerType:
    if annotation is None or not _is_type(annotation):
        raise _refusal(annotation)
    try:
        refuse_unreadable_type(annotation)
        adapter = adapter_for(annotation)
        described = adapter if isinstance(adapter, TypeAdapter) else TypeAdapter(annotation)
        schema = dumps(described.json_schema())
    except (PydanticUserError, NameError) as error:
        text = str(error).partition("\n")[0]
        raise StepUsageError(f"ask: {annotation!r} has no JSON schema ({text}): {_FORMS}") from None
    except ValueError as error:
        raise StepUsageError(
            f"ask: schema {annotation!r}: {error}".replace("the result has", "the answer has")
        ) from None
    if len(schema) > MAX_SCHEMA_BYTES:
        raise StepUsageError(
            f"ask: the JSON schema must be at most {MAX_SCHEMA_BYTES:,} bytes, got {len(schema):,}: ask for less"
        )
    return AnswerType(schema, adapter)


def _is_type(value: Any) -> bool:
    """Whether a value is a type or an annotation; pydantic takes some plain values for annotations."""
    return isinstance(value, type) or hasattr(value, "__origin__") or hasattr(value, "__args__")


def _refusal(schema: Any) -> StepUsageError:
    return StepUsageError(f"ask: schema must be a type or a JSON schema, got {schema!r:.80}: {_FORMS}")
