"""The workflows that the benchmark of DBOS runs, and its worker, which starts them.

``python -m benchmarks.dbos_flows URL WORKFLOW SIZE RUNS IN_FLIGHT``
"""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from typing import TYPE_CHECKING

from dbos import DBOS

from benchmarks.durable import count_step

if TYPE_CHECKING:
    from collections.abc import Callable

    from dbos import WorkflowHandle

THREADS = 8


@DBOS.step()
def noop(value: int) -> int:
    """A step that does nothing."""
    return value


@DBOS.step()
async def noop_async(value: int) -> int:
    """A step that does nothing."""
    return value


async def counted_noop(value: int) -> int:
    """A step, counted when it has been stored."""
    await noop_async(value)
    count_step()
    return value


@DBOS.workflow()
def seq(size: int) -> int:
    """Sequential steps."""
    for n in range(size):
        noop(n)
        count_step()
    return size


@DBOS.workflow()
async def fan(size: int) -> int:
    """Parallel steps, and their join."""
    return len(await asyncio.gather(*[counted_noop(n) for n in range(size)]))


@DBOS.workflow()
def child(value: int) -> int:
    """A child that does nothing."""
    return value


@DBOS.workflow()
def invoke(size: int) -> int:
    """Children, one after the other."""
    for n in range(size):
        child(n)
        count_step()
    return size


def keep_in_flight(workflow: Callable[[int], int], size: int, runs: int, in_flight: int) -> None:
    """Run so many workflows, so many at once; an error of a workflow ends it."""
    handles: deque[WorkflowHandle[int]] = deque()
    for _ in range(runs):
        if len(handles) == in_flight:
            handles.popleft().get_result()
        handles.append(DBOS.start_workflow(workflow, size))
    for handle in handles:
        handle.get_result()


def run_fans(size: int, runs: int) -> None:
    """Run so many `fan`, one after the other."""

    async def each() -> None:
        for _ in range(runs):
            await fan(size)

    asyncio.run(each())


def main() -> None:
    """The command line."""
    url, function, *numbers = sys.argv[1:]
    size, runs, in_flight = map(int, numbers)
    DBOS(
        config={
            "name": "bench",
            "system_database_url": url,
            "max_executor_threads": THREADS,
            "log_level": "WARNING",
        }
    )
    DBOS.launch()
    if function == "fan":
        run_fans(size, runs)
    elif in_flight == 1:
        workflow = {"seq": seq, "invoke": invoke}[function]
        for _ in range(runs):
            workflow(size)
    else:
        keep_in_flight({"seq": seq, "invoke": invoke}[function], size, runs, in_flight)
    DBOS.destroy()


if __name__ == "__main__":
    main()
