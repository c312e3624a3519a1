"""A failure: the stored form of an exception."""

from __future__ import annotations

import contextlib
import traceback
from dataclasses import dataclass
from typing import Any

__all__ = ["Failure", "group_parts", "stored_attribute"]

_MAX_CAUSES = 10
_MAX_TEXT = 16_384
_MAX_NAME = 256
_MAX_FRAMES = 200
_MAX_NOTES = 50
_MAX_PARTS = 50
_MAX_GROUP_LEVELS = 10


@dataclass(frozen=True, slots=True)
class Failure:
    """Name, message, traceback and cause of an exception, as JSON data.

    Texts are cut at 16 kB, and lone surrogates are replaced, so that every failure can be stored.

    Attributes:
        name: the name of the exception's class.
        message: the text of the exception.
        traceback: the formatted traceback; ``""``: none.
        cause: the exception that caused it, if there was one.
        sealed: message, traceback and cause in encrypted form, until they are opened.
    """

    name: str
    message: str
    traceback: str = ""
    cause: Failure | None = None
    sealed: str = ""

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """Describe ``error`` and at most ten of its causes (``__cause__``, else the shown ``__context__``).

        Any object of a user may be in an error. So this never raises, and its work is bounded.
        """
        return cls._describe(error, _MAX_CAUSES)

    @classmethod
    def _describe(cls, error: BaseException, depth: int) -> Failure:
        while len(parts := group_parts(error)) == 1:
            error = parts[0]
        wrapped = stored_attribute(error, "failure")
        if type(wrapped) is Failure:
            return wrapped
        before = _cause(error)
        return cls(
            name=_class_name(error),
            message=_clean(_message(error)),
            traceback=_clean("".join(_traceback(error, _Budget()))),
            cause=cls._describe(before, depth - 1) if before is not None and depth else None,
        )

    def to_json(self) -> dict[str, Any]:
        """The JSON form; `from_json` reads it back."""
        cause = self.cause.to_json() if self.cause else None
        return {"name": self.name, "message": self.message, "traceback": self.traceback, "cause": cause}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Failure:
        """Read the JSON form."""
        cause = value.get("cause")
        return cls(
            name=str(value.get("name", "Error")),
            message=str(value.get("message", "")),
            traceback=str(value.get("traceback", "")),
            cause=cls.from_json(cause) if isinstance(cause, dict) else None,
            sealed=str(value.get("$enc", "")),
        )

    @classmethod
    def from_hostile(cls, value: object, depth: int = _MAX_CAUSES) -> Failure:
        """Read the JSON form that code of a user has sent: any value, of which a bounded part is kept."""
        if not isinstance(value, dict):
            return cls("Error", "")
        fields: dict[str, Any] = value
        cause = fields.get("cause")
        name, message, trace = (
            _clean(text) if isinstance(text := fields.get(key), str) else "" for key in ("name", "message", "traceback")
        )
        return cls(
            name=name[:_MAX_NAME] or "Error",
            message=message,
            traceback=trace,
            cause=cls.from_hostile(cause, depth - 1) if isinstance(cause, dict) and depth else None,
        )


# -- reading an error of a user ----------------------------------------------
# These functions read the fields of the built-in classes directly. A subclass may define attributes that raise.


def group_parts(error: BaseException) -> tuple[BaseException, ...]:
    """The errors of a group; none if it is not a group."""
    if not issubclass(type(error), BaseExceptionGroup):
        return ()
    parts: tuple[BaseException, ...] = _GROUP_PARTS.__get__(error)
    return parts


_GROUP_PARTS: Any = vars(BaseExceptionGroup)["exceptions"]
_CAUSE, _CONTEXT, _IS_SUPPRESSED, _TRACEBACK = (
    vars(BaseException)[name] for name in ("__cause__", "__context__", "__suppress_context__", "__traceback__")
)


def _cause(error: BaseException) -> BaseException | None:
    cause: BaseException | None = _CAUSE.__get__(error)
    if cause is None and not _IS_SUPPRESSED.__get__(error):
        cause = _CONTEXT.__get__(error)
    return cause


def stored_attribute(error: BaseException, name: str) -> Any:
    """An attribute that is stored in the error itself."""
    try:
        return object.__getattribute__(error, "__dict__").get(name)
    except BaseException:  # noqa: BLE001  user code: its class may define __dict__
        return None


def _class_name(error: BaseException) -> str:
    name: str = vars(type)["__name__"].__get__(type(error))
    return name[:_MAX_NAME]


def _message(error: BaseException) -> str:
    try:
        return "".join((str(error),))  # a plain str, also of a subclass
    except BaseException as broken:  # noqa: BLE001  user code: an exception's own __str__ may raise
        return f"<{_class_name(error)} whose text cannot be read: {_class_name(broken)}>"


class _Budget:
    """How many errors of nested groups one traceback still describes."""

    def __init__(self) -> None:
        self.left = _MAX_PARTS


def _traceback(error: BaseException, budget: _Budget, indent: str = "") -> list[str]:
    """The lines of a traceback as Python prints them, with the notes and the errors of a group."""
    lines = [f"{indent}{line}" for line in (*_frames(error), *_last_lines(error), *_notes(error))]
    if len(indent) < _MAX_GROUP_LEVELS:
        for number, part in enumerate(group_parts(error), 1):
            if budget.left == 0:
                break
            budget.left -= 1
            lines += [f"{indent}---------------- {number} ----------------\n", *_traceback(part, budget, indent + " ")]
    return lines


def _frames(error: BaseException) -> list[str]:
    frames = _TRACEBACK.__get__(error)
    if frames is None:
        return []
    try:
        return ["Traceback (most recent call last):\n", *traceback.format_tb(frames, limit=-_MAX_FRAMES)]
    except BaseException as broken:  # noqa: BLE001  user code: the loader of a module gives the source lines
        return [f"<frames that cannot be read: {_class_name(broken)}>\n"]


def _last_lines(error: BaseException) -> list[str]:
    if type(error) in (SyntaxError, IndentationError, TabError):
        with contextlib.suppress(Exception):
            return traceback.format_exception_only(type(error), error)
    message = _clean(_message(error))
    return [f"{_qualified_name(error)}: {message}\n" if message else f"{_qualified_name(error)}\n"]


def _qualified_name(error: BaseException) -> str:
    try:
        module = type(error).__module__
        name: str = vars(type)["__qualname__"].__get__(type(error))
        return name if module in ("builtins", "__main__") else f"{module}.{name}"
    except BaseException:  # noqa: BLE001  user code: a metaclass may define __module__
        return _class_name(error)


def _notes(error: BaseException) -> list[str]:
    notes = stored_attribute(error, "__notes__")
    if type(notes) is not list:
        return []
    return [f"{_clean(note)}\n" for note in notes[:_MAX_NOTES] if type(note) is str]


def _clean(text: str) -> str:
    if len(text) > _MAX_TEXT:
        half = _MAX_TEXT // 2
        text = f"{text[:half]}\n… {len(text) - _MAX_TEXT} characters cut …\n{text[-half:]}"
    return text if text.isascii() else text.encode("utf-8", "replace").decode()
