"""RecordingExecution: a pass over the code of a run that notes what the code requests, and where."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from stepflow.replay.call_site import CallSite, call_site
from stepflow_engine.codec import restore
from stepflow_engine.errors import StepOutputError
from stepflow_engine.execution import Execution
from stepflow_engine.memo import Memo
from stepflow_engine.steps import RunRequest, StepRequest

__all__ = ["Recorded", "RecordingExecution"]


@dataclass(slots=True)
class Recorded:
    """A request of the code.

    Attributes:
        id, request: the step.
        site: where the code calls it; ``None``: unknown.
        memo: what the code has received; ``None``: nothing yet.
        misfit: why the result does not fit the type that the code declares; ``""``: it does.
    """

    id: str
    request: StepRequest
    site: CallSite | None
    memo: Memo | None = None
    misfit: str = ""


class RecordingExecution(Execution):
    """A pass that executes nothing, logs nothing and stores nothing.

    Attributes:
        recorded: the requests of the code in their order, by the keys of the steps.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.recorded: dict[str, Recorded] = {}
        self._requested_now: Recorded | None = None

    async def request(self, step_id: str, request: StepRequest, key: str | None = None) -> Memo:
        """Note the request, and give the memo of the step; see `Execution.request`."""
        recorded = self._requested_now = Recorded(step_id, request, call_site(self, step_id))
        memo = await super().request(step_id, request, key)
        recorded.memo = memo
        if isinstance(request, RunRequest) and memo.failure is None:
            try:
                restore(request.adapter, memo.data, what=f"step {step_id!r}")
            except StepOutputError as error:  # the code may catch it
                recorded.misfit = str(error)
        return memo

    def _next_key(self, step_id: str, key: str | None) -> str:
        key = super()._next_key(step_id, key)
        if self._requested_now is not None:
            self.recorded[key] = self._requested_now
        return key

    @property
    def may_log(self) -> bool:
        """Never: what the code would log is not new."""
        return False
