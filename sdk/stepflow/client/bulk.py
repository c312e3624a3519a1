"""The handle of a bulk: a job of the workers that runs many runs again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from stepflow.client.pauses import check_reason
from stepflow_broker.protocol.status import ScriptStatus
from stepflow_broker.redis_client.operation import Operation, arun_operation, run_operation, single
from stepflow_broker.transitions.runs.bulks import stop_bulk
from stepflow_broker.views.bulk_view import BulkInfo, read_bulk_info
from stepflow_engine.durations import Duration, duration_ms
from stepflow_engine.errors import BulkNotFoundError, ForkError

if TYPE_CHECKING:
    from stepflow.client.backend import Backend

__all__ = ["Bulk"]

_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 1.0


class Bulk:
    """A handle of a bulk, made by `Stepflow.fork_many` and `Stepflow.bulk`.

    The bulk lives in Redis, and the workers execute it. It goes on when this process ends. An ended bulk is kept for 7
    days.

    Attributes:
        id: the id of the bulk; ``""``: a dry run, which has started nothing.
        matched: how many runs were selected.
        sample: the ids of some of them, the newest first; empty if the handle was made by `Stepflow.bulk`.
        dry_run: whether it was a dry run.
        unreadable: how many runs were left out because this process lacks the key of their event or error, with which
            ``if_`` or ``error`` were to be compared.

    Example::

        bulk = app.fork_many("order", since="2d", reason="the bank is open")
        print(bulk.id, bulk.matched, bulk.wait().done)
    """

    def __init__(
        self,
        backend: Backend,
        bulk_id: str,
        *,
        matched: int,
        sample: Sequence[str] = (),
        dry_run: bool = False,
        unreadable: int = 0,
    ) -> None:
        self.id = bulk_id
        self.matched = matched
        self.sample = tuple(sample)
        self.dry_run = dry_run
        self.unreadable = unreadable
        self._backend = backend

    def __repr__(self) -> str:
        return f"Bulk({self.id!r}, matched={self.matched})"

    def info(self) -> BulkInfo:
        """How far the bulk is, and what became of its runs.

        Raises:
            BulkNotFoundError: it ended over 7 days ago.
            ForkError: it is a dry run.
            BackendUnavailableError: the server does not answer.

        Example::

            info = bulk.info()
            print(info.state, info.done, info.skipped, info.refused, "of", info.matched)
        """
        return run_operation(self._backend.broker, self._read())

    async def ainfo(self) -> BulkInfo:
        """The asyncio twin of `info`."""
        return await arun_operation(self._backend.abroker, self._read())

    def stop(self, reason: str = "") -> bool:
        """Stop the bulk. The runs that a worker has just taken are still run again; all others are left alone.

        Args:
            reason: is stored in the audit log.

        Returns:
            False if it was stopped or had ended.

        Raises:
            BulkNotFoundError: it ended over 7 days ago.
            ForkError: it is a dry run.
            ConfigurationError: the reason is invalid.
            BackendUnavailableError: the server does not answer.

        Example::

            bulk.stop(reason="the bank has closed again")
        """
        return run_operation(self._backend.broker, self._stop(check_reason(reason)))

    async def astop(self, reason: str = "") -> bool:
        """The asyncio twin of `stop`."""
        return await arun_operation(self._backend.abroker, self._stop(check_reason(reason)))

    def wait(self, timeout: Duration | None = None) -> BulkInfo:
        """Wait until the bulk has ended. Its new runs may still be live.

        Args:
            timeout: the longest wait, a duration or seconds; ``None``: no limit.

        Returns:
            The bulk at its end, or at the timeout: see `BulkInfo.ended`.

        Raises:
            StepUsageError: the call is in an ``async def`` that a worker executes; await `await_end` there.
            BulkNotFoundError: it ended over 7 days ago.
            ForkError: it is a dry run.
            BackendUnavailableError: the server does not answer.

        Example::

            print(bulk.wait(timeout="10m").state)
        """
        self._backend.refuse_to_block("bulk.wait", "await bulk.await_end()")
        pauses = _pauses(timeout)
        while not (info := self.info()).ended and (pause_s := next(pauses)) > 0:
            time.sleep(pause_s)
        return info

    async def await_end(self, timeout: Duration | None = None) -> BulkInfo:
        """The asyncio twin of `wait`."""
        pauses = _pauses(timeout)
        while not (info := await self.ainfo()).ended and (pause_s := next(pauses)) > 0:
            await asyncio.sleep(pause_s)
        return info

    def _read(self) -> Operation[BulkInfo]:
        return read_bulk_info(self._backend.partition, self._started_id())

    def _stop(self, reason: str) -> Operation[bool]:
        call = stop_bulk(self._backend.partition, self._started_id(), who=self._backend.actor, reason=reason)
        status = yield from single(call)
        if status is ScriptStatus.NO_RUN:
            raise BulkNotFoundError(f"no bulk has the id {self.id!r}, or it ended over 7 days ago")
        return status is ScriptStatus.DONE

    def _started_id(self) -> str:
        if self.dry_run:
            raise ForkError("fork_many: this was a dry run, which has started nothing: call it without dry_run=True")
        return self.id


def _pauses(timeout: Duration | None) -> Iterator[float]:
    """How long to sleep between two looks, in seconds; 0: the timeout is over."""
    ends_at = None if timeout is None else time.monotonic() + duration_ms(timeout, name="timeout") / 1000
    pause_s = _FIRST_PAUSE_S
    while True:
        yield pause_s if ends_at is None else max(0.0, min(pause_s, ends_at - time.monotonic()))
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
