"""Tags of runs: how a function declares them, and how a run stores them.

A run has its tags in the field ``indexed``, as the subjects of the indexes by which it is found: ``tag tenant=17``.
Tags are never encrypted: an index has to compare them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from stepflow_broker.registry.event_values import value_of

__all__ = [
    "MAX_DECLARED_TAGS",
    "MAX_TAGS",
    "TagConfig",
    "check_tag_name",
    "error_group_of",
    "pack_subjects",
    "tag_subject",
    "tag_value",
    "tags_of",
    "unpack_subjects",
]

MAX_DECLARED_TAGS = 5
"""How many tags a function may declare."""
MAX_TAGS = 10
"""How many tags a run may have, those that its code adds included."""
_MAX_VALUE_BYTES = 128
_INTEGERS = 10**100
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}")
_TAG, _ERROR = "tag ", "error "


@dataclass(frozen=True, slots=True)
class TagConfig:
    """A declared tag: ``value`` is a path or a CEL expression on ``event``."""

    name: str
    value: str

    def subject(self, event: dict[str, Any]) -> str | None:
        """The subject of the tag of a run by an event; ``None``: the event has no value for it.

        Raises:
            ValueError: the value is too long, or is neither text, an integer nor a boolean.
            ExpressionCostError: the event makes the expression too expensive.
        """
        found = value_of(self.value, event)
        return None if found is None or found == "" else tag_subject(self.name, tag_value(self.name, found))


def check_tag_name(name: object) -> str:
    """Return the name of a tag if it is valid.

    Raises:
        ValueError: it is not.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(
            "the name of a tag must have 1 to 64 letters, digits, '_', '.' or '-', the first a letter or '_', "
            f"got {_shown(name)}"
        )
    return name


def tag_value(name: str, value: object) -> str:
    """The value of a tag as text: an integer as digits, a boolean as ``true`` or ``false``.

    Raises:
        ValueError: it is empty, longer than 128 bytes, not valid Unicode, or of another type.
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        if abs(value) >= _INTEGERS:
            raise ValueError(f"tag {name}: the value must be an integer of at most 100 digits")
        return str(int(value))
    if not isinstance(value, str):
        raise ValueError(f"tag {name}: the value must be text, an integer or a boolean, got {type(value).__name__}")
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise ValueError(f"tag {name}: the value must be valid Unicode, got a lone surrogate") from None
    if not 1 <= size <= _MAX_VALUE_BYTES:
        raise ValueError(f"tag {name}: the value must have 1 to {_MAX_VALUE_BYTES} bytes, got {size:,} bytes")
    return str(value)


def tag_subject(name: str, value: str) -> str:
    """The subject of the index of a tag: ``tag tenant=17``."""
    return f"{_TAG}{name}={value}"


def pack_subjects(subjects: Iterable[str]) -> str:
    """Subjects as the field ``indexed`` has them: the length of each in bytes, and the subject."""
    return "".join(f"{len(subject.encode())} {subject}" for subject in subjects)


def unpack_subjects(packed: bytes) -> list[str]:
    """The subjects in the field ``indexed``. What is damaged is left out."""
    subjects, at = [], 0
    while found := re.compile(rb"(\d{1,9}) ").match(packed, at):
        at = found.end() + int(found[1])
        subjects.append(packed[found.end() : at].decode(errors="replace"))
    return subjects


def tags_of(subjects: Iterable[str]) -> Mapping[str, str]:
    """The tags among subjects, by name; a name that a run has twice has its last value."""
    pairs = (subject.removeprefix(_TAG).partition("=") for subject in subjects if subject.startswith(_TAG))
    return {name: value for name, _, value in pairs}


def error_group_of(subjects: Iterable[str]) -> str:
    """The group of errors among subjects; ``""``: none."""
    return next((subject.removeprefix(_ERROR) for subject in subjects if subject.startswith(_ERROR)), "")


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}…"
