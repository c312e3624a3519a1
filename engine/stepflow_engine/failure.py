"""A failure: the stored form of an exception."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from typing import Any

__all__ = ["Failure"]

_MAX_CAUSES = 10
_MAX_TEXT = 16_384


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
        """Describe ``error`` and at most ten of its causes (``__cause__``, else the shown ``__context__``)."""
        return cls._describe(error, _MAX_CAUSES)

    @classmethod
    def _describe(cls, error: BaseException, depth: int) -> Failure:
        while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
            error = error.exceptions[0]
        wrapped = getattr(error, "failure", None)
        if isinstance(wrapped, Failure):
            return wrapped
        before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        lines = traceback.format_exception(type(error), error, error.__traceback__, chain=False)
        return cls(
            name=type(error).__name__,
            message=_clean(_message(error)),
            traceback=_clean("".join(lines)),
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


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as broken:  # noqa: BLE001  user code: an exception's own __str__ may raise
        return f"<{type(error).__name__} whose text cannot be read: {type(broken).__name__}>"


def _clean(text: str) -> str:
    if len(text) > _MAX_TEXT:
        half = _MAX_TEXT // 2
        text = f"{text[:half]}\n… {len(text) - _MAX_TEXT} characters cut …\n{text[-half:]}"
    return text if text.isascii() else text.encode("utf-8", "replace").decode()
