"""Readers of raw replies: what the server answers (bytes, numbers, lists), as Python values.

A reader takes the reply of one command and returns its value. A reply that does not have the expected form makes the
reader raise, which `Command.answer` reports as `CorruptDataError`. Import the module, so that calls say what they read:
``command(replies.texts, "SMEMBERS", key)``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from stepflow_broker.protocol.status import ScriptStatus

__all__ = [
    "bytes_or_empty",
    "cursor_and_texts",
    "entry_ms",
    "fields",
    "first_status",
    "integer",
    "integer_or_none",
    "integer_pair",
    "raw",
    "scored_members",
    "server_info",
    "shown_text",
    "start_status",
    "status_and_number",
    "text",
    "text_pair",
    "texts",
    "time_ms",
]


_STATUSES = {int(status): status for status in ScriptStatus}
"""The statuses by code. Each step reads one, and a call of an enumeration costs four times as much."""


def raw(reply: Any) -> Any:
    """The reply as it is, for a caller that reads it itself."""
    return reply


def text(value: bytes | str | float | None) -> str:
    """One value as text. ``nil`` is ``""``."""
    if isinstance(value, bytes):
        return value.decode()
    return "" if value is None else str(value)


def shown_text(value: bytes | None) -> str:
    """One value as text for display: bytes that are not UTF-8 become replacement characters. ``nil`` is ``""``."""
    return value.decode(errors="replace") if value else ""


def texts(reply: Sequence[bytes | None]) -> list[str]:
    """A list of values as texts (``SMEMBERS``, ``HMGET``). ``nil`` is ``""``."""
    return [(value or b"").decode() for value in reply]


def text_pair(reply: Sequence[bytes | None]) -> tuple[str, str]:
    """Two values as texts (``HMGET`` of two fields). ``nil`` is ``""``."""
    first, second = texts(reply)
    return first, second


def bytes_or_empty(reply: bytes | None) -> bytes:
    """One value (``GET``, ``HGET``). ``nil`` is ``b""``."""
    return reply or b""


def integer(reply: bytes | int | None) -> int:
    """One integer. ``nil`` is 0."""
    return int(reply or 0)


def integer_or_none(reply: bytes | int | None) -> int | None:
    """One integer, or ``None`` for ``nil`` and for an empty value (``ZRANK`` of a member that does not exist)."""
    return None if reply is None or reply == b"" else int(reply)


def integer_pair(reply: Sequence[bytes | int]) -> tuple[int, int]:
    """Two integers, as several scripts return them."""
    first, second = reply
    return int(first), int(second)


def cursor_and_texts(reply: Sequence[Any]) -> tuple[int, list[str]]:
    """A page and the cursor of the next one, 0 after the last (``SSCAN``, scripts that go through all jobs)."""
    cursor, page = reply
    return int(cursor), texts(page)


def fields(reply: Any) -> dict[str, Any]:
    """Field → value of a hash or of an information command (``HGETALL``, ``XINFO``). Values stay as they are."""
    pairs = reply.items() if isinstance(reply, dict) else zip(reply[::2], reply[1::2], strict=True)
    return {name.decode(): value for name, value in pairs}


def server_info(reply: bytes) -> dict[str, str]:
    """The fields of an answer to ``INFO``."""
    lines = (line.partition(":") for line in reply.decode(errors="replace").splitlines() if not line.startswith("#"))
    return {name: value for name, _, value in lines if name}


def scored_members(reply: Sequence[bytes]) -> list[tuple[float, str]]:
    """Score and member of each entry (``ZRANGE … WITHSCORES``)."""
    return [(float(score), member.decode()) for member, score in zip(reply[::2], reply[1::2], strict=True)]


def entry_ms(reply: Sequence[Any]) -> int:
    """The time of the first entry of a stream (``XRANGE``), in milliseconds since the epoch. No entry: 0."""
    return int(reply[0][0].partition(b"-")[0]) if reply else 0


def time_ms(reply: Sequence[bytes]) -> int:
    """The reply of ``TIME``, in milliseconds since the epoch."""
    seconds, microseconds = reply
    return int(seconds) * 1000 + int(microseconds) // 1000


def start_status(code: int | bytes) -> ScriptStatus:
    """The status of the start of a run. RESOLVED if the script returns the live run to which it attaches the caller."""
    return ScriptStatus.RESOLVED if isinstance(code, bytes) else ScriptStatus(code)


def first_status(reply: Sequence[int | bytes]) -> ScriptStatus:
    """The status of a start of one run."""
    return start_status(reply[0])


def status_and_number(reply: Sequence[int]) -> tuple[ScriptStatus, int]:
    """A script's status and one number beside it."""
    code = reply[0]
    return _STATUSES.get(code) or ScriptStatus(code), reply[1]
