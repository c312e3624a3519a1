"""JSON in and out: an equal round trip, or a typed error."""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import datetime as dt
import decimal
import enum
import functools
import subprocess
import sys
import types
import typing
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from typing import Annotated, Any, NamedTuple

import pytest
from pydantic import BaseModel, ConfigDict, Field, RootModel, TypeAdapter, model_serializer, model_validator
from typing_extensions import TypedDict

from stepflow import EventError, StepOutputError
from stepflow_engine import codec
from stepflow_engine.codec import (
    adapter_for,
    dumps,
    dumps_event,
    dumps_output,
    loads,
    pretty,
    restore,
    result_adapter,
    round_trip,
)
from stepflow_engine.memo import memo_of_data, read_memo


class Color(enum.Enum):
    RED = "red"


class Point(NamedTuple):
    x: int
    y: int


class Item(BaseModel):
    name: str
    price: float = 0.0


class Order(BaseModel):
    id: uuid.UUID
    at: dt.datetime
    items: list[Item] = []
    color: Color = Color.RED


class Loose(BaseModel):
    model_config = ConfigDict(extra="allow")


class Untyped(BaseModel):
    value: Any


class Strict(BaseModel):
    model_config = ConfigDict(strict=True)
    at: dt.datetime
    ids: tuple[int, ...] = ()


class Aliased(BaseModel):
    item_name: str = Field(alias="itemName")


class Blob(BaseModel):
    model_config = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")
    data: bytes


class Names(RootModel[list[str]]):
    pass


@dataclasses.dataclass
class Plain:
    name: str
    at: dt.datetime | None = None
    price: float = 0.0


@dataclasses.dataclass(frozen=True, slots=True)
class Slotted:
    price: float


class Movie(TypedDict):
    title: str
    shown: dt.date


class Film(typing.TypedDict):
    title: str
    shown: dt.date


def encoded(value: object) -> bytes:
    return dumps_output(value, what="step 's'", limit_bytes=100_000)


def read_back(value: object) -> object:
    return round_trip(value, encoded(value))


# -- what survives -------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        0,
        -1,
        2**53 + 1,
        2**63 - 1,
        -(2**63),
        2**64 - 1,
        0.1,
        -0.0,
        1e308,
        5e-324,
        "",
        "ü ☃ 💥 \0 \u2028",
        "null",
        [],
        {},
        {"": [None, {"a": "null"}]},
        {"error": {"name": "E"}},
    ],
)
def test_json_values_come_back_equal_and_of_the_same_type(value: object) -> None:
    back = loads(encoded(value))
    assert back == value
    assert type(back) is type(value)
    assert read_back(value) == value


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        ((1, (2,)), [1, [2]]),
        ({2: "a", True: "c", 0.5: "d"}, {"2": "a", "true": "c", "0.5": "d"}),
        ({uuid.UUID(int=1): 1}, {"00000000-0000-0000-0000-000000000001": 1}),
        ({dt.date(2026, 1, 2): 1}, {"2026-01-02": 1}),
        ({7}, [7]),
        (frozenset({"a"}), ["a"]),
        (Point(1, 2), [1, 2]),
        (b"text", "text"),
        (dt.datetime(2026, 1, 2, 3, 4, 5), "2026-01-02T03:04:05"),
        (dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC), "2026-01-02T03:04:05+00:00"),
        (dt.date(2026, 1, 2), "2026-01-02"),
        (dt.time(1, 2, 3), "01:02:03"),
        (dt.time(1, 2, 3, 45_000), "01:02:03.045000"),
        (dt.datetime(2026, 1, 2, 3, 4, 5, 45_000), "2026-01-02T03:04:05.045000"),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (decimal.Decimal("1.10"), "1.10"),
        (Color.RED, "red"),
        (Item(name="tea"), {"name": "tea", "price": 0.0}),
        ([Plain("tea")], [{"name": "tea", "at": None, "price": 0.0}]),
        (Slotted(1.5), {"price": 1.5}),
        (Names(["a"]), ["a"]),
        (deque([1, 2]), [1, 2]),
        (collections.OrderedDict(a=1), {"a": 1}),
        (collections.Counter("aa"), {"a": 2}),
        ((n for n in range(3)), [0, 1, 2]),
    ],
    ids=lambda value: "generator" if isinstance(value, types.GeneratorType) else repr(value),
)
def test_what_is_not_json_but_has_a_plain_form_is_given_it(value: object, plain: object) -> None:
    assert read_back(value) == plain


