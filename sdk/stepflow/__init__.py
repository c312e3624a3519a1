"""Durable step functions on Redis.

A function is ordinary Python. Each ``ctx.step.run`` in it is executed, persisted and retried independently::

    app = Stepflow("shop")

    @app.function("import-images", event="shop/product.imported")
    async def import_images(ctx: Context) -> int:
        urls = await ctx.step.run("copy", copy_images, ctx.event.data["urls"])
        return len(urls)

    app.send("shop/product.imported", {"urls": []})

Run it with ``stepflow dev module:app``, or with ``stepflow-worker module:app`` and a Redis server.

All errors are in one tree::

    StepflowError
    ├─ NonRetriableError            raise it to stop retrying
    │  └─ HistoryMismatchError      the code requests other steps than the history of its run records
    ├─ RetryAfterError              raise it to set the time of the next attempt
    ├─ StepError                    a step failed for good
    │  ├─ MapFailedError            more items of a map failed than may fail
    │  └─ InvokeError               an invoked function gave no result (also a NonRetriableError)
    │     ├─ FunctionNotFoundError
    │     ├─ InvokeTimeoutError
    │     ├─ InvokeSkippedError
    │     └─ InvokeCancelledError
    ├─ HandlerProcessError          the process of an isolated handler has ended before the handler
    ├─ StepOutputError              a result is not JSON, or is over a limit
    ├─ StepUsageError               a step tool is used incorrectly (also a ValueError)
    │  ├─ StepKindError             the id of a step belongs to a step of another kind
    │  └─ MapItemsError             the items of a map are not those with which it began
    ├─ LimitError                   a run is over a limit
    ├─ EventError                   an event is not JSON, or is over a limit
    ├─ SignalError                  a signal is invalid, is not JSON, or is over a limit (also a ValueError)
    ├─ AnswerError                  an answer does not fit, or nothing waits for it (also a ValueError)
    ├─ ForkError                    a run cannot be run again as requested (also a ValueError)
    ├─ HistoryFileError             a file is not a history that can be replayed (also a ValueError)
    ├─ BulkNotFoundError            no bulk has this id
    ├─ RunError                     a client waits for a run that gives no result
    │  ├─ RunFailedError
    │  ├─ RunCancelledError
    │  ├─ RunSkippedError
    │  ├─ RunNotFoundError
    │  ├─ RunEndedError
    │  └─ ResultTimeoutError
    ├─ DecryptionError              an encrypted payload cannot be opened
    │  └─ EncryptionKeyMissingError
    ├─ ConfigurationError           names the setting and the fix
    │  ├─ FilterError               a filter of runs is invalid, or names what does not exist (also a ValueError)
    │  ├─ ScheduleNotFoundError     there is no such schedule
    │  └─ PermissionDeniedError     the Redis user does not have the right
    └─ BackendUnavailableError      the Redis server cannot be used now
       ├─ CorruptDataError          stored data is damaged, or was not written by stepflow
       └─ ReplicationError          no replica has confirmed what was sent
"""

