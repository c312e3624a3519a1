"""Frames: the messages between a worker and the process of a handler, with their kind, call and length."""

from __future__ import annotations

import struct
from enum import IntEnum

__all__ = ["HEADER", "MAX_CALL_BYTES", "MAX_FAILURE_BYTES", "FrameKind", "frame"]

HEADER = struct.Struct(">BIQ")
"""The kind, the number of the call, and the number of bytes that follow."""
MAX_CALL_BYTES = 64 * 1024 * 1024
"""The largest pickle of a handler with its arguments."""
MAX_FAILURE_BYTES = 4 * 1024 * 1024
"""The largest description of an error."""


class FrameKind(IntEnum):
    """The kinds of frames: the first two go to the process, the others come from it."""

    CALL = 1
    CANCEL = 2
    LOADED = 3
    BEAT = 4
    RESULT = 5
    FAILURE = 6


def frame(kind: FrameKind, call: int, body: bytes = b"") -> bytes:
    """The bytes of a frame."""
    return HEADER.pack(kind, call, len(body)) + body
