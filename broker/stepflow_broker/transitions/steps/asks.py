"""Asks: steps that wait for the answer of a person. The first answer becomes the memo of the step, in one script."""

from __future__ import annotations

from dataclasses import dataclass

from stepflow_broker.protocol import replies
from stepflow_broker.protocol.command import Command, command, run_script
from stepflow_broker.protocol.partition import Partition
from stepflow_broker.protocol.status import ScriptStatus
from stepflow_broker.transitions.steps.waits import WaitStart
from stepflow_engine.codec import dumps

__all__ = ["AnswerStart", "answer_ask", "begin_ask", "read_answer", "read_open_asks"]


@dataclass(frozen=True, slots=True)
class AnswerStart:
    """An answer to store.

    Attributes:
        key: the key of the step.
        detail: the detail of the step, as it was stored when the answer was checked.
        data: the answer as JSON text, sealed if the app encrypts.
        answer_id: identifies the call: a call that is sent again is the same answer.
        by: who answers.
        who: who makes the call, for the audit log.
        details: more for the audit log, as JSON text.
    """

    key: str
    detail: bytes
    data: bytes
    answer_id: str
    by: str
    who: str
    details: bytes


def begin_ask(partition: Partition, start: WaitStart, *, run_id: str, fence: int) -> Command[ScriptStatus]:
    """Make a step wait for an answer. DONE, ALREADY, NO_RUN, STALE_FENCE."""
    return run_script(
        "begin_ask",
        ScriptStatus,
        partition.run_keys(run_id, "RUN"),
        partition.clock.script_ms(),
        run_id,
        fence,
        start.key,
        start.step_id,
        start.detail,
        start.delay_ms,
    )


def answer_ask(partition: Partition, answer: AnswerStart, *, run_id: str) -> Command[ScriptStatus]:
    """Give a step its answer. DONE, ALREADY (it waits for no answer, or for another one) or NO_RUN."""
    known = {"outcome": "answered", "answered_by": answer.by, "answer_id": answer.answer_id}
    return run_script(
        "answer_ask",
        ScriptStatus,
        partition.run_keys(run_id, "RUN"),
        partition.clock.script_ms(),
        run_id,
        answer.key,
        answer.detail,
        b'{"data":' + answer.data + b"," + dumps(known)[1:-1],
        answer.who,
        answer.details,
    )


def read_answer(partition: Partition, run_id: str, key: str) -> Command[bytes]:
    """The memo of a step as JSON text; empty: it has none."""
    return command(replies.bytes_or_empty, "HGET", partition.run_key("MEMOS", run_id), key)


def read_open_asks(partition: Partition, *, first: int, limit: int) -> Command[list[tuple[str, str]]]:
    """A page of the steps of a partition that wait for answers, the oldest first: run id and step key.

    Args:
        first: how many to leave out.
        limit: how many to read.
    """
    return command(_members, "ZRANGE", partition.keys("ASKS"), first, first + limit - 1)


def _members(reply: list[bytes]) -> list[tuple[str, str]]:
    found = [member.decode().rpartition(":") for member in reply]
    return [(run_id, key) for run_id, _, key in found]
