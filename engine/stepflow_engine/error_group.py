"""Groups of errors: which failures of runs are alike, though their messages have other numbers and names."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from stepflow_engine.errors import StepError
from stepflow_engine.failure import Failure, group_parts, stored_attribute
from stepflow_engine.terminal_text import cut, innermost_frame

__all__ = ["GROUP_LENGTH", "FailedLike", "error_group", "failed_step"]

GROUP_LENGTH = 16
"""The number of hex digits of the id of a group."""

_QUOTED = re.compile(r"""'[^'\n]*'|"[^"\n]*"|`[^`\n]*`""")
_HEX = re.compile(r"\b(?:0x)?(?=[a-fA-F]*\d)[0-9a-fA-F]{6,}\b|\b0x[0-9a-fA-F]+")
_DIGITS = re.compile(r"\d+")
_LONGEST_MESSAGE = 300
_COMPARED = 2_000


@dataclass(frozen=True, slots=True)
class FailedLike:
    """The group of a failure, and what it has in common with the others of the group.

    Attributes:
        group: the id of the group.
        step: the id of the step that failed; ``""``: the code between steps.
        name: the name of the error.
        message: the message of this failure; ``""``: it is encrypted.
    """

    group: str
    step: str
    name: str
    message: str


def error_group(function: str, step_id: str, failure: Failure, *, is_secret: bool) -> FailedLike:
    """The group of the failure of a run: the same function, step, error, message and place in the code.

    In the message, numbers and quoted parts do not count; in the id of the step, numbers do not count.

    Args:
        function: the function, as ``app/function``.
        step_id: the step that failed; ``""``: the code between steps.
        failure: the failure of the run.
        is_secret: whether the app encrypts: the message and the traceback are left out.
    """
    parts = [function, _DIGITS.sub("#", step_id), failure.name]
    if not is_secret:
        parts += [_form(failure.message), innermost_frame(failure.traceback)]
    text = "\0".join(parts).encode(errors="replace")
    group = hashlib.sha1(text, usedforsecurity=False).hexdigest()[:GROUP_LENGTH]
    message = "" if is_secret else cut(failure.message, _LONGEST_MESSAGE)
    return FailedLike(group, cut(step_id, _LONGEST_MESSAGE), failure.name, message)


def failed_step(error: BaseException) -> str:
    """The step whose failure code of a user has raised; ``""``: its error is of another kind."""
    while len(parts := group_parts(error)) == 1:
        error = parts[0]
    step_id = stored_attribute(error, "step_id") if issubclass(type(error), StepError) else ""
    return step_id if type(step_id) is str else ""


def _form(message: str) -> str:
    """A message without what differs between errors that are alike."""
    text = _QUOTED.sub("?", message[:_COMPARED])
    return " ".join(_DIGITS.sub("#", _HEX.sub("#", text)).split())
