"""Results of declared types: a step returns the same value on the first pass and on each replay, or refuses it."""

from __future__ import annotations

import datetime as dt
import enum
import uuid
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from pydantic import BaseModel, SecretStr

from stepflow import Context, RunFailedError, Stepflow
from tests.fuzz.cases import TALLY

_SHARE = 0.002
_REFUSALS = {"StepOutputError", "StepUsageError"}


class Colour(enum.Enum):
    """Its values are of two types."""

    RED = "red"
    ONE = 1


class Base(BaseModel):
    """A model."""

    number: int


class Child(Base):
    """A model with a field that its base does not have."""

    extra: str


class Login(BaseModel):
    """A model with a secret."""

    user: str
    password: SecretStr | None = None


@dataclass
class Point:
    """A dataclass."""

    x: float
    at: dt.datetime | None


TEXT = st.text(max_size=8)
WHOLE = st.integers(-(2**53), 2**53)
REAL = st.floats(allow_nan=False, allow_infinity=False)
TIMES = st.datetimes(timezones=st.none() | st.just(dt.UTC))
BASES = st.builds(Base, number=WHOLE)
CHILDREN = st.builds(Child, number=WHOLE, extra=TEXT)
TYPES: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (int | str, WHOLE | TEXT),
    (float | int, WHOLE | REAL),
    (bool | int, st.booleans() | WHOLE),
    (int | None, WHOLE | st.none()),
    (list[Base], st.lists(BASES | CHILDREN, max_size=3)),
    (Base, BASES | CHILDREN),
    (Base | Child, BASES | CHILDREN),
    (dict[str, Base | None], st.dictionaries(TEXT, BASES | CHILDREN | st.none(), max_size=3)),
    (Login, st.builds(Login, user=TEXT, password=st.none() | TEXT.map(SecretStr))),
    (Point, st.builds(Point, x=REAL, at=TIMES | st.none())),
    (tuple[int, str], st.tuples(WHOLE, TEXT)),
    (set[int], st.sets(WHOLE, max_size=3)),
    (dict[int, str], st.dictionaries(WHOLE, TEXT, max_size=3)),
    (dict[uuid.UUID, Colour], st.dictionaries(st.uuids(), st.sampled_from(Colour), max_size=2)),
    (Colour, st.sampled_from(Colour)),
    (Decimal, st.decimals(allow_nan=False, allow_infinity=False)),
    (dt.timedelta, st.timedeltas()),
    (dt.date, st.dates()),
    (bytes, st.binary(max_size=4)),
]
"""Declared types, and the values that their handlers return."""


def _handler(annotation: Any, value: Any) -> Callable[[], Any]:
    def handler() -> Any:
        return value

    handler.__annotations__ = {"return": annotation}
    return handler


@pytest.mark.timeout(3600)
def test_a_typed_result_is_the_same_on_each_pass_or_is_refused(url: str, run_worker: Callable[..., object]) -> None:
    app = Stepflow("typed", redis_url=url)
    cases: dict[str, tuple[Any, Any]] = {}
    seen: dict[str, list[Any]] = defaultdict(list)

    @app.function("typed", retries=0)
    async def typed(ctx: Context) -> None:
        name = ctx.event.data
        result = await ctx.step.run("typed", _handler(*cases[name]))
        seen[name].append(result)
        await ctx.step.sleep("nap", "1ms")

    run_worker(app, cached_runs=0)  # a run that sleeps is replayed

    def check(case: tuple[Any, Any]) -> None:
        name = str(len(cases))
        cases[name] = case
        TALLY.done += 1
        refusal = ""
        try:
            app.start("typed", name).result(30)
        except RunFailedError as error:
            refusal = error.name
        assert refusal in _REFUSALS or len(seen[name]) == 2, (refusal, seen[name])
        for result in seen[name]:
            assert (type(result), result) == (type(case[1]), case[1])

    count = max(20, round(TALLY.cases * _SHARE))
    limits = settings(
        max_examples=count, database=None, deadline=None, phases=[Phase.generate], suppress_health_check=HealthCheck
    )
    strategy = st.sampled_from(TYPES).flatmap(lambda one: one[1].map(lambda value: (one[0], value)))
    seed(Random(TALLY.seed).randrange(2**32))(limits(given(strategy)(check)))()
