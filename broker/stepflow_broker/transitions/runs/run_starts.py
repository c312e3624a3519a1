"""Start runs, now or at a later time.

A start is one script. After a crash of the caller, the run exists completely or not at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from stepflow_broker.protocol import replies
from stepflow_broker.protocol.command import Arg, Command, run_script
from stepflow_broker.protocol.partition import Partition
from stepflow_broker.protocol.status import ScriptStatus
from stepflow_broker.registry.function_config import DEDUPE_MS, FunctionConfig

__all__ = ["runs_of_callers", "start_run", "start_runs", "start_runs_later"]


def start_run(
    partition: Partition,
    config: FunctionConfig,
    *,
    run_id: str,
    event: bytes,
    dedupe: bool,
) -> Command[ScriptStatus]:
    """Create a run of a function and queue its first job. DONE, ALREADY (it exists) or RESOLVED (it was skipped).

    If a singleton attaches the caller to a live run, the status is RESOLVED too: see `runs_of_callers`.
    """
    args = _start_args(partition, config, [(run_id, event)], dedupe=dedupe)
    return run_script("start_runs", replies.first_status, partition.run_keys(run_id, "RUN"), *args)


def start_runs(
    partition: Partition,
    config: FunctionConfig,
    runs: Sequence[tuple[str, bytes]],
) -> Command[list[ScriptStatus]]:
    """Create runs (id, event) of a function with one script. All ids must be of one partition. See `start_run`."""
    args = _start_args(partition, config, runs, dedupe=False)
    return run_script(
        "start_runs",
        lambda reply: [replies.start_status(code) for code in reply],
        partition.run_keys(runs[0][0], "RUN"),
        *args,
    )


def start_runs_later(
    partition: Partition,
    config: FunctionConfig,
    runs: Sequence[tuple[str, bytes]],
    *,
    due_ms: int,
    delay_ms: int,
    dedupe_ms: int,
) -> Command[list[ScriptStatus]]:
    """Create runs (id, event) of a function that start at a later time. All ids must be of one partition.

    A run exists from the call on, and can be cancelled. Its rules of flow control are computed now, and checked and
    applied when it is due.

    Args:
        due_ms: the time, in milliseconds since the epoch; 0: ``delay_ms`` from now, by the clock of the server.
        dedupe_ms: for how long at least the ids prevent a second start.
    """
    args: list[Arg] = [partition.clock.script_ms(), config.app, config.id, config.queue]
    args += (dedupe_ms, config.retention_ms, due_ms, delay_ms)
    for run_id, event in runs:
        args += (run_id, event, *config.rules(event, partition.cipher))
    return run_script(
        "start_runs_later",
        lambda reply: [replies.start_status(code) for code in reply],
        partition.run_keys(runs[0][0], "RUN"),
        *args,
    )


def runs_of_callers(start: Command[Any], run_ids: Sequence[str]) -> Command[list[str]]:
    """The command of a start of these runs, which answers with the run of each caller.

    It is the new run, or the live run that a singleton attaches the caller to.
    """

    def read(reply: list[int | bytes]) -> list[str]:
        pairs = zip(run_ids, reply, strict=True)
        return [code.decode() if isinstance(code, bytes) else run_id for run_id, code in pairs]

    return Command(start.args, read, start.script)


def _start_args(
    partition: Partition, config: FunctionConfig, runs: Sequence[tuple[str, bytes]], *, dedupe: bool
) -> list[Arg]:
    args: list[Arg] = [
        partition.clock.script_ms(),
        config.app,
        config.id,
        config.queue,
        DEDUPE_MS if dedupe else 0,
        config.retention_ms,
    ]
    for run_id, event in runs:
        args += (run_id, event, *config.rules(event, partition.cipher))
    return args
