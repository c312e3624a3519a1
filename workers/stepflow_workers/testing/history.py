"""What a run has done, as values that a test compares: ``h.history(run) == [ran("reserve"), slept("cool", "3d")]``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stepflow.client.run_info import StepInfo
from stepflow_engine.durations import Duration, duration_ms, show_duration
from stepflow_engine.steps import StepKind

__all__ = [
    "Answered",
    "Failed",
    "HistoryRecord",
    "Invoked",
    "Pending",
    "Ran",
    "Sent",
    "Signalled",
    "Slept",
    "Waited",
    "answered",
    "failed",
    "history_of",
    "invoked",
    "pending",
    "ran",
    "sent",
    "signalled",
    "slept",
    "waited",
]


@dataclass(frozen=True, slots=True)
class Ran:
    """A ``step.run`` that has succeeded."""

    id: str
    attempts: int = 1


@dataclass(frozen=True, slots=True)
class Failed:
    """A step that has failed for good, with the name of its error."""

    id: str
    error: str
    attempts: int = 1


@dataclass(frozen=True, slots=True)
class Slept:
    """A sleep that is over, and how long it was, to the second."""

    id: str
    duration: str


@dataclass(frozen=True, slots=True)
class Waited:
    """A wait for an event that is over."""

    id: str
    timed_out: bool = False


@dataclass(frozen=True, slots=True)
class Signalled:
    """A wait for a signal that is over."""

    id: str
    timed_out: bool = False


@dataclass(frozen=True, slots=True)
class Answered:
    """An ask that is over, with or without an answer."""

    id: str
    timed_out: bool = False


@dataclass(frozen=True, slots=True)
class Invoked:
    """A function that was invoked and has completed, or a child that was started."""

    id: str


@dataclass(frozen=True, slots=True)
class Sent:
    """A step that has sent events."""

    id: str


@dataclass(frozen=True, slots=True)
class Pending:
    """A step that has not ended: it executes, is retried or waits."""

    id: str


HistoryRecord = Ran | Failed | Slept | Waited | Signalled | Answered | Invoked | Sent | Pending


def ran(id: str, *, attempts: int = 1) -> Ran:
    """A ``step.run`` that has succeeded, with this attempt."""
    return Ran(id, attempts)


def failed(id: str, error: str | type[BaseException], *, attempts: int = 1) -> Failed:
    """A step that has failed for good, with the class of its error or its name."""
    return Failed(id, error if isinstance(error, str) else error.__name__, attempts)


def slept(id: str, duration: Duration) -> Slept:
    """A sleep of this duration. Times of a minute and more are compared to the second.

    Raises:
        ValueError: it is no duration.
    """
    return Slept(id, _shown(duration_ms(duration, name="slept: duration")))


def waited(id: str, *, timed_out: bool = False) -> Waited:
    """A wait for an event, which came or not in time."""
    return Waited(id, timed_out)


def signalled(id: str, *, timed_out: bool = False) -> Signalled:
    """A wait for a signal, which came or not in time."""
    return Signalled(id, timed_out)


def answered(id: str, *, timed_out: bool = False) -> Answered:
    """An ask, which was answered or not in time."""
    return Answered(id, timed_out)


def invoked(id: str) -> Invoked:
    """A function that was invoked and has completed, or a child that was started."""
    return Invoked(id)


def sent(id: str) -> Sent:
    """A step that has sent events."""
    return Sent(id)


def pending(id: str) -> Pending:
    """A step that has not ended."""
    return Pending(id)


def history_of(steps: Sequence[StepInfo]) -> list[HistoryRecord]:
    """The records of the steps of a run."""
    return [_record(step) for step in steps]


def _record(step: StepInfo) -> HistoryRecord:
    if step.state not in ("done", "failed"):
        return Pending(step.id)
    if step.state == "failed":
        return Failed(step.id, step.error.name if step.error else "", max(1, step.attempts))
    match step.kind:
        case StepKind.SLEEP:
            lasted = step.ended_at - step.started_at if step.ended_at and step.started_at else None
            return Slept(step.id, _shown(round(lasted.total_seconds() * 1000)) if lasted is not None else "")
        case StepKind.WAIT:
            return Waited(step.id, step.output is None)
        case StepKind.SIGNAL:
            return Signalled(step.id, step.output is None)
        case StepKind.ASK:
            return Answered(step.id, not step.answered_by)
        case StepKind.INVOKE | StepKind.START:
            return Invoked(step.id)
        case StepKind.SEND:
            return Sent(step.id)
        case _:
            return Ran(step.id, max(1, step.attempts))


def _shown(lasted_ms: int) -> str:
    """A duration as text. What takes a minute and more is rounded to the second: a worker is not exact."""
    return show_duration(lasted_ms if lasted_ms < 60_000 else round(lasted_ms / 1000) * 1000)
