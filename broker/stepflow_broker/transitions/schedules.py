"""Times that start functions, as calls."""

from __future__ import annotations

from collections.abc import Sequence

from stepflow_broker.protocol.command import Arg, Command, command, run_script
from stepflow_broker.protocol.partition import Partition
from stepflow_broker.registry.functions import FunctionConfig

__all__ = ["fire_cron", "read_crons"]


def read_crons(partition: Partition) -> Command[dict[str, int]]:
    """Up to which time the runs of each schedule were started, in ms; what is no time is left out."""

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
    """Start the runs (run id, function, event) of the times of a schedule from ``last_ms`` to ``until_ms``, once.

    The answer: how many were started; none if another worker has seen to them.
    """
    words: list[Arg] = []
    for run_id, config, event in starts:
        words += (
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
        *words,
    )
