"""Reads the histories of runs from the server, decrypted, as a replay needs them. It writes nothing."""

from __future__ import annotations

from collections.abc import Sequence

from stepflow.replay.history import PlannedStep, RunHistory
from stepflow_broker.protocol.command import in_chunks
from stepflow_broker.protocol.partition import Partition
from stepflow_broker.redis_client.operation import Operation
from stepflow_broker.transitions.runs.batches import load_batch
from stepflow_broker.transitions.runs.run_memos import load_run
from stepflow_broker.transitions.runs.run_record import RunRecord
from stepflow_broker.transitions.steps.step_record import StepRecord, read_steps
from stepflow_broker.views.step_view import executing_step
from stepflow_engine.cipher import Cipher
from stepflow_engine.codec import dumps
from stepflow_engine.encryption_scopes import open_event_text, open_memo
from stepflow_engine.errors import CorruptDataError, DecryptionError
from stepflow_engine.memo import read_memo
from stepflow_engine.steps import StepKind

__all__ = ["read_histories"]

_CHUNK = 20
"""How many histories one round trip reads: a history has at most 32 MiB."""


def read_histories(
    partition: Partition, run_ids: Sequence[str], *, is_batched: bool = False
) -> Operation[list[RunHistory | DecryptionError | CorruptDataError]]:
    """The histories of runs of a function, in this order, without those that were forgotten meanwhile.

    A run that cannot be read has the error in its place. One round trip for each 20 runs.

    Args:
        is_batched: whether the function executes batches.
    """
    histories: list[RunHistory | DecryptionError | CorruptDataError] = []
    for part in in_chunks(run_ids, _CHUNK):
        answers = yield [
            call
            for run_id in part
            for call in (
                read_steps(partition, run_id),
                load_run(partition, run_id, 0),  # last: a step that ends in between has its memo
                *([load_batch(partition, run_id)] if is_batched else ()),
            )
        ]
        width = 3 if is_batched else 2
        for number in range(len(part)):
            steps, (record, memos), *events = answers[width * number : width * (number + 1)]
            if record is not None:
                texts = events[0] if events else [dumps(record.event)]
                histories.append(_history(partition.cipher, record, memos, steps, texts))
    return histories


def _history(
    cipher: Cipher,
    record: RunRecord,
    memos: Sequence[tuple[str, bytes]],
    steps: Sequence[StepRecord],
    events: Sequence[bytes],
) -> RunHistory | DecryptionError | CorruptDataError:
    try:
        known = tuple((key, open_memo(cipher, record.id, key, read_memo(text, key))) for key, text in memos)
        done = {key for key, _ in memos}
        planned = [
            PlannedStep(step.key, step.id, step.kind, step.items.digest if step.items else "")
            for step in steps
            if step.key not in done
        ]
        executing = executing_step(record, {step.key for step in steps} | done)
        if executing is not None:
            planned.append(PlannedStep(executing[0], executing[1], StepKind.RUN))
        return RunHistory(
            function=record.name,
            run_id=record.id,
            events=tuple(open_event_text(cipher, text) for text in events),
            memos=known,
            planned=tuple(planned),
            patches=record.patches,
            attempt=record.attempt,
            round=record.round,
            started_ms=record.round_at or record.started_at or record.created_at,
            undoing=record.undoing,
            ended=str(record.status) if record.status.ended else "",
        )
    except (DecryptionError, CorruptDataError) as error:
        return error
