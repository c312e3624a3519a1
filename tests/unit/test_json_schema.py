"""JSON schemas of asks: what is one, which data fits, and what is said of data that does not."""

from __future__ import annotations

import dataclasses
from datetime import date, datetime
from typing import Any, Literal, TypedDict

import pytest
from pydantic import BaseModel, Field, SecretStr

from stepflow import StepUsageError
from stepflow.functions.ask_schema import MAX_SCHEMA_BYTES, answer_type
from stepflow_engine.codec import loads
from stepflow_engine.json_schema import SchemaError, check_schema, misfits


class Line(BaseModel):
    sku: str
    count: int = Field(gt=0)


class Order(BaseModel):
    lines: list[Line]
    at: datetime | None = None


class Plain(TypedDict):
    ok: bool


@dataclasses.dataclass
class Data:
    n: int


@pytest.mark.parametrize(
    ("schema", "data", "path", "text"),
    [
        ({"type": "integer"}, "1", "$", "is not of type 'integer'"),
        ({"enum": ["a", "b"]}, "c", "$", "is not one of ['a', 'b']"),
        ({"required": ["a"]}, {}, "$", "'a' is a required property"),
        ({"properties": {"a": {"maximum": 3}}}, {"a": 4}, "$.a", "greater than the maximum of 3"),
        (Order.model_json_schema(), {"lines": [{"sku": "x", "count": 0}]}, "$.lines[0].count", "minimum of 0"),
        (Order.model_json_schema(), {"lines": [], "at": "soon"}, "$.at", "is not a 'date-time'"),
        ({"format": "date"}, "2026-13-01", "$", "is not a 'date'"),
        ({"format": "uuid"}, "x", "$", "is not a 'uuid'"),
        (False, 1, "$", "False schema does not allow 1"),
    ],
)
def test_what_does_not_fit_says_where_and_what_is_allowed(schema: Any, data: Any, path: str, text: str) -> None:
    (found,) = misfits(schema, data)
    assert found.path == path
    assert text in found.text


def test_what_fits_has_no_misfits() -> None:
    assert misfits(Order.model_json_schema(), {"lines": [], "at": "2026-01-01T10:00:00Z"}) == []
    assert (
        misfits({"$ref": "#/$defs/a", "$defs": {"a": {"type": "array", "items": {"$ref": "#/$defs/a"}}}}, [[[]]]) == []
    )
    assert misfits({"format": "date"}, 17) == []


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "bolean"},
        17,
        {"properties": []},
        {"$ref": "#/$defs/none"},
        {"$ref": "https://schema.example/order.json"},
        {"items": {"$dynamicRef": "other.json"}},
        {"$ref": "file:///etc/passwd"},
    ],
)
def test_a_schema_is_whole_and_nothing_is_fetched(schema: Any) -> None:
    with pytest.raises(SchemaError):
        check_schema(schema)
    with pytest.raises(SchemaError):
        misfits(schema, {})


@pytest.mark.parametrize("schema", [Order, Plain, Data, bool, date, Literal["a", "b"], list[Line], int | None])
def test_a_type_is_a_schema_and_the_same_one_each_time(schema: Any) -> None:
    check_schema(loads(answer_type(schema).schema))
    assert answer_type(schema) is answer_type(schema)


@pytest.mark.parametrize(
    "schema", [None, 17, "bool", [int], print, SecretStr, type("Other", (), {}), {"type": "x"}, {"a": object()}]
)
def test_what_is_no_schema_is_refused_with_what_is_allowed(schema: Any) -> None:
    with pytest.raises(StepUsageError, match="ask: "):
        answer_type(schema)


def test_a_schema_has_a_largest_size() -> None:
    with pytest.raises(StepUsageError, match="at most 65,536 bytes"):
        answer_type({"enum": ["x" * MAX_SCHEMA_BYTES]})
    with pytest.raises(StepUsageError, match="at most 65,536 bytes"):
        answer_type(Literal["x" * MAX_SCHEMA_BYTES])  # type: ignore[valid-type]
