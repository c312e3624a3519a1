"""Readers of raw replies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from stepflow_broker.protocol import replies
from stepflow_broker.protocol.command import command, in_chunks
from stepflow_broker.protocol.status import ScriptStatus
from stepflow_engine.errors import CorruptDataError


@pytest.mark.parametrize(
    ("read", "reply", "value"),
    [
        (replies.raw, [b"a", [1]], [b"a", [1]]),
        (replies.text, b"\xc3\xa9", "é"),
        (replies.text, "é", "é"),
        (replies.text, 0, "0"),
        (replies.text, None, ""),
        (replies.shown_text, b"a\xff", "a\ufffd"),
        (replies.shown_text, None, ""),
        (replies.texts, [b"a", None, b""], ["a", "", ""]),
        (replies.text_pair, [b"a", None], ("a", "")),
        (replies.bytes_or_empty, b"\xff", b"\xff"),
        (replies.bytes_or_empty, None, b""),
        (replies.integer, b"12", 12),
        (replies.integer, None, 0),
        (replies.integer_or_none, 0, 0),
        (replies.integer_or_none, b"12", 12),
        (replies.integer_or_none, None, None),
        (replies.integer_or_none, b"", None),
        (replies.integer_pair, [b"1", 2], (1, 2)),
        (replies.cursor_and_texts, [b"17", [b"a", b"b"]], (17, ["a", "b"])),
        (replies.fields, [b"a", b"1", b"b", 2], {"a": b"1", "b": 2}),
        (replies.fields, {b"a": b"1"}, {"a": b"1"}),
        (replies.fields, [], {}),
        (replies.scored_members, [b"a", b"1.5", b"b", b"2"], [(1.5, "a"), (2.0, "b")]),
        (replies.entry_ms, [[b"17-3", [b"run", b"a"]]], 17),
        (replies.entry_ms, [], 0),
        (replies.time_ms, [b"17", b"123999"], 17_123),
        (replies.first_status, [1], ScriptStatus.DONE),
        (replies.first_status, [b"run1"], ScriptStatus.RESOLVED),
        (replies.status_and_number, [-1, 4], (ScriptStatus.NO_RUN, 4)),
    ],
)
def test_a_reply_becomes_a_value(read: Callable[[Any], Any], reply: Any, value: Any) -> None:
    assert read(reply) == value


@pytest.mark.parametrize(
    ("read", "reply"),
    [
        (replies.texts, [b"\xff"]),
        (replies.integer_pair, [1]),
        (replies.fields, [b"a"]),
        (replies.scored_members, [b"a", b"soon"]),
        (replies.first_status, [99]),
    ],
)
def test_a_reply_of_another_form_is_corrupt_data(read: Callable[[Any], Any], reply: Any) -> None:
    with pytest.raises(CorruptDataError, match="PING"):
        command(read, "PING").answer(reply)


def test_chunks_have_at_most_the_given_size_and_keep_the_order() -> None:
    assert list(in_chunks("abcde", 2)) == ["ab", "cd", "e"]
    assert list(in_chunks([], 2)) == []
