"""Cron schedules: start the runs that are due.

Redis stores for each schedule the time up to which its runs have started. The script that starts runs moves it on, so
any number of workers may call it, and a crash before the call leaves the runs due.
"""

from __future__ import annotations

from collections.abc import Sequence

from stepflow_broker.protocol.command import Arg, Command, command, run_script
from stepflow_broker.protocol.partition import Partition
from stepflow_broker.registry.functions import FunctionConfig

__all__ = ["fire_cron", "read_crons"]


def read_crons(partition: Partition) -> Command[dict[str, int]]:
    """For each schedule, the time up to which its runs have started, in ms. Values that are not a time are left out."""

    def read(reply: list[bytes]) -> dict[str, int]:
        pairs = zip(reply[::2], reply[1::2], strict=True)
        return {name.decode(errors="replace"): int(last) for name, last in pairs if last.isdigit()}

    return command(read, "HGETALL", partition.keys("CRON"))


def fire_cron(
    partition: Partition,
    schedule: str,
    *,
    last_ms: int,
    until_ms: int,
    starts: Sequence[tuple[str, FunctionConfig, bytes]],
) -> Command[int]:
    """Start the runs (run id, function, event) of a schedule that are due after ``last_ms`` and up to ``until_ms``.

    Returns how many were started; 0 if another worker has started them.
    """
    args: list[Arg] = []
    for run_id, config, event in starts:
        args += (
            run_id,
            config.app,
            config.id,
            config.queue,
            event,
            config.retention_ms,
            *config.rules_or_skip(event, partition.cipher),
        )
    return run_script(
        "fire_cron",
        int,
        (partition.keys("CRON"), partition.keys("PAUSED")),
        partition.now_ms(),
        schedule,
        last_ms,
        until_ms,
        *args,
    )
