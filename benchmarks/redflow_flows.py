"""The workflows that the benchmark of redflow runs, and its worker: ``benchmarks.redflow_flows URL SLOTS``."""

from __future__ import annotations

import asyncio
import sys

import uvloop
from redflow import StartWorkerOptions, WorkflowHandlerContext, start_worker, workflow
from redis.asyncio import Redis

from benchmarks.durable import count_step

APP = "bench"
NO_LIMIT = 1_000_000
"""Of the runs of a workflow at once; the default is 1."""


async def noop(value: int) -> int:
    """A step that does nothing."""
    return value


async def counted_noop(ctx: WorkflowHandlerContext, n: int) -> None:
    """A step, counted when it has been stored."""
    await ctx.step.run(f"s{n}", noop, n)
    count_step()


@workflow("seq", max_concurrency=NO_LIMIT)
async def seq(ctx: WorkflowHandlerContext) -> int:
    """Sequential steps."""
    for n in range(ctx.input):
        await counted_noop(ctx, n)
    return ctx.input


@workflow("fan", max_concurrency=NO_LIMIT)
async def fan(ctx: WorkflowHandlerContext) -> int:
    """Parallel steps, and their join."""
    return len(await asyncio.gather(*[counted_noop(ctx, n) for n in range(ctx.input)]))


@workflow("child", max_concurrency=NO_LIMIT)
async def child(ctx: WorkflowHandlerContext) -> int:
    """A child that does nothing."""
    return ctx.input


@workflow("invoke", max_concurrency=NO_LIMIT)
async def invoke(ctx: WorkflowHandlerContext) -> int:
    """Children, one after the other."""
    for n in range(ctx.input):
        await ctx.step.run_workflow(f"c{n}", child, n)
        count_step()
    return ctx.input


async def work(url: str, slots: int) -> None:
    """Run the worker until it is stopped; redis-py's default of 100 connections would be too few for many slots."""
    connections = Redis.from_url(url, max_connections=2 * slots + 100)
    await start_worker(StartWorkerOptions(app=APP, redis=connections, concurrency=slots))
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(work(sys.argv[1], int(sys.argv[2])))
