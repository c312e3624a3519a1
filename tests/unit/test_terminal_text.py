"""Texts of users in one line, tracebacks without the frames of libraries, and the format of the log."""

from __future__ import annotations

import logging
import sys

import pytest

from stepflow_engine.failure import Failure
from stepflow_engine.terminal_text import one_line_failure, printable, printable_lines, traceback_text
from stepflow_workers.logs import FieldFormatter

HOSTILE = "\x1b[2J\x9b1m\x07\u202e\u2066\u200f\u2028\ud800\r"
TRACEBACK = """Traceback (most recent call last):
  File "/venv/lib/python3.11/site-packages/stepflow_engine/step_attempt.py", line 50, in attempt_step
    value = await _result(task)
            ^^^^^^^^^^^^^^^^^^^
  File "/home/anna/shop.py", line 12, in charge
    raise ValueError("no")
ValueError: no
  File "/venv/lib/python3.11/site-packages/stepflow_engine/x.py", line 1, in a line of the message
"""


def test_no_control_sequence_is_left() -> None:
    assert printable(HOSTILE).isprintable()
    assert printable("grün 🌱 text") == "grün 🌱 text"
    assert printable_lines("a\tb\n\x1bc") == "a    b\n�c"


def test_a_failure_is_one_line() -> None:
    assert one_line_failure(Failure("ValueError", "a\n  b\x1b[0m")) == "ValueError: a b�[0m"
    assert one_line_failure(Failure("ValueError", "")) == "ValueError"
    assert one_line_failure(Failure("ValueError", "x" * 500), 20) == "ValueError: xxxxxxx…"


def test_a_traceback_has_the_frames_of_the_user_and_the_whole_message() -> None:
    text = traceback_text(Failure("ValueError", "no", TRACEBACK))
    assert "step_attempt.py" not in text
    assert "_result(task)" not in text
    assert '  File "/home/anna/shop.py", line 12, in charge\n    raise ValueError("no")\nValueError: no\n' in text
    assert text.endswith("a line of the message")
    assert traceback_text(Failure("ValueError", "no", TRACEBACK), whole=True) == TRACEBACK.rstrip("\n")


def test_a_traceback_of_library_frames_only_is_kept() -> None:
    text = TRACEBACK.replace("/home/anna/shop.py", "/venv/lib/python3.11/site-packages/stepflow_engine/codec.py")
    assert traceback_text(Failure("ValueError", "no", text)) == text.rstrip("\n")


def test_a_cause_comes_first() -> None:
    cause = Failure("KeyError", "'a'", "Traceback (most recent call last):\nKeyError: 'a'\n")
    text = traceback_text(Failure("ValueError", "no", TRACEBACK, cause))
    assert text.index("KeyError") < text.index("The error above caused this one:") < text.index("ValueError: no")


@pytest.fixture
def formatter() -> FieldFormatter:
    return FieldFormatter("%(levelname)s %(message)s")


def _record(message: str, **fields: object) -> logging.LogRecord:
    record = logging.makeLogRecord({"levelname": "INFO", "msg": message})
    vars(record).update(fields)
    return record


def test_a_log_record_is_one_line_without_control_sequences(formatter: FieldFormatter) -> None:
    line = formatter.format(_record("a\nINFO forged", name_of=f"x{HOSTILE}\nINFO forged", empty=""))
    assert line.isprintable()
    assert line.startswith(r"INFO a\nINFO forged name_of=")
    assert "empty" not in line


def test_a_value_with_spaces_is_quoted(formatter: FieldFormatter) -> None:
    line = formatter.format(_record("ended", error='E: say "no" status=done', count=3))
    assert line == r'INFO ended error="E: say \"no\" status=done" count=3'


def test_the_lines_of_a_traceback_are_indented(formatter: FieldFormatter) -> None:
    try:
        raise ValueError("no\nINFO forged\x1b[2J")
    except ValueError:
        record = _record("failed", job="j1")
        record.exc_info = sys.exc_info()
    first, *rest = formatter.format(record).split("\n")
    assert first == "INFO failed job=j1"
    assert all(line.startswith("  ") and line.isprintable() for line in rest)
