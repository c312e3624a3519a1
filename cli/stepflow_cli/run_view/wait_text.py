"""The text for steps that sleep, or wait for an event, a signal or an answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from stepflow_broker.transitions.runs.attempts import UNFINISHED
from stepflow_broker.views.wait_view import WaitView
from stepflow_cli.formatting import brief, cut, printable, waits_until
from stepflow_engine.steps import StepKind

__all__ = ["ended_text", "wait_text", "wait_texts"]

_MAX_SHOWN = 3
_LONGEST_CONDITION = 120


def wait_text(wait: WaitView, now: int) -> str:
    """What a step waits for, and until when."""
    until = waits_until(wait.until or now, now)
    match wait.kind:
        case StepKind.SLEEP:
            return f"sleeping {until}"
        case StepKind.SIGNAL:
            return f"waits for signal {printable(wait.signal)} {until}"
        case StepKind.ASK:
            of = f" of {printable(wait.to)}" if wait.to else ""
            return f"waits for an answer{of} {until}"
    match = f" with {_match(wait)}" if wait.match else ""
    condition = f" if {cut(printable(wait.condition), _LONGEST_CONDITION)}" if wait.condition else ""
    return f"waits for event {printable(wait.event)}{match}{condition} {until}"


def wait_texts(waits: Sequence[WaitView], now: int) -> list[str]:
    """What a run waits for: a text for each of the first waits, then the number of the others."""
    texts = [wait_text(wait, now) for wait in waits[:_MAX_SHOWN]]
    more = len(waits) - len(texts)
    return [*texts, f"and {more:,} more"] if more else texts


def ended_text(wait: WaitView, result: Any) -> str:
    """How a wait ended; ``result`` is the result of its step."""
    if wait.kind == StepKind.SLEEP:
        return "slept until the run ended" if wait.outcome == UNFINISHED else "slept"
    if wait.kind == StepKind.ASK:
        what = "an answer" + (f" of {printable(wait.to)}" if wait.to else "")
    else:
        what = f"signal {printable(wait.signal)}" if wait.signal else f"event {printable(wait.event)}"
    if wait.outcome == "time":
        return f"timed out waiting for {what}"
    if wait.outcome == UNFINISHED:
        return f"waited for {what} until the run ended"
    if wait.kind == StepKind.ASK:
        return f"answered by {printable(wait.answered_by)}: {printable(brief(result))}"
    data = result.get("data") if isinstance(result, dict) else None
    return f"received {what}: {printable(brief(data))}"


def _match(wait: WaitView) -> str:
    """The values that the event must have; of a wait that an older worker began, only the paths."""
    if not isinstance(wait.values, dict):
        return printable(", ".join(wait.match))
    return printable(" and ".join(f"{path} = {brief(value, 60)}" for path, value in wait.values.items()))
