"""Replays the history of a run on a terminal, and opens a debugger in the code where it requests something new.

The code runs in the main thread, over the results that the run has stored. No handler is executed and nothing is
stored. The debugger opens in the frame that requests the first step without a result, or a step that is named. A
``breakpoint()`` in the code opens one too.
"""

from __future__ import annotations

import asyncio
import pdb
from collections.abc import Callable
from types import FrameType

from stepflow import Function
from stepflow.replay.history import RunHistory
from stepflow.replay.recording import RecordingExecution
from stepflow.replay.replayed import Replayed
from stepflow.replay.replayer import replay
from stepflow_engine.call_site import frame_of_running_call
from stepflow_engine.ids import numbered_keys
from stepflow_engine.memo import Memo
from stepflow_engine.run_loop import RunLoop
from stepflow_engine.steps import StepRequest

__all__ = ["debug_replay", "open_debugger"]

Stop = Callable[[str, str, FrameType], None]


def debug_replay(function: Function, history: RunHistory, *, before: str | None, stop: Stop) -> tuple[Replayed, bool]:
    """Replay a run up to the end of its history; returns what the code has done, and whether it was stopped.

    Args:
        before: the id of the step at whose request ``stop`` is called; ``charge#2`` is the second step with the id
            ``charge``. ``None``: the first step without a result.
        stop: is called once, with the id and the kind of the step, and the frame that requests it.
    """
    results = {key for key, _ in history.memos}
    keys = None if before is None else set(numbered_keys(before, history.round))
    stops: list[str] = []

    class Debugged(RecordingExecution):
        _requesting = ("", "")

        async def request(self, step_id: str, request: StepRequest, key: str | None = None) -> Memo:
            self._requesting = (step_id, str(request.kind))
            return await super().request(step_id, request, key)

        def _next_key(self, step_id: str, key: str | None) -> str:
            key = super()._next_key(step_id, key)
            is_wanted = key not in results if keys is None else key in keys
            frame = frame_of_running_call(step_id, self.threads) if is_wanted and not stops else None
            if frame is not None:
                stops.append(key)
                stop(*self._requesting, frame)
            return key

    with asyncio.Runner(loop_factory=RunLoop) as runner:
        replayed = runner.run(replay(function, history, timeout_s=None, kind=Debugged))
    return replayed, bool(stops)


def open_debugger(frame: FrameType) -> None:
    """Open the debugger of the standard library in a frame, on the terminal of this process."""
    debugger = pdb.Pdb(nosigint=True)
    debugger.reset()
    debugger.interaction(frame, None)
