"""Forks: run again from a step, from the failure, or from the start, as a new run with results of an earlier one."""

from __future__ import annotations

import uuid
from dataclasses import dataclass

from stepflow.client.backend import Backend
from stepflow.client.fork_plan import ForkContext, ForkPlan, source_steps
from stepflow.client.fork_request import SAME_DATA, ForkRequest
from stepflow_broker.protocol.command import Command
from stepflow_broker.protocol.partition import Partition
from stepflow_broker.protocol.status import ScriptStatus
from stepflow_broker.redis_client.operation import Operation, arun_operation, run_operation, single
from stepflow_broker.registry.function_config import FunctionConfig
from stepflow_broker.registry.functions import read_function
from stepflow_broker.transitions.runs.attempts import read_attempts
from stepflow_broker.transitions.runs.forks import ForkStart, fork_run
from stepflow_broker.transitions.runs.run_memos import read_memos
from stepflow_broker.transitions.runs.run_record import RunRecord, read_run
from stepflow_broker.transitions.steps.step_record import read_steps
from stepflow_broker.views.run_view import run_not_found
from stepflow_engine.codec import Restore
from stepflow_engine.errors import ForkError
from stepflow_engine.ids import PARTITION_PREFIX_LENGTH, run_id_for, with_partition_prefix
from stepflow_engine.limits import check_id
from stepflow_engine.state_machine import RunStatus

__all__ = ["Fork", "ForkContext", "acreate_fork", "create_fork", "fork_operation", "fork_run_id"]


@dataclass(frozen=True, slots=True)
class Fork:
    """A fork that was created.

    Attributes:
        run_id: its id.
        output: restores its output to the declared type; ``None``: this process has not declared the function.
    """

    run_id: str
    output: Restore | None


def create_fork(backend: Backend, run_id: str, request: ForkRequest) -> Fork:
    """Create a fork of a run. See `Client.fork`."""
    fork, command = run_operation(backend.broker, fork_operation(backend, run_id, request))
    _check(run_id, backend.deliver([command])[0])
    return fork


async def acreate_fork(backend: Backend, run_id: str, request: ForkRequest) -> Fork:
    """The asyncio twin of `create_fork`."""
    fork, command = await arun_operation(backend.abroker, fork_operation(backend, run_id, request))
    _check(run_id, (await backend.adeliver([command]))[0])
    return fork


def _check(run_id: str, code: ScriptStatus) -> None:
    if code is ScriptStatus.NO_RUN:
        raise run_not_found(run_id)


def fork_operation(
    context: ForkContext, run_id: str, request: ForkRequest
) -> Operation[tuple[Fork, Command[ScriptStatus]]]:
    """Read what a fork needs, and return it with the command that creates it.

    Raises:
        ForkError: the run cannot be forked like this; the message says why, and what can be done.
        RunNotFoundError: no run has this id, or its retention is over.
    """
    request.check()
    try:
        check_id(run_id, "run id")
    except ValueError:
        raise run_not_found(str(run_id)) from None
    partition, declared = context.partition, context.declared
    # memos are read last, so that a step that ends in between is not missed
    record, pending, attempts, stored = yield [
        read_run(partition, run_id),
        read_steps(partition, run_id),
        read_attempts(partition, run_id),
        read_memos(partition, run_id),
    ]
    if record is None:
        raise run_not_found(run_id)
    _check_status(record, request)
    function = declared.find(record.app, record.function)
    config: FunctionConfig | None = (
        function.config
        if function is not None
        else (yield from single(read_function(partition.keys, record.app, record.function)))
    )
    if config is None:
        raise ForkError(
            f"{request.action}: function {record.name} is not registered, so nothing could execute the fork: "
            "start a worker that has it"
        )
    if not (config.flow and config.flow.batch):
        config = config.with_options(record.options)
    _check_flow(partition, record, config, request)
    fork_id = fork_run_id(run_id, config.name, request.id)
    plan = ForkPlan(context, record, source_steps(record, stored, pending, attempts), request, fork_id)
    memos = yield from plan.read_memos()
    start = ForkStart(
        run_id=fork_id,
        source=run_id,
        event=plan.event(function),
        replaces_event=request.data is not SAME_DATA,
        memos=memos,
        forked_at=request.before or "",
        forked_by=request.forked_by(context.actor),
        keys_of=(record.keys_of or run_id) if plan.keeps_keys else "",
        takes_events=request.failed,
        who="" if request.bulk else context.actor,
        action=request.action.removeprefix("a"),
        reason=request.reason,
        details=request.details(fork_id),
        dedupe=request.id is not None,
        patches=plan.patches(memos),
        only_first=bool(request.bulk),
        unchecked_memos=plan.unchecked(memos),
    )
    output = function.output if function is not None else None
    return Fork(fork_id, output), fork_run(partition, config, start)


def _check_status(record: RunRecord, request: ForkRequest) -> None:
    """Refuse what would do nothing, or would be done twice at once."""
    name = f"{request.action}: run {record.id} of {record.name}"
    if record.batch and (request.before is not None or request.results):
        raise ForkError(
            f"{name} was part of a batch, so it has no steps of its own: fork it without before and results"
        )
    if record.batch == record.id:
        raise ForkError(f"{name} executed a batch: repeat the runs of the batch; each joins the next batch")
    if record.undoing:
        raise ForkError(f"{name} is undoing its steps, and ends as {record.undoing} then: fork it when it has ended")
    if not record.status.ended and request.before is None:
        raise ForkError(f"{name} has not ended, it is {record.status}: cancel it first, or fork it before a step")
    if request.failed and record.status is RunStatus.COMPLETED:
        raise ForkError(f"{name} is completed, so there is nothing to retry: rerun it, or fork it before a step")


def _check_flow(partition: Partition, record: RunRecord, config: FunctionConfig, request: ForkRequest) -> None:
    """Refuse what the present flow control of the function does not allow."""
    name = f"{request.action}: run {record.id}"
    if config.pinned_partition and partition.of(config.pinned_partition) is not partition.of(record.id):
        raise ForkError(
            f"{name} is in another partition than that in which function {record.name} counts its runs since it has "
            "this flow control: start a new run with the same data"
        )
    keeps_results = request.failed or request.before is not None or bool(request.results)
    if config.flow and config.flow.batch and not record.batch and keeps_results:
        raise ForkError(
            f"{name} has results of its own, and {record.name} collects runs in batches now, which have no such "
            "results: use rerun, which executes all steps again"
        )


def fork_run_id(run_id: str, function: str, own_id: str | None) -> str:
    """The id of a fork of a run.

    Args:
        function: the function of the run, as ``app/function``.
        own_id: the id that the caller of `fork` has chosen; ``None``: none, so that each call makes another run.
    """
    unique = uuid.uuid4().hex if own_id is None else run_id_for(run_id, own_id, function, "fork")
    return with_partition_prefix(run_id[:PARTITION_PREFIX_LENGTH], unique)
