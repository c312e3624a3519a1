"""The lease table: which leases a worker has, in memory that it shares with the process of its lease sidecar.

There is no lock, because the sidecar reads while the worker cannot run. An entry that is read half-written names no
lease, and the server says so.
"""

from __future__ import annotations

import mmap
import os
import struct
import tempfile

__all__ = ["LeaseTable"]

_HEADER = struct.Struct("<d")
_ENTRY = struct.Struct("<Q120p")
_LENGTH_AT = 8
_FIRST = 128
_ENTRIES = 65_536
"""Leases beyond these are extended by the lease renewer alone. Memory that was never written takes no room."""


class LeaseTable:
    """Fences and jobs, and the time when the worker last renewed them.

    Args:
        file: a descriptor of the memory; see `make_file`.
    """

    def __init__(self, file: int) -> None:
        self.file = file
        self._memory = mmap.mmap(file, _FIRST + _ENTRIES * _ENTRY.size)
        self._used = 0
        self._free: list[int] = []

    @staticmethod
    def make_file() -> int:
        """A descriptor of fresh memory, which has no name and goes with the last process that has it."""
        if hasattr(os, "memfd_create"):
            file = os.memfd_create("stepflow-leases")
        else:
            with tempfile.TemporaryFile() as temporary:
                file = os.dup(temporary.fileno())
        os.ftruncate(file, _FIRST + _ENTRIES * _ENTRY.size)
        return file

    # -- the worker --------------------------------------------------------------

    def put(self, job: str, fence: int) -> int | None:
        """Write a lease; its place, or none when the table is full."""
        if self._free:
            place = self._free.pop()
        elif self._used < _ENTRIES:
            place = self._used
            self._used += 1
        else:
            return None
        _ENTRY.pack_into(self._memory, _FIRST + place * _ENTRY.size, fence, job.encode())
        return place

    def clear(self, place: int) -> None:
        """Forget the lease at a place."""
        self._memory[_FIRST + place * _ENTRY.size + _LENGTH_AT] = 0
        self._free.append(place)

    def renewed(self, at_s: float) -> None:
        """The worker has extended its leases, or tried to, at this time of the monotonic clock."""
        _HEADER.pack_into(self._memory, 0, at_s)

    def close(self) -> None:
        """Close the descriptor; jobs that end after this may still write."""
        os.close(self.file)

    # -- the lease sidecar --------------------------------------------------------------

    @property
    def tended_at(self) -> float:
        """When the worker last extended its leases, or tried to, by the monotonic clock, in seconds."""
        return float(_HEADER.unpack_from(self._memory)[0])

    def leases(self) -> list[tuple[str, int]]:
        """Jobs and fences."""
        found = []
        for at in range(_FIRST, len(self._memory), _ENTRY.size):
            fence, job = _ENTRY.unpack_from(self._memory, at)
            if job:
                found.append((job.decode(errors="replace"), fence))
            elif not fence:
                break  # nothing was ever written from here on
        return found
