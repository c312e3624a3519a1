"""LeaseTable: which leases a worker has, in memory that it shares with its lease sidecar.

There is no lock, because the lease sidecar reads while the worker cannot run. A half-written entry names no lease, and
the server reports it as lost.
"""

from __future__ import annotations

import mmap
import os
import struct
import tempfile

__all__ = ["BLOCKED_LIMIT_S", "LeaseTable"]

BLOCKED_LIMIT_S = 300
"""How long the leases of a worker are extended while its event loop does not run. After that, others take its jobs."""
_HEADER = struct.Struct("<d")
_ENTRY = struct.Struct("<Q120p")
_LENGTH_AT = 8
_FIRST = 128
_ENTRIES = 65_536
"""Only the thread of the lease renewer extends leases beyond these. Memory that was never written takes no space."""


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
        """A descriptor of new anonymous memory. The system frees it with the last process that has it."""
        if hasattr(os, "memfd_create"):
            file = os.memfd_create("leases")
        else:
            with tempfile.TemporaryFile() as temporary:
                file = os.dup(temporary.fileno())
        os.ftruncate(file, _FIRST + _ENTRIES * _ENTRY.size)
        return file

    # -- the worker --------------------------------------------------------------

    def put(self, job: str, fence: int) -> int | None:
        """Write a lease; returns its index, or ``None`` when the table is full."""
        if self._free:
            index = self._free.pop()
        elif self._used < _ENTRIES:
            index = self._used
            self._used += 1
        else:
            return None
        _ENTRY.pack_into(self._memory, _FIRST + index * _ENTRY.size, fence, job.encode())
        return index

    def clear(self, index: int) -> None:
        """Clear the lease at an index."""
        self._memory[_FIRST + index * _ENTRY.size + _LENGTH_AT] = 0
        self._free.append(index)

    def renewed(self, at_s: float) -> None:
        """The worker has extended its leases, or tried to, at this time of the monotonic clock."""
        _HEADER.pack_into(self._memory, 0, at_s)

    def close(self) -> None:
        """Close the descriptor; jobs that end after this may still write."""
        os.close(self.file)

    # -- the lease sidecar -------------------------------------------------------

    @property
    def renewed_at(self) -> float:
        """When the worker last extended its leases, or tried to, by the monotonic clock, in seconds."""
        return float(_HEADER.unpack_from(self._memory)[0])

    def leases(self) -> list[tuple[str, int]]:
        """Jobs and fences."""
        leases = []
        for at in range(_FIRST, len(self._memory), _ENTRY.size):
            fence, job = _ENTRY.unpack_from(self._memory, at)
            if job:
                leases.append((job.decode(errors="replace"), fence))
            elif not fence:
                break  # the rest was never written
        return leases
