"""Drives the scripts by their typed calls: a clock of its own, and the invariants checked after every call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any, TypeVar

from stepflow_broker.protocol.command import Command, command
from stepflow_broker.protocol.keys import Keys
from stepflow_broker.protocol.partition import Partition
from stepflow_broker.protocol.status import ScriptStatus
from stepflow_broker.registry.flow_control import FlowConfig, RateConfig
from stepflow_broker.registry.function_config import FunctionConfig
from stepflow_broker.transitions.invokes import invokes
from stepflow_broker.transitions.invokes.invokes import ChildStart, HandleStart, Resolved
from stepflow_broker.transitions.invokes.outbox import StartChild
from stepflow_broker.transitions.jobs import continuations, job_claims, timers
from stepflow_broker.transitions.jobs.job_claims import Lease, queue_lists
from stepflow_broker.transitions.jobs.leases import extend_leases, reclaim_leases
from stepflow_broker.transitions.runs import run_control, run_ends, run_memos, run_record, run_starts
from stepflow_broker.transitions.runs.attempts import AttemptRecord, attempt_detail, executing_report, read_attempts
from stepflow_broker.transitions.runs.run_record import RunRecord
from stepflow_broker.transitions.steps import maps, step_jobs, step_record
from stepflow_broker.transitions.steps.step_record import StepRecord
from stepflow_engine.cipher import NO_ENCRYPTION
from stepflow_engine.codec import dumps
from stepflow_engine.error_group import FailedLike
from stepflow_engine.failure import Failure
from stepflow_engine.ids import child_key, is_item_key, round_key, step_key
from stepflow_engine.memo import memo_of_data, memo_of_failure
from stepflow_engine.state_machine import RunStatus
from stepflow_engine.steps import StepKind
from tests.support.backends import Store
from tests.support.invariants import Part, check_invariants
from tests.support.plain import SetClock
from tests.support.snapshots import look

__all__ = [
    "DIGEST",
    "ERROR",
    "GROUP_OF_ERRORS",
    "LEASE_MS",
    "NOBODY",
    "RETENTION_MS",
    "STARTED_MEMO",
    "START_MS",
    "TIMEOUT_MEMO",
    "Driver",
    "memo",
]

T = TypeVar("T")
START_MS = 1_763_200_000_000
LEASE_MS = 10_000
RETENTION_MS = 3_600_000
_END = "-- end of the messages --"
TIMEOUT_MEMO = memo_of_failure(Failure("InvokeTimeoutError", "too late"), {"id": "call"})
STARTED_MEMO = memo_of_data(b"null", {"id": "call", "kind": StepKind.START})
DIGEST = "0123456789abcdef"
"""Of the event of a round."""
GROUP_OF_ERRORS = "0123456789abcdef"
_FAILED_LIKE = FailedLike(GROUP_OF_ERRORS, "charge", "ValueError", "no")
ERROR = dumps(Failure("ValueError", "no").to_json())
_EMPTY: dict[str, object] = {"str": "", "int": 0, "tuple[str, ...]": (), "bool": False, "bytes | None": None}
NOBODY = Lease(
    **(
        {field.name: _EMPTY[str(field.type)] for field in fields(Lease)}
        | {"job": "nobody", "run_id": "nobody", "fence": 1}
    )  # type: ignore[arg-type]
)
"""A lease of a run that does not exist."""


def memo(value: object = 1, *, worker: str = "w1") -> bytes:
    """The stored text of a step's success."""
    return memo_of_data(dumps(value), {"id": "a", "worker": worker})


