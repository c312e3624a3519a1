"""What comes back of a value: as a step's result, as a function's output, and as the data of an event.

A value with a declared type comes back equal. What cannot is refused where the type is declared, or when the value is
stored. Without a declared type it comes back as plain data.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import fractions
import pathlib
import uuid
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Any, Generic, Literal, NamedTuple, TypeVar
from zoneinfo import ZoneInfo

import pytest
from pydantic import BaseModel, ConfigDict, Field, HttpUrl, PrivateAttr, RootModel
from typing_extensions import TypedDict

from stepflow import (
    ConfigurationError,
    Context,
    EventError,
    Stepflow,
    StepOutputError,
    StepUsageError,
    reference_function,
)
from stepflow.functions.invocable import invoke_request
from stepflow_engine.codec import adapter_for, dumps_event, dumps_output, loads, restore
from stepflow_engine.declared_types import check_event_data, check_value, refuse_unreadable_type


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Size(enum.Enum):
    SMALL = 1


class Level(enum.IntEnum):
    LOW = 1


class State(enum.StrEnum):
    OPEN = "open"


class Rights(enum.Flag):
    READ = 1
    WRITE = 2


class Point(NamedTuple):
    x: int
    day: dt.date


class Row(TypedDict):
    day: dt.date


@dataclasses.dataclass
class Computed:
    a: int
    double: int = dataclasses.field(init=False, default=0)

    def __post_init__(self) -> None:
        self.double = 2 * self.a


@dataclasses.dataclass
class Counted:
    a: int
    calls: int = dataclasses.field(init=False, default=0)


@dataclasses.dataclass(eq=False)
class Uncompared:
    a: dt.date


@dataclasses.dataclass(frozen=True, slots=True)
class Base:
    a: int


@dataclasses.dataclass(frozen=True, slots=True)
class Extended(Base):
    b: int = 0


class Private(BaseModel):
    a: int
    _etag: str = PrivateAttr(default="")
    _lock: Any = PrivateAttr(default_factory=object)


class Excluded(BaseModel):
    a: int
    b: int = Field(default=0, exclude=True)


class Needed(BaseModel):
    b: int = Field(exclude=True)


class Open(BaseModel):
    x: Any


class Extra(BaseModel):
    model_config = ConfigDict(extra="allow")


class One(BaseModel):
    a: int


class Two(BaseModel):
    a: int


class Cat(BaseModel):
    kind: Literal["cat"] = "cat"


class Dog(BaseModel):
    kind: Literal["dog"] = "dog"


class Mixed(BaseModel):
    when: dt.date | str


class Numbers(RootModel[list[int]]):
    pass


T = TypeVar("T")


class Box(BaseModel, Generic[T]):
    item: T


DAY = dt.date(2030, 1, 31)
TIME = dt.datetime(2030, 1, 31, 9, 30, tzinfo=dt.UTC)
ID = uuid.UUID(int=17)
PRICE = decimal.Decimal("1.10")


def with_etag() -> Private:
    model = Private(a=1)
    model._etag = "x"
    return model


def counted() -> Counted:
    value = Counted(1)
    value.calls = 3
    return value


EQUAL: list[tuple[Any, Any]] = [
    (int | None, None),
    (dt.date | None, DAY),
    (None | dt.date, None),
    (int | str, "1"),
    (str | int, 1),
    (float | int, 1),
    (int | float, 1.0),
    (bool | int, True),
    (dt.datetime | dt.date, DAY),
    (dt.date | dt.datetime, dt.datetime(2030, 1, 31)),
    (decimal.Decimal | float, PRICE),
    (decimal.Decimal | int, 1),
    (uuid.UUID | dt.date, ID),
    (Literal["a", 1], 1),
    (Color, Color.RED),
    (Size, Size.SMALL),
    (Level | int, Level.LOW),
    (State | str, State.OPEN),
    (Rights, Rights.READ | Rights.WRITE),
    (decimal.Decimal, decimal.Decimal(2**80)),
    (uuid.UUID, ID),
    (dt.timedelta, -dt.timedelta(days=1, microseconds=3)),
    (dt.time, dt.time(1, 2, 3, 4)),
    (dt.datetime, TIME),
    (dt.datetime, dt.datetime(2030, 7, 1, tzinfo=ZoneInfo("Europe/Rome"))),
    (set[dt.date], {DAY}),
    (frozenset[str], frozenset("ab")),
    (tuple[int, dt.date], (1, DAY)),
    (tuple[int, ...], (1, 2)),
    (tuple, (1, 2)),
    (deque[int], deque([1])),
    (Point, Point(1, DAY)),
    (list[Point], [Point(1, DAY)]),
    (Row, {"day": DAY}),
    (Computed, Computed(2)),
    (Counted, Counted(2)),
    (Extended, Extended(1, 2)),
    (bytes, b"ab"),
    (bytes | None, b"ab"),
    (pathlib.Path, pathlib.Path("/a")),
    (complex, 1 + 2j),
    (fractions.Fraction, fractions.Fraction(1, 2)),
    (HttpUrl, HttpUrl("http://a.b/")),
    (dict[str, list[dt.date]], {"a": [DAY]}),
    (dict[int, str], {1: "a"}),
    (dict[float, int], {1.5: 1}),
    (dict[bool, int], {True: 1}),
    (dict[dt.date, int], {DAY: 1}),
    (dict[uuid.UUID, int], {ID: 1}),
    (dict[Color, int], {Color.RED: 1}),
    (dict[Level, int], {Level.LOW: 1}),
    (OrderedDict[str, int], OrderedDict(a=1)),
    (Annotated[Cat | Dog, Field(discriminator="kind")], Dog()),
    (Cat | Dog, Dog()),
    (One | Two, One(a=1)),
    (Excluded, Excluded(a=1)),
    (Extra, Extra(b=1)),  # type: ignore[call-arg]
    (Box[dt.date], Box[dt.date](item=DAY)),
    (Numbers, Numbers([1])),
    (Mixed, Mixed(when=DAY)),
    (Mixed, Mixed(when="soon")),
]

PLAIN: list[tuple[Any, Any, Any]] = [
    (None, DAY, "2030-01-31"),
    (None, TIME, "2030-01-31T09:30:00+00:00"),
    (None, ID, str(ID)),
    (None, PRICE, "1.10"),
    (None, dt.timedelta(seconds=1.5), "PT1.5S"),
    (None, {1}, [1]),
    (None, (1, 2), [1, 2]),
    (None, Point(1, DAY), [1, "2030-01-31"]),
    (None, b"ab", "ab"),
    (None, Color.RED, "red"),
    (None, Size.SMALL, 1),
    (None, {1: 2, 2.5: 3}, {"1": 2, "2.5": 3}),
    (None, {DAY: 1, Color.RED: 2}, {"2030-01-31": 1, "red": 2}),
    (None, Computed(2), {"a": 2, "double": 4}),
    (None, Private(a=1), {"a": 1}),
    (None, Excluded(a=1, b=2), {"a": 1}),
    (Any, DAY, "2030-01-31"),
    (list[Any], [DAY], ["2030-01-31"]),
    (dict[str, Any], {"a": (1, DAY)}, {"a": [1, "2030-01-31"]}),
    (dict[Any, int], {1: 1}, {"1": 1}),
    (Open, Open(x=(1, DAY, One(a=1))), Open(x=[1, "2030-01-31", {"a": 1}])),
    (Extra, Extra(b=DAY), Extra(b="2030-01-31")),  # type: ignore[call-arg]
    (Box, Box(item=DAY), Box(item="2030-01-31")),
    (Sequence[int], (1, 2), [1, 2]),
    (Iterable[dt.date], [DAY], [DAY]),
    (Iterator[dt.date], [DAY], [DAY]),
    (dt.date, "2030-01-31", DAY),
    (One, {"a": 1}, One(a=1)),
    (One | dict[str, Any], {"a": 1}, One(a=1)),
    (One, Two(a=1), One(a=1)),
]
"""Types that are open, and values that do not have the declared type."""

DECLARED: list[tuple[Any, str]] = [
    (dt.date | str, "'2030-01-31' would come back as datetime.date"),
    (str | dt.date, "datetime.date(2030, 1, 31) would come back as '2030-01-31'"),
    (list[uuid.UUID | str], "would come back as"),
    (decimal.Decimal | str, "would come back as"),
    (pathlib.Path | str | None, "would come back as"),
    (bytes | str, "would come back as"),
    (Color | str, "Color.RED: 'red'> would come back as 'red'"),
    (Size | int, "would come back as 1"),
    (list[int] | set[int], "would come back as [1]"),
    (list | tuple, "would come back as [1]"),
    (tuple[int, ...] | list[int], "would come back as"),
    (dict[int | str, int], "would come back as {'1': 1}"),
    (Literal[Color.RED], "could not be stored and read back"),
    (dict[Size, int], "could not be stored and read back"),
    (dict[tuple[int, int], int], "could not be stored and read back"),
    (dict[decimal.Decimal, int], "could not be stored and read back"),
    (dict[None, int], "could not be stored and read back"),
    (list[Needed], "the field Needed.b, which is excluded"),
]

STORED: list[tuple[Any, Any, str]] = [
    (Mixed, Mixed(when="2030-01-31"), r"a str would come back as a date at \$\.when"),
    (list[Mixed], [Mixed(when="2030-01-31")], r"a str would come back as a date at \$\[0\]\.when"),
    (One | Two, Two(a=1), r"a Two would come back as a One at \$"),
    (dict[str, One | Two], {"k": Two(a=1)}, r"a Two would come back as a One at \$\.k"),
    (Base, Extended(1, 2), "an Extended would lose its fields b as a Base"),
    (BaseModel, One(a=1), "a One would lose its fields a as a BaseModel"),
    (Excluded, Excluded(a=1, b=2), "the field b, which is not stored"),
    (Counted, counted(), "the field calls, which is not stored or not read"),
    (Private, with_etag(), "the private attribute _etag would lose its value"),
    (decimal.Decimal, decimal.Decimal("NaN"), "does not fit the declared return type"),
    (float, float("inf"), "inf has no JSON form"),
    (int, 2**64, "64-bit"),
    (bytes, b"\xff", "utf-8"),
]


def come_back(annotation: Any, value: Any) -> Any:
    """What a replay reads."""
    text, adapter = dumps_output(value, what="step 's'", limit_bytes=10_000), adapter_for(annotation)
    assert dumps_event(value, limit_bytes=10_000) == text
    if adapter is not None:
        check_value(adapter, value, loads(text), what="step 's'")
    return restore(adapter, loads(text), what="step 's'")


@pytest.mark.parametrize(("annotation", "value"), EQUAL)
def test_a_value_of_the_declared_type_comes_back_equal(annotation: Any, value: Any) -> None:
    refuse_unreadable_type(annotation)
    back = come_back(annotation, value)
    assert back == value
    if not isinstance(value, int | str):
        assert type(back) is type(value)


@pytest.mark.parametrize(("annotation", "value", "plain"), PLAIN)
def test_other_values_come_back_as_plain_data_or_as_the_declared_type(annotation: Any, value: Any, plain: Any) -> None:
    refuse_unreadable_type(annotation)
    assert come_back(annotation, value) == plain


@pytest.mark.parametrize(("annotation", "text"), DECLARED)
def test_a_type_whose_values_do_not_come_back_is_refused_where_it_is_declared(annotation: Any, text: str) -> None:
    async def function(ctx: Context) -> None: ...

    function.__annotations__["return"] = annotation
    with pytest.raises(ConfigurationError, match="function 'f': the result") as refused:
        Stepflow("shop").function("f")(function)
    assert text in str(refused.value)
    with pytest.raises(StepUsageError, match="reference_function: output"):
        reference_function("f", output=annotation)


@pytest.mark.parametrize(("annotation", "value", "text"), STORED)
def test_a_value_that_does_not_come_back_is_refused_when_it_is_stored(annotation: Any, value: Any, text: str) -> None:
    refuse_unreadable_type(annotation)
    with pytest.raises(StepOutputError, match=text):
        come_back(annotation, value)


def test_types_that_differ_only_in_their_order_are_kept_apart() -> None:
    assert restore(adapter_for(One | Two), {"a": 1}, what="s") == One(a=1)
    assert restore(adapter_for(Two | One), {"a": 1}, what="s") == Two(a=1)


def test_private_attributes_that_are_not_data_are_made_anew() -> None:
    assert come_back(Private, Private(a=1))._etag == ""


def test_a_dataclass_without_a_comparison_comes_back() -> None:
    back = come_back(Uncompared, Uncompared(DAY))
    assert back.a == DAY


def test_data_that_the_function_would_read_as_other_data_is_not_sent() -> None:
    app = Stepflow("shop", redis_url="redis://127.0.0.1:1/0")

    @app.function("f")
    async def f(ctx: Context[Base]) -> None: ...

    with pytest.raises(EventError, match="an Extended would lose its fields b"):
        app.start(f, Extended(1, 2))
    with pytest.raises(EventError, match="an Extended would lose its fields b"):
        app.start_many(f, [Base(1), Extended(1, 2)])
    with pytest.raises(EventError, match="an Extended would lose its fields b"):
        invoke_request(f, Extended(1, 2), timeout=None, options={}, app_id="shop", event_bytes=1_000)
    invoke_request(f, Base(1), timeout=None, options={}, app_id="shop", event_bytes=1_000)


def test_data_that_does_not_fit_is_left_to_the_run_which_names_the_field() -> None:
    check_event_data(adapter_for(One), Open(x="no number"), limit_bytes=1_000)
    check_event_data(None, Open(x="no number"), limit_bytes=1_000)
