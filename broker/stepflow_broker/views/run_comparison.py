"""The filters that no index decides: the event and the error of each run are read and compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from stepflow_broker.protocol import replies
from stepflow_broker.protocol.command import command, in_chunks
from stepflow_broker.protocol.partition import Partition
from stepflow_broker.redis_client.operation import Operation
from stepflow_broker.transitions.runs.run_index import Place, RunQuery
from stepflow_broker.transitions.runs.run_record import parse_run
from stepflow_engine.cipher import Cipher
from stepflow_engine.encryption_scopes import end_scopes, open_event, open_failure, read_event
from stepflow_engine.errors import DecryptionError
from stepflow_engine.expression import ExpressionCostError, expression

__all__ = ["CHUNK", "Compared", "compare_runs"]

CHUNK = 50
"""How many runs are read in a round trip."""


@dataclass(slots=True)
class Compared:
    """Runs that were compared with a filter.

    Attributes:
        matching: those that match.
        size_bytes: how many bytes of them were read.
        unreadable: how many do not match because they cannot be decrypted.
    """

    matching: list[Place] = field(default_factory=list)
    size_bytes: int = 0
    unreadable: int = 0


def compare_runs(partition: Partition, wanted: RunQuery, places: Sequence[Place]) -> Operation[Compared]:
    """Compare the events and errors of runs with a filter. No round trip if it has neither a condition nor an error."""
    if not wanted.condition and not wanted.error:
        return Compared(list(places))
    compared = Compared()
    for part in in_chunks(places, CHUNK):
        fields = ("event" if wanted.condition else "status", "error", "app", "function")
        payloads = yield [
            command(replies.raw, "HMGET", partition.run_key("RUN", place.run_id), *fields) for place in part
        ]
        for place, (event, error, app, function) in zip(part, payloads, strict=True):
            compared.size_bytes += len(event or b"") + len(error or b"")
            name = f"{replies.shown_text(app)}/{replies.shown_text(function)}"
            try:
                if _condition_holds(wanted.condition, event, partition.cipher) and _error_matches(
                    wanted.error, error, place.run_id, name, partition.cipher
                ):
                    compared.matching.append(place)
            except DecryptionError:
                compared.unreadable += 1
    return compared


def _condition_holds(condition: str, event: bytes | None, cipher: Cipher) -> bool:
    """Whether a condition holds for the event of a run; not for one that is too expensive.

    Raises:
        DecryptionError: the event cannot be opened.
    """
    if not condition:
        return True
    if event is None:
        return False
    try:
        return expression(condition).holds(event=open_event(cipher, read_event(event)))
    except ExpressionCostError:
        return False


def _error_matches(text: str, error: bytes | None, run_id: str, name: str, cipher: Cipher) -> bool:
    """Whether the name of the error of a run is the text, or its message has it.

    Raises:
        DecryptionError: the name is not the text, and the message cannot be opened.
    """
    if not text:
        return True
    run = parse_run(run_id, {"status": b"failed", "event": b"null", **({"error": error} if error else {})})
    failure = run.failure if run else None
    if failure is None or failure.name == text:
        return failure is not None
    return text in open_failure(cipher, failure, *end_scopes(run_id, name, failed=True)).message
