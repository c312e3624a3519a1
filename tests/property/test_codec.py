"""Any JSON value survives; any other value is given its plain form or is refused."""

from __future__ import annotations

import collections
import dataclasses
import datetime as dt
import decimal
import enum
import json
import math
import uuid
from collections.abc import Iterator
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel
from pydantic_core import PydanticSerializationError

from stepflow import StepOutputError
from stepflow_engine.codec import dumps, dumps_output, loads, round_trip
from stepflow_engine.memo import memo_of_data, read_memo


class Color(enum.Enum):
    RED = "red"
    HUGE = 2**70


class Model(BaseModel):
    value: Any


@dataclasses.dataclass
class Record:
    value: Any


@dataclasses.dataclass(frozen=True, slots=True)
class Slotted:
    value: Any


class NotJsonError(Exception):
    """The value has no plain form."""


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(),
)
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5), max_leaves=20
)
KEYS = st.one_of(
    st.text(max_size=3),
    st.integers(-3, 3),
    st.integers(),
    st.none(),
    st.booleans(),
    st.floats(),
    st.uuids(),
    st.dates(),
    st.tuples(st.integers()),
)
HASHABLE = st.one_of(st.integers(), st.floats(), st.text(), st.none(), st.uuids(), st.binary(max_size=4))
ODD = st.one_of(
    SCALARS,
    st.integers(),
    st.floats(),
    st.text(st.characters(categories=["Cs", "L"]), max_size=3),
    st.binary(max_size=4),
    st.dates(),
    st.datetimes(timezones=st.sampled_from([None, dt.timezone(dt.timedelta(hours=5, minutes=30))])),
    st.times(),
    st.uuids(),
    st.decimals(),
    st.sampled_from(Color),
    st.just(object()),
)
FIELDS = st.recursive(
    ODD,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.sets(HASHABLE, max_size=4),
        st.dictionaries(st.text(), inner, max_size=4),
        inner.map(lambda value: Model(value=value)),
        inner.map(Record),
        inner.map(Slotted),
    ),
    max_leaves=6,
)
"""What models and dataclasses hold; keys there are texts, for others are written as pydantic writes them."""
ANY = st.recursive(
    st.one_of(ODD, FIELDS.map(lambda value: Model(value=value)), FIELDS.map(Record), FIELDS.map(Slotted)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.lists(ODD, max_size=4).map(collections.deque),
        st.sets(HASHABLE, max_size=4),
        st.dictionaries(KEYS, inner, max_size=4),
    ),
    max_leaves=12,
)


def plain(value: Any) -> Any:
    """The plain form that a value must be given, worked out apart from the codec."""
    match value:
        case bool() | None:
            return value
        case enum.Enum():
            return plain(value.value)
        case int() if not -(2**63) <= value < 2**64:
            raise NotJsonError
        case float() if not math.isfinite(value):
            raise NotJsonError
        case str() if any("\ud800" <= letter <= "\udfff" for letter in value):
            raise NotJsonError
        case int() | float() | str():
            return value
        case bytes():
            return _text_of(value)
        case dt.datetime() | dt.date() | dt.time():
            return value.isoformat()
        case uuid.UUID() | decimal.Decimal():
            return str(value)
        case Model():
            return _plain_model(value)
        case Record() | Slotted():
            return {"value": plain(value.value)}
        case dict():
            return _plain_dict(value)
        case list() | tuple() | set() | collections.deque():
            return [plain(item) for item in value]
        case _:
            raise NotJsonError


def _text_of(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise NotJsonError from None


def _plain_model(value: Model) -> Any:
    """A model has the form that pydantic gives it, but pydantic writes null for numbers that JSON has not."""
    if not all(map(math.isfinite, _floats(value))):
        raise NotJsonError
    try:
        return plain(value.model_dump(mode="json"))
    except (PydanticSerializationError, UnicodeDecodeError):
        raise NotJsonError from None


def _floats(value: Any) -> Iterator[float]:
    match value:
        case float():
            yield value
        case Model() | Record() | Slotted():
            yield from _floats(value.value)
        case dict():
            yield from _floats(list(value.values()))
        case list() | tuple() | set() | collections.deque():
            for item in value:
                yield from _floats(item)


def _plain_dict(value: dict[Any, Any]) -> dict[str, Any]:
    if None in value:
        raise NotJsonError
    pairs = [(_plain_key(key), plain(item)) for key, item in value.items()]
    if len({key for key, _ in pairs}) < len(pairs):
        raise NotJsonError
    return dict(pairs)


def _plain_key(key: Any) -> str:
    found = plain(key)
    if isinstance(found, list):
        raise NotJsonError
    return found if isinstance(found, str) else dumps(found).decode()


def same(first: Any, second: Any) -> bool:
    """Whether two plain values are equal, types included: 1 is neither True nor 1.0."""
    return json.dumps(first, sort_keys=True) == json.dumps(second, sort_keys=True)


def encoded(value: Any) -> bytes:
    return dumps_output(value, what="step 's'", limit_bytes=10**9)


@given(JSON)
def test_any_json_value_survives(value: Any) -> None:
    text = encoded(value)
    assert same(loads(text), value)
    assert same(round_trip(value, text), value)
    assert same(read_memo(memo_of_data(text, {"id": "a"})).data, value)


@given(ANY)
def test_any_value_is_given_its_plain_form_or_is_refused(value: Any) -> None:
    try:
        text = encoded(value)
    except StepOutputError:
        return
    assert same(loads(text), plain(value))


@given(ANY)
def test_a_value_with_a_plain_form_is_not_refused(value: Any) -> None:
    try:
        expected = plain(value)
    except NotJsonError:
        return
    assert same(round_trip(value, encoded(value)), expected)
