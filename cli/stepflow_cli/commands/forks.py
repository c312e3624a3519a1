"""``stepflow runs rerun`` and ``fork``: run again, as a new run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from stepflow import Stepflow
from stepflow.client.fork_request import SAME_DATA, ForkRequest
from stepflow.client.forks import create_fork
from stepflow_cli.exit_codes import EPILOG
from stepflow_cli.formatting import echo, print_json
from stepflow_cli.options import json_data, output_option, reason_option, server_options
from stepflow_cli.server import find_app
from stepflow_engine.product import variable
from stepflow_engine.state_machine import RunStatus

__all__ = ["create", "fork", "print_forks", "rerun"]

id_option = click.option("--id", help="Makes the call repeatable: the same id names the same new run.")


new_data_option = click.option(
    "-d", "--data", type=lambda text: (json_data(text),), metavar="JSON", help="Other data: JSON, @file, or -."
)


def _data(option: tuple[Any] | None) -> Any:
    return SAME_DATA if option is None else option[0]


def _result(value: str) -> tuple[str, Any]:
    step, equals, text = value.partition("=")
    if not step or not equals:
        raise click.BadParameter(f"result must be STEP=JSON, got {value!r}: write --result 'price={{\"total\": 12}}'")
    return step, json_data(text)


@click.command(epilog=EPILOG)
@click.argument("run_id", metavar="RUN")
@new_data_option
@id_option
@reason_option
@output_option
@server_options
def rerun(
    run_id: str, *, data: tuple[Any] | None, id: str | None, reason: str, output: str, redis_url: str | None
) -> None:
    """Run RUN again from the start, as a new run with the same event, and print its id.

    All steps are executed, with new idempotency keys.
    """
    request = ForkRequest(data=_data(data), id=id, reason=reason, action="rerun")
    print_forks([create(find_app(redis_url), run_id, request)], output, single=True)


@click.command(epilog=EPILOG)
@click.argument("run_id", metavar="RUN")
@click.option(
    "--before",
    metavar="STEP",
    required=True,
    help="The first step that is executed again; STEP#2: the second with this id.",
)
@new_data_option
@click.option(
    "--result",
    "results",
    envvar=variable("RUNS_FORK_RESULT"),
    type=_result,
    multiple=True,
    metavar="STEP=JSON",
    help="The result of a step, in place of the stored one; may be repeated.",
)
@click.option(
    "--keys",
    type=click.Choice(["new", "keep"]),
    default="new",
    show_default=True,
    help="The idempotency keys of the steps: others, or those of RUN.",
)
@click.option(
    "--children",
    type=click.Choice(["adopt", "again"]),
    default="adopt",
    show_default=True,
    help="Keep the results of invokes before STEP, or invoke again.",
)
@id_option
@reason_option
@output_option
@server_options
def fork(
    run_id: str,
    *,
    before: str,
    data: tuple[Any] | None,
    results: Sequence[tuple[str, Any]],
    keys: Any,
    children: Any,
    id: str | None,
    reason: str,
    output: str,
    redis_url: str | None,
) -> None:
    """Run RUN again from a step on, as a new run, and print its id.

    The new run has the results that RUN had stored before that step. Retry and rerun are the two most common forks.
    """
    request = ForkRequest(
        before=before,
        data=_data(data),
        results=dict(results),
        keys=keys,
        children=children,
        id=id,
        reason=reason,
    )
    print_forks([create(find_app(redis_url), run_id, request)], output, single=True)


def create(app: Stepflow, run_id: str, request: ForkRequest) -> dict[str, Any]:
    """Create a fork; returns the fields of the JSON output."""
    new = app.run(create_fork(app.backend, run_id, request).run_id)
    return {"run_id": new.id, "forked_from": run_id, "status": new.status()}


def print_forks(done: Sequence[dict[str, Any]], output: str, *, single: bool) -> None:
    """Print what `create` has returned."""
    if output == "json":
        print_json(done[0] if single and done else done)
        return
    for one in done:
        echo(one["run_id"])
        if one["status"] == RunStatus.SKIPPED:
            echo(f"note: the flow control of the function has skipped run {one['run_id']}", err=True)
