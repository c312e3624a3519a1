"""Lists of runs and readings of runs have their types."""

from __future__ import annotations

from typing import Any, assert_type

from stepflow import AsyncRunIterator, Bulk, BulkInfo, ErrorGroup, Run, RunInfo, RunIterator, Stepflow, StepInfo

app = Stepflow("shop")


def find() -> None:
    found = app.runs("order", status="failed", tags={"tenant": 17}, since="2d", limit=None)
    assert_type(found, RunIterator)
    for run in found:
        assert_type(run, Run[Any])
        assert_type(run.listed, RunInfo | None)
    assert_type(found.next_cursor, str | None)
    assert_type(app.error_groups(), list[ErrorGroup])
    assert_type(app.fork_many("order", dry_run=True), Bulk)
    assert_type(app.bulk("b1").info(), BulkInfo)
    assert_type(app.bulks(), list[BulkInfo])


def read(run: Run[int]) -> None:
    assert_type(run.info(), RunInfo)
    assert_type(run.steps(), list[StepInfo])
    assert_type(run.children(), list[Run[Any]])
    assert_type(run.output, int | None)


async def afind(run: Run[int]) -> None:
    found = app.aruns()
    assert_type(found, AsyncRunIterator)
    async for one in found:
        assert_type(one, Run[Any])
    assert_type(await run.ainfo(), RunInfo)
    assert_type(await run.aoutput(), int | None)
    assert_type(await (await app.afork_many("order")).await_end(), BulkInfo)