from stepflow.app import Stepflow
from stepflow.client.asks import Ask
from stepflow.client.bulk import Bulk
from stepflow.client.delayed_events import DelayedEvent
from stepflow.client.find import AsyncRunIterator, RunIterator
from stepflow.client.flow_limits import FlowLimit, FlowLimits
from stepflow.client.run import Run
from stepflow.client.run_info import AttemptInfo, RunInfo, StepInfo
from stepflow.client.schedule_info import Schedule, ScheduledRun
from stepflow.client.schedules import Schedules
from stepflow.event import Event
from stepflow.functions.child_handle import ChildHandle, SyncChildHandle
from stepflow.functions.context import Context, SyncContext
from stepflow.functions.function import Function
from stepflow.functions.maps import MapResult
from stepflow.functions.reference import FunctionReference, reference_function
from stepflow.functions.step_tools import StepTools
from stepflow.functions.sync_step_tools import SyncStepTools
from stepflow.options.cancellation import CancelOn, Timeouts
from stepflow.options.encryption import Encryption
from stepflow.options.flow_control import Batch, Concurrency, Debounce, RateLimit, Singleton, Throttle
from stepflow.options.start import RunOptions, StartOptions
from stepflow.options.step import MapOptions, StepOptions
from stepflow.options.triggers import CronTrigger, EventTrigger
from stepflow.signals import Signal
from stepflow_broker.transitions.audit import AuditEntry
from stepflow_broker.transitions.pauses import Pause
from stepflow_broker.views.bulk_view import BulkInfo, BulkReason
from stepflow_broker.views.error_groups import ErrorGroup
from stepflow_broker.views.explain import Reason
from stepflow_broker.views.map_view import MapProgress
from stepflow_engine.around_attempt import Attempt
from stepflow_engine.errors import (
    AnswerError,
    BackendUnavailableError,
    BulkNotFoundError,
    ConfigurationError,
    CorruptDataError,
    DecryptionError,
    EncryptionKeyMissingError,
    EventError,
    FilterError,
    ForkError,
    FunctionNotFoundError,
    HandlerProcessError,
    HistoryFileError,
    HistoryMismatchError,
    InvokeCancelledError,
    InvokeError,
    InvokeSkippedError,
    InvokeTimeoutError,
    LimitError,
    MapFailedError,
    MapItemsError,
    NonRetriableError,
    PermissionDeniedError,
    ReplicationError,
    ResultTimeoutError,
    RetryAfterError,
    RunCancelledError,
    RunEndedError,
    RunError,
    RunFailedError,
    RunNotFoundError,
    RunSkippedError,
    ScheduleNotFoundError,
    SignalError,
    StepError,
    StepflowError,
    StepKindError,
    StepOutputError,
    StepUsageError,
)
from stepflow_engine.failure import Failure
from stepflow_engine.handler_control import StepCancelled
from stepflow_engine.item_failure import ItemFailure
from stepflow_engine.limits import Limits
from stepflow_engine.retry_policy import Retry
from stepflow_engine.state_machine import RunStatus
from stepflow_engine.version import __version__ as __version__

__all__ = [
    "AnswerError",
    "Ask",
    "AsyncRunIterator",
    "Attempt",
    "AttemptInfo",
    "AuditEntry",
    "BackendUnavailableError",
    "Batch",
    "Bulk",
    "BulkInfo",
    "BulkNotFoundError",
    "BulkReason",
    "CancelOn",
    "ChildHandle",
    "Concurrency",
    "ConfigurationError",
    "Context",
    "CorruptDataError",
    "CronTrigger",
    "Debounce",
    "DecryptionError",
    "DelayedEvent",
    "Encryption",
    "EncryptionKeyMissingError",
    "ErrorGroup",
    "Event",
    "EventError",
    "EventTrigger",
    "Failure",
    "FilterError",
    "FlowLimit",
    "FlowLimits",
    "ForkError",
    "Function",
    "FunctionNotFoundError",
    "FunctionReference",
    "HandlerProcessError",
    "HistoryFileError",
    "HistoryMismatchError",
    "InvokeCancelledError",
    "InvokeError",
    "InvokeSkippedError",
    "InvokeTimeoutError",
    "ItemFailure",
    "LimitError",
    "Limits",
    "MapFailedError",
    "MapItemsError",
    "MapOptions",
    "MapProgress",
    "MapResult",
    "NonRetriableError",
    "Pause",
    "PermissionDeniedError",
    "RateLimit",
    "Reason",
    "ReplicationError",
    "ResultTimeoutError",
    "Retry",
    "RetryAfterError",
    "Run",
    "RunCancelledError",
    "RunEndedError",
    "RunError",
    "RunFailedError",
    "RunInfo",
    "RunIterator",
    "RunNotFoundError",
    "RunOptions",
    "RunSkippedError",
    "RunStatus",
    "Schedule",
    "ScheduleNotFoundError",
    "ScheduledRun",
    "Schedules",
    "Signal",
    "SignalError",
    "Singleton",
    "StartOptions",
    "StepCancelled",
    "StepError",
    "StepInfo",
    "StepKindError",
    "StepOptions",
    "StepOutputError",
    "StepTools",
    "StepUsageError",
    "Stepflow",
    "StepflowError",
    "SyncChildHandle",
    "SyncContext",
    "SyncStepTools",
    "Throttle",
    "Timeouts",
    "reference_function",
]
