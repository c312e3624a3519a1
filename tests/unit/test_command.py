"""Commands carry texts and bytes only, because the packer of hiredis must not convert numbers."""

from __future__ import annotations

from typing import Any

import pytest

from stepflow_broker.protocol.command import command, run_script


def test_numbers_of_a_command_are_made_text() -> None:
    assert command(bytes, "SET", "key", b"\xff", "EX", 60, 1.5).args == ("SET", "key", b"\xff", "EX", "60", "1.5")


def test_numbers_of_a_script_are_made_text() -> None:
    call = run_script("finish_run", bytes, ("{sf:1}:run",), 1, "x", 2.5, b"y")
    assert all(type(word) in (str, bytes) for word in call.args)
    assert call.args[-4:] == ("1", "x", "2.5", b"y")
    assert call.with_source()[2:] == call.args[2:]


@pytest.mark.parametrize("arg", [True, None, ["a"], {}])
def test_an_argument_that_is_neither_text_nor_a_number_is_refused(arg: Any) -> None:
    with pytest.raises(TypeError, match="must be text, bytes or a number"):
        command(bytes, "SET", "key", arg)