class Driver:
    """Calls the scripts on one store.

    Args:
        store: the server.
        twice: send every call twice, and return the first answer, as a client does that lost the first reply.
        keys: those of the partition where it claims, reclaims and fires timers.
    """

    def __init__(self, store: Store, *, now_ms: int = START_MS, twice: bool = False, keys: Keys | None = None) -> None:
        self.store = store
        self.client = store.client
        self.keys = keys or Keys()
        self.partition = Partition.first_of(self.keys, NO_ENCRYPTION, SetClock(lambda: self.now_ms))
        self.now_ms = now_ms
        self.twice = twice

    def send(self, call: Command[T]) -> T:
        answer = self.store.broker.execute(call)
        self.check()
        if self.twice:
            self.store.broker.execute(call)
            self.check()
        return answer

    def check(self) -> None:
        """Fail if a partition is in a state that it must never be in."""
        held = look(self.client)
        for one in self.keys.all:
            check_invariants(Part(held, one.partition))

    # -- transitions -------------------------------------------------------------

    def start(
        self, run: str = "run1", *, queue: str = "shop", dedupe: bool = False, rate: RateConfig | None = None
    ) -> ScriptStatus:
        return self.send(self.starting(run, queue=queue, dedupe=dedupe, rate=rate))

    def starting(
        self, run: str, *, queue: str = "shop", dedupe: bool = False, rate: RateConfig | None = None
    ) -> Command[ScriptStatus]:
        """The call that starts a run."""
        event = dumps({"name": "e", "id": run, "ts": 1, "data": {}})
        config = FunctionConfig("shop", "buy", queue, flow=FlowConfig(rate), retention_ms=RETENTION_MS)
        return run_starts.start_run(self.partition, config, run_id=run, event=event, dedupe=dedupe)

    def claim(
        self,
        limit: int = 100,
        *,
        worker: str = "w1",
        queues: Sequence[str] = ("shop",),
        claim: int = 0,
        version: str = "",
    ) -> list[Lease] | None:
        """Claim jobs; never sent twice: without a number, the answer to the second names other jobs."""
        answer = self.store.broker.execute(
            job_claims.claim_jobs(
                self.partition,
                lists=queue_lists(queues),
                worker=worker,
                limit=limit,
                lease_ms=LEASE_MS,
                claim=claim,
                version=version,
            )
        )
        self.check()
        return None if answer is None else answer.leases

    def claim_one(self, *, worker: str = "w1", version: str = "") -> Lease:
        claimed = self.claim(1, worker=worker, version=version)
        assert claimed, "there was nothing to claim"
        return claimed[0]

    def started(self, run: str = "run1", *, worker: str = "w1") -> Lease:
        """A run that was started and claimed."""
        self.start(run)
        return self.claim_one(worker=worker)

    def commit(
        self, lease: Lease, step_id: str = "", *, text: bytes | None = None, keep: bool = True, worker: str = "w1"
    ) -> tuple[ScriptStatus, int]:
        """Commit the step of a lease; unless ``keep``, yield the run when that was accepted."""
        text = memo(worker=worker) if text is None else text
        if is_item_key(lease.key):
            return self.commit_item(lease, text), 0
        if lease.key:
            return self.commit_planned(lease, text, worker=worker)
        key = step_key(step_id)
        answer = self.send(
            step_jobs.commit_step(self.partition, run_id=lease.run_id, fence=lease.fence, key=key, memo=text)
        )
        if answer[0] is ScriptStatus.DONE and not keep:
            assert self.yield_run(lease) is ScriptStatus.DONE
        return answer

    def commit_planned(self, lease: Lease, text: bytes, *, worker: str) -> tuple[ScriptStatus, int]:
        return self.send(
            step_jobs.commit_planned_step(
                self.partition,
                run_id=lease.run_id,
                key=lease.key,
                fence=lease.fence,
                memo=text,
                worker=worker,
            )
        )

    def yield_run(self, lease: Lease) -> ScriptStatus:
        return self.send(continuations.yield_run(self.partition, run_id=lease.run_id, fence=lease.fence))

    def plan(self, lease: Lease, *step_ids: str, queue: str = "") -> ScriptStatus:
        steps = [(step_key(step_id), step_id) for step_id in step_ids]
        return self.send(
            step_jobs.plan_steps(self.partition, run_id=lease.run_id, fence=lease.fence, steps=steps, queue=queue)
        )

    def fail(self, lease: Lease, step_id: str = "", *, attempts: int = 1, delay_ms: int = 1_000) -> ScriptStatus:
        return self.send(
            step_jobs.fail_attempt(
                self.partition,
                run_id=lease.run_id,
                job_key=lease.key,
                fence=lease.fence,
                key=lease.key or step_key(step_id),
                step_id=lease.step_id or step_id,
                attempts=attempts,
                error=ERROR,
                delay_ms=delay_ms,
                attempt=self._attempt(attempts, lease.step_id or step_id) if attempts > lease.step_attempt else b"",
            )
        )

    def _attempt(self, number: int, step_id: str = "") -> bytes:
        """An attempt that took a second."""
        times = (self.now_ms - 1_000, self.now_ms) if step_id else None
        return attempt_detail(number=number, worker="w1", version=None, step_id=step_id, times=times)

    def retry(self, lease: Lease, *, attempts: int = 1, delay_ms: int = 1_000, reason: str = "") -> ScriptStatus:
        return self.send(
            continuations.retry_run(
                self.partition,
                run_id=lease.run_id,
                fence=lease.fence,
                attempts=attempts,
                error=b"" if reason else ERROR,
                delay_ms=delay_ms,
                reason=reason,
                attempt=b"" if reason else self._attempt(attempts),
            )
        )

    def defer(self, lease: Lease, *, delay_ms: int = 1_000) -> ScriptStatus:
        """Leave a job to other workers, as a worker does that cannot execute it."""
        longest_ms = 3_600_000
        if not lease.key:
            return self.send(
                continuations.retry_run(
                    self.partition,
                    run_id=lease.run_id,
                    fence=lease.fence,
                    attempts=lease.attempt,
                    error=b"",
                    delay_ms=delay_ms,
                    reason="unreadable",
                    longest_delay_ms=longest_ms,
                )
            )
        return self.send(
            step_jobs.fail_attempt(
                self.partition,
                run_id=lease.run_id,
                job_key=lease.key,
                fence=lease.fence,
                key=lease.key,
                step_id=lease.step_id,
                attempts=lease.step_attempt,
                error=ERROR,
                delay_ms=delay_ms,
                longest_delay_ms=longest_ms,
            )
        )

    def leave(self, lease: Lease, version: str) -> ScriptStatus:
        """Leave a job to workers with another version of its code."""
        call = job_claims.leave_job(
            self.partition, run_id=lease.run_id, key=lease.key, fence=lease.fence, version=version
        )
        return self.send(call)

    def park(self, lease: Lease, applied: int = 0) -> ScriptStatus:
        return self.send(
            continuations.park_run(self.partition, run_id=lease.run_id, fence=lease.fence, applied=applied)
        )

    def continue_run(self, run_id: str) -> ScriptStatus:
        return self.send(continuations.continue_run(self.partition, run_id))

    def finish(
        self,
        lease: Lease,
        status: RunStatus = RunStatus.COMPLETED,
        *,
        retention_ms: int = RETENTION_MS,
        version: str | None = None,
    ) -> ScriptStatus:
        payload = b'"done"' if status is RunStatus.COMPLETED else ERROR
        return self.send(
            run_ends.finish_run(
                self.partition,
                run_id=lease.run_id,
                fence=lease.fence,
                status=status,
                payload=payload,
                retention_ms=retention_ms,
                version=version,
                failed_like=_FAILED_LIKE if status is RunStatus.FAILED else None,
            )
        )

    def continue_as_new(self, lease: Lease, *, own_event: str = "", keep_version: bool = False) -> ScriptStatus:
        """End the round of a lease."""
        following = f"round{lease.round + 1}"
        return self.send(
            continuations.continue_as_new(
                self.partition,
                run_id=lease.run_id,
                fence=lease.fence,
                round=lease.round,
                event=dumps({"name": "e", "id": following, "ts": 1, "data": {"round": lease.round + 1}}),
                digest=DIGEST,
                own_event=own_event or f"round{lease.round}",
                keep_version=keep_version,
            )
        )

    def cancel(self, run: str = "run1", *, children: bool = True) -> ScriptStatus:
        return self.send(
            run_control.cancel_run(
                self.partition,
                run_id=run,
                failure=ERROR,
                retention_ms=RETENTION_MS,
                children=children,
            )
        )

    def release(self, *leases: Lease) -> int:
        return self.send(job_claims.release_jobs(self.partition, [(lease.job, lease.fence) for lease in leases]))

    def extend(self, *leases: Lease, executing: str = "") -> list[str]:
        held = [(lease.job, lease.fence) for lease in leases]
        report = executing_report(step_key(executing), executing, self.now_ms)
        reports = {lease.job: report for lease in leases} if executing else {}
        return self.send(extend_leases(self.partition, held, lease_ms=LEASE_MS, executing=reports))

    def reclaim(self, *, limit: int = 100) -> list[str]:
        """Reclaim leases, as a worker that has looked a moment before."""
        self.store.broker.execute(command(bytes, "SET", self.keys("LAST_LEASE_SCAN"), f"{self.now_ms} 0"))
        return self.send(reclaim_leases(self.partition, limit=limit))

    def fire(self, *, limit: int = 500) -> tuple[int, int]:
        return self.send(timers.fire_timers(self.partition, limit=limit))

    def invoke(
        self,
        lease: Lease,
        step_id: str = "call",
        *,
        child: str = "child1",
        timeout_ms: int = 60_000,
        refusal: bytes = b"",
        rate: RateConfig | None = None,
        version: int = 0,
    ) -> tuple[ScriptStatus, Resolved | None]:
        call = self.invoking(
            lease, step_id, child=child, timeout_ms=timeout_ms, refusal=refusal, rate=rate, version=version
        )
        return self.send(call)

    def invoking(
        self,
        lease: Lease,
        step_id: str = "call",
        *,
        child: str = "child1",
        timeout_ms: int = 60_000,
        refusal: bytes = b"",
        rate: RateConfig | None = None,
        version: int = 0,
    ) -> Command[tuple[ScriptStatus, Resolved | None]]:
        """The call by which a step invokes a function."""
        event = {"name": "e", "id": child, "ts": 1, "data": {}}
        start = ChildStart(
            key=lease.key or step_key(step_id),
            step_id=step_id,
            child=child,
            event=dumps(event),
            detail=dumps({"id": step_id})[1:],
            timeout_ms=timeout_ms,
            timeout_memo=TIMEOUT_MEMO,
            refusal=refusal,
            config=FunctionConfig("shop", "sell", "shop", flow=FlowConfig(rate), retention_ms=RETENTION_MS),
            depth=1,
        )
        return invokes.invoke_child(self.partition, start, run_id=lease.run_id, fence=lease.fence, version=version)

    def start_child(
        self,
        lease: Lease,
        step_id: str = "call",
        *,
        child: str = "child1",
        parent_close: str = "cancel",
        timeout_ms: int = 60_000,
        refusal: bytes = b"",
        rate: RateConfig | None = None,
        version: int = 0,
    ) -> tuple[ScriptStatus, list[Resolved | StartChild]]:
        """Start a child of which the code gets a handle. Its end is the step with the id ``<step_id> end``."""
        event = {"name": "e", "id": child, "ts": 1, "data": {}}
        key = step_key(step_id)
        end = ChildStart(
            key=child_key(key),
            step_id=f"{step_id} end",
            child=child,
            event=dumps(event),
            detail=dumps({"id": f"{step_id} end"})[1:],
            timeout_ms=timeout_ms,
            timeout_memo=TIMEOUT_MEMO,
            refusal=refusal,
            config=FunctionConfig("shop", "sell", "shop", flow=FlowConfig(rate), retention_ms=RETENTION_MS),
            depth=1,
        )
        start = HandleStart(key, refusal or STARTED_MEMO, end, parent_close)
        call = invokes.start_child(self.partition, start, run_id=lease.run_id, fence=lease.fence, version=version)
        return self.send(call)

    def begin_map(
        self,
        lease: Lease,
        step_id: str = "map",
        *,
        count: int,
        at_once: int = 2,
        tolerated: int = 0,
        room: int = 10_000,
        digest: str = "0" * 8,
        round: int = 0,
    ) -> ScriptStatus:
        key, detail = round_key(step_key(step_id), round), dumps({"id": step_id, "kind": "map"})[1:]
        start = maps.MapStart(key, step_id, detail, digest, count, at_once, tolerated, room)
        return self.send(maps.begin_map(self.partition, start, run_id=lease.run_id, fence=lease.fence))

    def commit_item(self, lease: Lease, text: bytes = b'{"data":1}') -> ScriptStatus:
        call = maps.commit_item(self.partition, run_id=lease.run_id, key=lease.key, fence=lease.fence, memo=text)
        return self.send(call)

    def results(self, step_id: str = "map", *, run: str = "run1") -> dict[int, str]:
        """The results of the items of a map that has not ended, by index."""
        stored = self.client.hgetall(self.keys("ITEMS", f"{run}:{step_key(step_id)}"))
        return {int(index): text for index, text in stored.items()}

    def wake(self, child: str = "child1", *, worker: str = "w1") -> Resolved | None:
        return self.send(invokes.wake_parent(self.partition, child, worker=worker))

    def advance(self, milliseconds: int) -> None:
        """Let time pass."""
        self.now_ms += milliseconds

    # -- readings ----------------------------------------------------------------

    def run(self, run: str = "run1") -> RunRecord:
        record = self.store.broker.execute(run_record.read_run(self.partition, run))
        assert record is not None, f"there is no run {run}"
        return record

    def load(self, run: str = "run1", applied: int = 0) -> tuple[RunRecord | None, list[tuple[str, bytes]]]:
        return self.store.broker.execute(run_memos.load_run(self.partition, run, applied))

    def memos(self, run: str = "run1") -> list[tuple[str, bytes]]:
        return self.store.broker.execute(run_memos.read_memos(self.partition, run))

    def steps(self, run: str = "run1") -> dict[str, StepRecord]:
        return {step.id: step for step in self.store.broker.execute(step_record.read_steps(self.partition, run))}

    def attempts(self, run: str = "run1") -> list[AttemptRecord]:
        """The kept attempts of a run, oldest first."""
        return self.store.broker.execute(read_attempts(self.partition, run))

    def queued(self, name: str) -> list[str]:
        """The jobs on a list, in order."""
        return self.client.lrange(self.keys("RQ_QUEUE", name), 0, -1)

    def listen(self, kind: str, subject: str = "") -> Callable[[], list[str]]:
        """Listen to a channel; the returned function gives what was heard so far."""
        pubsub = self.client.pubsub()
        pubsub.subscribe(self.keys(kind, subject))
        assert pubsub.get_message(timeout=5), "the server did not confirm the subscription"

        def heard() -> list[str]:
            self.client.publish(self.keys(kind, subject), _END)
            messages = list(iter(lambda: (pubsub.get_message(timeout=5) or {"data": _END})["data"], _END))
            pubsub.close()
            return messages

        return heard

    def snapshot(self) -> dict[str, Any]:
        """All that is on the server, to see that a call changed nothing."""
        return {name: self._value(name) for name in sorted(self.client.keys("*"))}

    def _value(self, name: str) -> Any:
        match self.client.type(name):
            case "hash":
                return self.client.hgetall(name)
            case "list":
                return self.client.lrange(name, 0, -1)
            case "zset":
                return self.client.zrange(name, 0, -1, withscores=True)
            case "set":
                return self.client.smembers(name)
            case "stream":
                return self.client.xrange(name)
            case _:
                return self.client.get(name)
