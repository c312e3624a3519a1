"""The first step in which two runs differ, such as a run and its fork."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from stepflow_broker.views.run_details import RunDetails
from stepflow_broker.views.step_view import StepView

__all__ = ["Difference", "diff_runs"]

_MISSING = object()
_MAX_PATHS = 50


@dataclass(frozen=True, slots=True)
class Difference:
    """One difference between two runs.

    Attributes:
        step: the id of the step; ``""``: the runs themselves.
        what: ``function``, ``event``, ``step``, ``state``, ``result``, ``error``, ``status`` or ``output``.
        path: the JSON pointer of the value that differs; ``""``: the whole value.
        left, right: the two values; ``None`` where there is none.
    """

    step: str
    what: str
    path: str
    left: Any
    right: Any

    def to_json(self) -> dict[str, Any]:
        """The fields of the JSON output."""
        return {"step": self.step or None, "what": self.what, "path": self.path, "a": self.left, "b": self.right}


def diff_runs(left: RunDetails, right: RunDetails) -> list[Difference]:
    """How two runs differ: in their function and event, in the first step that differs, and in their ends."""
    return [*_beginnings(left, right), *_first_step(left.steps, right.steps), *_ends(left, right)]


def _beginnings(left: RunDetails, right: RunDetails) -> Iterator[Difference]:
    if left.run.name != right.run.name:
        yield Difference("", "function", "", left.run.name, right.run.name)
    yield from _values("", "event", left.run.event["data"], right.run.event["data"])


def _ends(left: RunDetails, right: RunDetails) -> Iterator[Difference]:
    if left.run.status is not right.run.status:
        yield Difference("", "status", "", left.run.status.value, right.run.status.value)
    yield from _values("", "output", left.run.output, right.run.output)


def _first_step(left: Sequence[StepView], right: Sequence[StepView]) -> list[Difference]:
    """The difference of the first step, in the order of the results of the left run, that the right one has otherwise.

    Steps are the same by their id, and by their number if several have one id. Steps beside each other may end in
    another order.
    """
    others, known = {step.key: step for step in right}, {step.key for step in left}
    more = next((step for step in right if step.key not in known), None)
    for one in left:
        other = others.get(one.key)
        if other is None:
            return [Difference(one.id, "step", "", one.id, more and more.id)]
        if differences := list(_steps(one, other)):
            return differences
    return [Difference(more.id, "step", "", None, more.id)] if more else []


def _steps(one: StepView, other: StepView) -> Iterator[Difference]:
    if one.state != other.state:
        yield Difference(one.id, "state", "", one.state, other.state)
    yield from _values(one.id, "result", one.result, other.result)
    errors = [step.failure and f"{step.failure.name}: {step.failure.message}" for step in (one, other)]
    if errors[0] != errors[1]:
        yield Difference(one.id, "error", "", errors[0], errors[1])


def _values(step: str, what: str, left: Any, right: Any) -> Iterator[Difference]:
    for path, one, other in itertools.islice(_unequal("", left, right), _MAX_PATHS):
        yield Difference(step, what, path, *(None if value is _MISSING else value for value in (one, other)))


def _unequal(path: str, left: Any, right: Any) -> Iterator[tuple[str, Any, Any]]:
    """The parts of two JSON values that differ: their JSON pointer, and both values."""
    if type(left) is type(right) and left == right:
        return
    if isinstance(left, dict) and isinstance(right, dict):
        for name in dict.fromkeys((*left, *right)):
            pointer = f"{path}/{name.replace('~', '~0').replace('/', '~1')}"
            yield from _unequal(pointer, left.get(name, _MISSING), right.get(name, _MISSING))
    elif isinstance(left, list) and isinstance(right, list):
        for at in range(max(len(left), len(right))):
            yield from _unequal(f"{path}/{at}", _at(left, at), _at(right, at))
    else:
        yield path, left, right


def _at(values: list[Any], at: int) -> Any:
    return values[at] if at < len(values) else _MISSING
