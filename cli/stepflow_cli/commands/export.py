"""``stepflow export``: writes the histories of runs to files, for tests and for the debugger."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from stepflow.options.encryption import cipher_of
from stepflow.replay.history import RunHistory
from stepflow.replay.history_file import file_name, to_json, to_text
from stepflow.replay.read_history import read_histories
from stepflow.replay.redaction import redact
from stepflow_broker.protocol.partition import Partition
from stepflow_broker.redis_client.broker import Broker
from stepflow_broker.redis_client.operation import run_operation
from stepflow_broker.transitions.runs.run_index import RunQuery
from stepflow_broker.transitions.runs.run_record import read_run
from stepflow_broker.views.find_runs import find_page
from stepflow_broker.views.run_view import run_not_found
from stepflow_cli.exit_codes import EPILOG
from stepflow_cli.formatting import echo, print_json
from stepflow_cli.options import output_option, server_options
from stepflow_cli.server import find_server
from stepflow_engine.errors import HistoryFileError, StepflowError
from stepflow_engine.product import variable
from stepflow_engine.steps import stored_kind

__all__ = ["export", "read_history"]

_PAGE = 100


@click.command(epilog=EPILOG)
@click.argument("run_ids", metavar="[RUN]...", nargs=-1)
@click.option("--function", metavar="APP/NAME", help="The latest runs of this function, of each shape.")
@click.option(
    "--per-shape",
    type=click.IntRange(1),
    default=2,
    show_default=True,
    help="With --function: how many runs of each shape. Runs with the same steps in the same order have one shape.",
)
@click.option(
    "--limit",
    type=click.IntRange(1),
    default=1_000,
    show_default=True,
    help="With --function: how many runs to look at.",
)
@click.option(
    "--to",
    "folder",
    metavar="FOLDER",
    required=True,
    envvar=variable("EXPORT_TO"),
    type=click.Path(file_okay=False, path_type=Path),
    help="The folder of the files; it is made.",
)
@click.option(
    "--redact",
    "paths",
    metavar="PATH",
    envvar=variable("EXPORT_REDACT"),
    multiple=True,
    help="A value to leave out: event.data.card, steps.charge.data.number, steps.*.data.email; may be repeated.",
)
@output_option
@server_options
def export(
    *,
    run_ids: tuple[str, ...],
    function: str | None,
    per_shape: int,
    limit: int,
    folder: Path,
    paths: tuple[str, ...],
    output: str,
    redis_url: str | None,
) -> None:
    """Write the histories of RUNS to files, one JSON file for each run: the event, and the results of the steps.

    stepflow.testing.assert_replays checks that the code of an app fits such files, and 'stepflow debug' replays one.
    Values of apps that encrypt are written decrypted: redact what must not be in a file. A redacted value keeps its
    shape: text becomes "redacted", a number 0.
    """
    if bool(run_ids) == bool(function):
        raise click.UsageError("name runs, or a function with --function")
    broker, partition = find_server(redis_url, cipher_of(None))
    ids = run_ids if function is None else tuple(_run_ids(broker, partition, function, limit))
    histories = [read_history(broker, partition, run_id) for run_id in ids]
    if function is not None:
        histories = list(_of_each_shape(histories, per_shape))
    files = [_write(history, version, folder, paths) for history, version in histories]
    if output == "json":
        print_json({"files": [str(file) for file in files]})
        return
    for file in files:
        echo(str(file))
    if not files:
        echo(f"note: there are no runs of function {function}", err=True)
    elif partition.cipher.encrypts:
        echo("note: values that the server has encrypted are in clear text in these files", err=True)


def read_history(broker: Broker, partition: Partition, run_id: str) -> tuple[RunHistory, str]:
    """The history of a run, and the version of the code that began it.

    Raises:
        RunNotFoundError: there is no such run.
        DecryptionError, CorruptDataError: it cannot be read.
        HistoryFileError: the run has no history of its own.
    """
    record = broker.execute(read_run(partition, run_id))
    if record is None:
        raise run_not_found(run_id)
    if record.batch and record.batch != run_id:
        raise HistoryFileError(f"run {run_id} was part of a batch, which has the steps: name run {record.batch}")
    histories = run_operation(broker, read_histories(partition, [run_id], is_batched=record.batch == run_id))
    if not histories:
        raise run_not_found(run_id)
    if isinstance(histories[0], StepflowError):
        raise histories[0]
    return histories[0], record.version


def _run_ids(broker: Broker, partition: Partition, function: str, limit: int) -> Iterator[str]:
    """The latest runs of a function, the newest first, without parts of batches and runs that have not started."""
    wanted, cursor = RunQuery(functions=(function,)), ""
    while limit > 0:
        page = run_operation(broker, find_page(partition, wanted, cursor=cursor, limit=min(limit, _PAGE)))
        yield from (run.id for run in page.runs if run.started_at)
        limit, cursor = limit - len(page.runs), page.next_cursor
        if not cursor:
            return


def _of_each_shape(histories: Sequence[tuple[RunHistory, str]], count: int) -> Iterator[tuple[RunHistory, str]]:
    """The first histories of each shape."""
    seen: Counter[object] = Counter()
    for history, version in histories:
        shape = (
            tuple((memo.id, stored_kind(memo.detail), memo.failure is None) for _, memo in history.memos),
            tuple((step.id, step.kind) for step in history.planned),
            history.ended,
        )
        seen[shape] += 1
        if seen[shape] <= count:
            yield history, version


def _write(history: RunHistory, version: str, folder: Path, paths: Sequence[str]) -> Path:
    value = to_json(history, version=version)
    redact(value, paths)
    file = folder / file_name(history)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file.write_text(to_text(value), encoding="utf-8")
    except OSError as error:
        raise HistoryFileError(f"{file} cannot be written: {error.strerror}") from None
    return file
