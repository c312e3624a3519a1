"""The test kit: runs apps on a real server and a real worker, with a clock that the test turns.

Example::

    from stepflow.testing import SyncHarness, ran, slept


    def test_a_customer_is_reminded_after_three_days() -> None:
        with SyncHarness(app) as h:
            h.stub("mail", returns="sent")
            run = h.start(remind, {"order": 17})
            assert h.finish(run) == "sent"
            assert h.history(run) == [slept("patience", "3d"), ran("mail")]

The kit is a worker, so its code is in `stepflow_workers.testing`. ``import stepflow`` does not import it.
"""

from stepflow_workers.testing.clock import VirtualClock
from stepflow_workers.testing.errors import NotIdleError, Stuck, UnusedStubError
from stepflow_workers.testing.harness import Harness
from stepflow_workers.testing.history import (
    HistoryRecord,
    answered,
    failed,
    invoked,
    pending,
    ran,
    sent,
    signalled,
    slept,
    waited,
)
from stepflow_workers.testing.replays import assert_replays
from stepflow_workers.testing.stubs import StepCallRecord, Stub, UnstubbedStepError
from stepflow_workers.testing.sync_harness import SyncHarness

__all__ = [
    "Harness",
    "HistoryRecord",
    "NotIdleError",
    "StepCallRecord",
    "Stub",
    "Stuck",
    "SyncHarness",
    "UnstubbedStepError",
    "UnusedStubError",
    "VirtualClock",
    "answered",
    "assert_replays",
    "failed",
    "invoked",
    "pending",
    "ran",
    "sent",
    "signalled",
    "slept",
    "waited",
]
