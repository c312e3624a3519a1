"""Finds calls between steps whose result differs from replay to replay: the clock, random numbers, new ids.

The code of a function runs again after every step, so such a call gives another value each time. In the handler of a
step it is right. Names are resolved, so that another function with the name ``now`` is no finding.
"""

from __future__ import annotations

import ast
import datetime
import os
import random
import secrets
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from stepflow.functions.code_calls import CodeCall, attribute, calls_between_steps
from stepflow.functions.function import Function

__all__ = ["ReplayFinding", "lint_function"]

_CLOCK = "ctx.now()"
_CLOCKS: tuple[Any, ...] = (
    time.time,
    time.time_ns,
    time.monotonic,
    time.monotonic_ns,
    time.perf_counter,
    time.perf_counter_ns,
    time.process_time,
    time.process_time_ns,
    time.thread_time,
    time.thread_time_ns,
)
_FORMATS: tuple[tuple[Any, int], ...] = (
    (time.localtime, 0),
    (time.gmtime, 0),
    (time.ctime, 0),
    (time.asctime, 0),
    (time.strftime, 1),
)
"""Functions that read the clock if they have no more than this number of arguments."""
_IDS: tuple[Any, ...] = tuple(
    getattr(uuid, name) for name in ("uuid1", "uuid4", "uuid6", "uuid7") if hasattr(uuid, name)
)
_CLOCK_CLASSES = (datetime.datetime, datetime.date)
_CLOCK_METHODS = frozenset({"now", "utcnow", "today"})
_IN_A_STEP = "a step"


@dataclass(frozen=True, slots=True)
class ReplayFinding:
    """A call whose result differs from replay to replay.

    Attributes:
        path, line: where it is.
        function: the function whose code makes the call, as ``app/id``.
        call: the name that it calls, as it is written.
        instead: what to use in its place.
    """

    path: str
    line: int
    function: str
    call: str
    instead: str

    @property
    def message(self) -> str:
        """What is wrong, and what to do."""
        return f"{self.call}() has another value on each replay of {self.function}: use {self.instead}"


def lint_function(function: Function[Any, Any]) -> list[ReplayFinding]:
    """The findings in the code of a function, in the order of the lines. A call with ``# replay: ok`` is none."""
    findings = dict.fromkeys(_findings(function.name, calls_between_steps(function)))
    return sorted(findings, key=lambda finding: (finding.path, finding.line))


def _findings(name: str, calls: Iterator[CodeCall]) -> Iterator[ReplayFinding]:
    for one in calls:
        if one.target is None or any("# replay: ok" in written for written in one.lines):
            continue
        if (instead := _instead(one.target, len(one.call.args) + len(one.call.keywords))) is not None:
            yield ReplayFinding(one.path, one.call.lineno, name, ast.unparse(one.call.func), instead)


def _instead(target: Any, arguments: int) -> str | None:
    """What to use in the place of a call; ``None``: the call is right."""
    owner = attribute(target, "__self__")
    reads_clock = _is_one_of(target, _CLOCKS) or any(target is one and arguments <= most for one, most in _FORMATS)
    if reads_clock or (_is_one_of(owner, _CLOCK_CLASSES) and attribute(target, "__name__") in _CLOCK_METHODS):
        return f"{_CLOCK}, or call it in {_IN_A_STEP}"
    if _is_one_of(target, _IDS):
        return f"ctx.uuid(), or call it in {_IN_A_STEP}"
    is_secret = target is os.urandom or type(owner) is random.SystemRandom
    if is_secret or attribute(target, "__module__") == secrets.__name__:
        return _IN_A_STEP
    is_unseeded = target is random.SystemRandom or (target is random.Random and not arguments)
    if is_unseeded or issubclass(type(owner), random.Random):
        return f"ctx.random(), or call it in {_IN_A_STEP}"
    return None


def _is_one_of(target: object, known: tuple[object, ...]) -> bool:
    return any(target is one for one in known)
