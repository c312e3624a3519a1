"""What inputs are made of, and how many of them a test is given."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

__all__ = ["JSON", "ODD", "TALLY", "TEXTS", "Tally", "fuzzed", "mutated", "pieces"]

_CHUNK = 5_000
"""Cases of one seed. Hypothesis remembers what it has tried, so few, many times, take less memory and time."""


@dataclass
class Tally:
    """How many cases were done, and how many there are to be.

    Attributes:
        cases: how many are wanted in all.
        around: how many cases are made of one that Hypothesis finds: itself, and others that differ from it a little.
    """

    cases: int = 4_000
    around: int = 4
    seed: int = 0
    done: int = 0


TALLY = Tally()


def fuzzed(share: float, **strategies: st.SearchStrategy[Any]) -> Callable[[Callable[..., None]], Callable[[], None]]:
    """A test that calls a check with so great a share of all cases."""

    def decorate(check: Callable[..., None]) -> Callable[[], None]:
        def test() -> None:
            left, number = max(1, round(TALLY.cases * share)), TALLY.seed

            def examine(around: int, **values: Any) -> None:
                random = Random(around)
                for n in range(TALLY.around):
                    found = {name: mutated(value, random) for name, value in values.items()} if n else values
                    TALLY.done += 1
                    try:
                        check(**found)
                    except BaseException as error:
                        error.add_note(f"the case: {found!r:.2000}")
                        raise

            while left > 0:
                chunk = min(left, _CHUNK * TALLY.around)
                _run(given(around=st.integers(0, 2**32), **strategies)(examine), -(-chunk // TALLY.around), number)
                left, number = left - chunk, number + 1_000_003

        test.__name__, test.__doc__ = check.__name__, check.__doc__
        return test

    return decorate


def _run(test: Callable[[], None], cases: int, number: int) -> None:
    phases = (Phase.generate, Phase.shrink)
    limits = settings(
        max_examples=cases, database=None, deadline=None, phases=phases, suppress_health_check=HealthCheck
    )
    seed(number)(limits(test))()


def pieces(*parts: str, most: int = 12) -> st.SearchStrategy[str]:
    """Texts that are put together from these parts and from anything."""
    return st.lists(st.sampled_from(parts) | st.text(max_size=3), max_size=most).map("".join)


NASTY = (
    "", " ", "\0", "\r\n", "\n", "a\r\nHSET x", "\ud800", "\udfff", "\ufffe", "\u202e", "é", "👩‍👩‍👧", "a" * 300,
    "x" * 10_241,    "../../etc/passwd", "'", '"', "\\", "{}", "[]", "null", "NaN", "-0", "1e999", "9" * 5_000,
    "%s%n", "{0}", "{$enc}",
    "${jndi}", "__proto__", "__class__", "*", "a*b", "a/b", "a:steps", "!1", "-", "event.data", "b" * 33,
)  # fmt: skip
TEXTS = st.sampled_from(NASTY) | st.text(max_size=20)
ODD_NUMBERS = st.sampled_from(
    (
        0,
        -0.0,
        -1,
        2**53,
        2**53 + 1,
        2**63 - 1,
        2**63,
        2**64,
        -(2**63) - 1,
        10**400,
        math.nan,
        math.inf,
        -math.inf,
        1e308,
    )
)
SCALAR_VALUES = (None, True, 2**53 + 1, 2**64, 1e308, math.nan, math.inf, *NASTY[:20])
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | ODD_NUMBERS | TEXTS


def mutated(value: Any, random: Random) -> Any:
    """A value with one part of it exchanged, cut or doubled; what Hypothesis has made is left alone."""
    match value:
        case str() if value in NASTY or not random.randrange(4):
            return random.choice(NASTY)
        case str():
            at, part = random.randrange(len(value) + 1), random.choice(NASTY)[:20]
            return value[:at] + part + value[at + random.randrange(3) :]
        case bytes():
            at = random.randrange(len(value) + 1)
            return value[:at] + random.randbytes(random.randrange(3)) + value[at + random.randrange(3) :]
        case bool() | None:
            return random.choice(SCALAR_VALUES)
        case int() | float():
            return random.choice((value, -value, *SCALAR_VALUES)) if random.randrange(2) else value + 1
        case [only] if isinstance(value, list) and isinstance(only, dict | list):
            return value  # it may be nested more deeply than can be looked into
        case list() if value:
            at = random.randrange(len(value))
            return [*value[:at], mutated(value[at], random), *value[at + random.randrange(2) :]]
        case dict() if len(value) > 1 or not isinstance(next(iter(value.values()), None), list | dict):
            name = random.choice([*value, *NASTY])
            return {**value, name: mutated(value.get(name), random)}
    return value


def _nested(depth: int) -> Any:
    value: Any = 0
    for n in range(depth):
        value = [value] if n % 2 else {"a": value}
    return value


DEEP = st.sampled_from([10, 500, 996, 999, 1_000, 1_001, 1_030, 5_000]).map(_nested)
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4), max_leaves=8
)
"""What JSON might be made of, and what it might be mistaken for."""
ODD = st.recursive(
    SCALARS | st.binary(max_size=8) | st.sampled_from([object(), int, ValueError("x"), {1, 2}, ..., 1j, b"\x80\x04."]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(SCALARS, inner, max_size=3) | st.tuples(inner, inner),
    max_leaves=6,
)
"""What a person might give in place of something else."""