def test_a_value_on_the_first_pass_is_what_a_replay_reads() -> None:
    value = {"at": dt.datetime(2026, 1, 1), "ids": (1, 2), 3: {4}}
    text = encoded(value)
    assert round_trip(value, text) == loads(text)


def test_a_generator_is_read_once_and_whole() -> None:
    assert read_back({"a": (n for n in range(3)), 1: "b"}) == {"a": [0, 1, 2], "1": "b"}
    with pytest.raises(StepOutputError, match="result must be JSON"):
        encoded(n for n in [1, 2**70])


def test_nesting_is_kept_to_a_depth_that_can_be_read_back() -> None:
    value: Any = 1
    for _ in range(200):
        value = [value]
    assert read_back(value) == value


# -- what is refused -----------------------------------------------------------------


def deep(levels: int, wrap: Callable[[Any], Any]) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = wrap(value)
    return value


@pytest.mark.parametrize(
    "value",
    [
        object(),
        [1, {"a": object()}],
        lambda: None,
        2**64,
        {"n": -(2**63) - 1},
        {2**64: 1},
        {"set": {2**70}},
        "\ud800",
        {"\udfff": 1},
        {"deep": ["a\ud800b"]},
        Item(name="\ud800"),
        b"\xff",
        {(1, 2): "tuple key"},
        {object(): 1},
        Exception("data, not raised"),
        types.SimpleNamespace(a=1),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_json_cannot_hold_is_refused_with_the_steps_name(value: object) -> None:
    with pytest.raises(StepOutputError, match=r"step 's': result must be JSON \(.*\): return plain data or a model"):
        encoded(value)


@pytest.mark.parametrize("wrap", [lambda inner: [inner], lambda inner: {"a": inner}, lambda inner: deque([inner])])
def test_what_is_nested_far_too_deeply_is_refused(wrap: Callable[[Any], Any]) -> None:
    with pytest.raises(StepOutputError, match="result must be JSON"):
        encoded(deep(1_500, wrap))


def test_a_value_that_contains_itself_is_refused() -> None:
    circle: list[object] = []
    circle.append(circle)
    with pytest.raises(StepOutputError, match="result must be JSON"):
        encoded(circle)


@pytest.mark.parametrize("levels", [200, 1_000, 1_023, 1_024, 1_030])
def test_what_is_nested_too_deeply_to_be_read_back_from_a_memo_is_refused(levels: int) -> None:
    value = deep(levels, lambda inner: (inner,))
    try:
        text = encoded(value)
    except StepOutputError:
        return
    back = read_memo(memo_of_data(text, {"id": "a"})).data
    for _ in range(levels):
        (back,) = back
    assert back == 1


def test_a_result_that_is_nested_very_deeply_does_not_end_the_worker() -> None:
    code = """
from stepflow_engine.codec import StepOutputError, dumps_output
value = 1
for _ in range(200_000):
    value = (value,)
try:
    dumps_output(value, what="step 's'", limit_bytes=1_000)
except StepOutputError:
    print("refused")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (0, "refused\n")


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda number: number,
        lambda number: [1, number],
        lambda number: {"a": {"b": (number,)}},
        lambda number: {number},
        lambda number: Item(name="tea", price=number),
        lambda number: [Order(id=uuid.UUID(int=1), at=dt.datetime(2026, 1, 1), items=[Item(name="a", price=number)])],
        lambda number: Loose(extra=number),
        lambda number: Untyped(value=number),
        lambda number: Untyped(value={"a": [number]}),
        lambda number: Untyped(value={number}),
        lambda number: Plain("tea", price=number),
        lambda number: Slotted(number),
        lambda number: Point(number, 0),  # type: ignore[arg-type]
        lambda number: deque([number]),
        lambda number: (n for n in [number]),
        lambda number: types.MappingProxyType({"a": number}),
        lambda number: {number: "key"},
        lambda number: enum.Enum("Odd", {"A": number}).A,  # type: ignore[attr-defined]
    ],
    ids=[
        "alone",
        "list",
        "nested",
        "set",
        "model",
        "nested model",
        "extra",
        "untyped field",
        "in an untyped field",
        "in a set of a model",
        "dataclass",
        "slots",
        "named tuple",
        "deque",
        "generator",
        "mapping",
        "key",
        "enum",
    ],
)
def test_numbers_that_json_has_not_are_refused_wherever_they_are(number: float, wrap: Callable[[float], Any]) -> None:
    with pytest.raises(StepOutputError, match="result must be JSON"):
        encoded(wrap(number))


def test_two_keys_with_the_same_text_are_refused() -> None:
    with pytest.raises(StepOutputError, match="result must be JSON"):
        encoded({1: "a", "1": "b"})


def test_the_error_says_where_the_fault_is() -> None:
    with pytest.raises(StepOutputError, match=r"at \$\.user\.tags\[1\]"):
        encoded({"user": {"tags": ["a", object()]}})


def test_a_result_over_the_limit_is_refused_with_what_to_do() -> None:
    assert dumps_output("x" * 98, what="step 's'", limit_bytes=100) == b'"' + b"x" * 98 + b'"'
    with pytest.raises(
        StepOutputError, match="result must be at most 100 bytes of JSON, got 1,002: store it elsewhere"
    ):
        dumps_output("x" * 1_000, what="step 's'", limit_bytes=100)


def test_events_are_refused_as_events() -> None:
    assert dumps_event({"a": (1,)}, limit_bytes=100) == b'{"a":[1]}'
    with pytest.raises(EventError, match="event data must be JSON"):
        dumps_event({"a": float("nan")}, limit_bytes=100)
    with pytest.raises(EventError, match="event data must be at most 100 bytes"):
        dumps_event("x" * 100, limit_bytes=100)


# -- typed results -------------------------------------------------------------------


ORDER = Order(id=uuid.UUID(int=7), at=dt.datetime(2026, 1, 2, tzinfo=dt.UTC), items=[Item(name="tea", price=1.5)])


def makes_order() -> Order:
    return ORDER


def makes_string() -> Order:
    return ORDER


def through_memo(annotation: Any, value: object) -> object:
    return restore(adapter_for(annotation), loads(encoded(value)), what="step 's'")


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (Order, ORDER),
        (list[Order], [ORDER]),
        (dict[str, Item], {"a": Item(name="tea")}),
        (Plain, Plain("tea", dt.datetime(2026, 1, 2))),
        (Slotted, Slotted(1.5)),
        (Movie, {"title": "M", "shown": dt.date(1931, 5, 11)}),
        (dt.datetime | None, dt.datetime(2026, 1, 2)),
        (dt.date | None, None),
        (dt.datetime, dt.datetime(2026, 1, 2, tzinfo=dt.UTC)),
        (dt.timedelta, dt.timedelta(hours=1.5)),
        (dt.time, dt.time(1, 2, 3, 45_000)),
        (uuid.UUID, uuid.UUID(int=3)),
        (decimal.Decimal, decimal.Decimal("1.10")),
        (tuple[int, str], (1, "a")),
        (set[int], {1, 2}),
        (frozenset[str], frozenset({"a"})),
        (dict[int, str], {1: "a"}),
        (Color, Color.RED),
        (Point, Point(1, 2)),
        (Names, Names(["a"])),
        (bytes, b"text"),
        (Aliased, Aliased(itemName="tea")),
        (Strict, Strict(at=dt.datetime(2026, 1, 2), ids=(1, 2))),
        (Blob, Blob(data=b"\xff\x00")),
        (Annotated[dt.date, "shown"], dt.date(2026, 1, 2)),
        (int, 7),
        (dict[str, list[int]], {"a": [1]}),
        (Any, {"a": [1]}),
        (None, None),
    ],
    ids=lambda value: getattr(value, "__name__", repr(value)[:30]),
)
def test_a_declared_type_comes_back(annotation: Any, value: object) -> None:
    back = through_memo(annotation, value)
    assert back == value
    assert type(back) is type(value)


@pytest.mark.parametrize(
    "annotation", [None, int, str, float, bool, dict, list, object, Any, dict[str, Any], int | str]
)
def test_plain_types_need_no_restoring(annotation: Any) -> None:
    assert adapter_for(annotation) is None


def test_typings_own_typed_dict_is_restored_on_every_python() -> None:
    shown = {"title": "M", "shown": dt.date(1931, 5, 11)}
    assert through_memo(Film, shown) == shown


def test_a_class_that_pydantic_does_not_know_is_left_as_plain_data() -> None:
    class Own:
        pass

    assert through_memo(Own, {"a": 1}) == {"a": 1}


class Shop:
    def order(self) -> Order:
        return ORDER

    @staticmethod
    def item() -> Item:
        return Item(name="tea")


def decorated(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper() -> Any:
        return function()

    return wrapper


@pytest.mark.parametrize(
    "handler",
    [
        makes_order,
        makes_string,
        Shop().order,
        Shop.item,
        functools.partial(makes_order),
        decorated(makes_order),
    ],
    ids=["module", "string", "method", "static", "partial", "decorated"],
)
def test_the_return_annotation_is_found(handler: Callable[..., Any]) -> None:
    value = handler()
    back = restore(result_adapter(handler), loads(encoded(value)), what="step 's'")
    assert back == value
    assert type(back) is type(value)


def test_without_a_return_annotation_data_stays_plain() -> None:
    assert result_adapter(lambda: ORDER) is None
    assert result_adapter(Order) is None
    assert result_adapter(print) is None


def test_an_annotation_that_cannot_be_resolved_leaves_data_plain() -> None:
    def handler() -> NoSuchName:  # type: ignore[name-defined]  # noqa: F821
        return {}

    assert result_adapter(handler) is None


def test_an_annotation_that_cannot_be_hashed_is_no_error() -> None:
    def handler() -> Any:
        return 1

    handler.__annotations__["return"] = Annotated[dt.date, ["unhashable"]]
    assert result_adapter(handler) is None


def test_data_that_does_not_fit_is_refused_with_the_field() -> None:
    with pytest.raises(
        StepOutputError, match=r"step 's': result does not fit the declared return type: name: Field required"
    ):
        restore(adapter_for(Item), {"price": 1}, what="step 's'")


def test_pretty_text_is_for_people() -> None:
    assert pretty({"a": dt.date(2026, 1, 2)}) == '{\n  "a": "2026-01-02"\n}'
    assert loads(dumps([1])) == [1]


class Lazy(list):  # type: ignore[type-arg]
    """A list that reads its items from a server that is away."""

    def __init__(self, error: BaseException) -> None:
        super().__init__([1])
        self.error = error

    def __iter__(self) -> Iterator[object]:
        raise self.error


class LazyModel(BaseModel):
    error: str = ""

    @model_serializer
    def read(self) -> dict[str, object]:
        raise SystemExit(self.error)

    @model_validator(mode="before")
    @classmethod
    def check(cls, value: object) -> object:
        if value:
            raise KeyboardInterrupt
        return value


@pytest.mark.parametrize("error", [ConnectionError("away"), SystemExit(3), asyncio.CancelledError()])
def test_a_value_that_raises_while_it_is_read_is_no_json(error: BaseException) -> None:
    value = [{1: Lazy(error)}]
    with pytest.raises(StepOutputError, match=type(error).__name__):
        dumps_output(value, what="step 's'", limit_bytes=1_000)
    # a producer sends events: what may be Ctrl+C or a signal handler's passes through
    with pytest.raises(EventError if isinstance(error, Exception) else type(error)):
        dumps_event(value, limit_bytes=1_000)


def test_a_type_that_raises_while_it_reads_a_result_is_named() -> None:
    with pytest.raises(StepOutputError, match="SystemExit"):
        dumps_output(LazyModel(), what="step 's'", limit_bytes=1_000)
    with pytest.raises(StepOutputError, match="KeyboardInterrupt"):
        restore(TypeAdapter(LazyModel), {"error": "x"}, what="step 's'")


def test_a_result_over_the_limit_is_refused_before_its_parts_are_examined(monkeypatch: pytest.MonkeyPatch) -> None:
    def examine(_: object) -> None:
        raise AssertionError("this takes seconds for millions of values")

    monkeypatch.setattr(codec, "_refuse_unreadable", examine)
    monkeypatch.setattr(codec, "_refuse_values_without_json", examine)
    with pytest.raises(StepOutputError, match=r"must be at most 100 bytes of JSON, got 14,001"):
        dumps_output([[None]] * 2_000, what="step 's'", limit_bytes=100)


def test_plain_data_is_not_parsed_again_to_count_its_levels(monkeypatch: pytest.MonkeyPatch) -> None:
    def parse(_: object) -> None:
        raise AssertionError("this takes as long as the encoding")

    monkeypatch.setattr(codec, "_refuse_unreadable", parse)
    assert dumps_output([[]] * 2_000, what="step 's'", limit_bytes=10_000) == b"[" + b",".join([b"[]"] * 2_000) + b"]"


def test_too_many_levels_inside_an_enum_are_refused() -> None:
    deep: list[object] = []
    for _ in range(1_100):
        deep = [deep]
    kind = enum.Enum("kind", {"DEEP": deep})
    with pytest.raises(StepOutputError, match="more than 1,000 levels"):
        dumps_output([kind.DEEP], what="step 's'", limit_bytes=100_000)
