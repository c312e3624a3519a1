"""Who waits for the ends of which runs, and which channels that needs. No I/O.

The script that ends a run publishes on the channel of that run. Pub/sub keeps no messages, so the order of a wait is:

1. The waiter registers itself. The subscriber subscribes to the channel of its run.
2. The server confirms the subscription. The waiter reads the status: the run may have ended before.
3. A message comes. The waiter reads the status again.

A new connection is subscribed to nothing, so it begins at 1 for every waiter. A waiter registers and withdraws without
I/O. One that is cancelled therefore leaves nothing behind: its channel is given up with the next commands.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["RunEndWaits", "Wake"]

Wake = Callable[[Exception | None], None]
"""Wakes a waiter, to read the status of its run, or to raise the error."""


class RunEndWaits:
    """The waiters of one connection, and its subscriptions.

    Args:
        prefix: what the channel of a run starts with.
    """

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._waiters: dict[str, set[Wake]] = {}
        self._subscribed: set[str] = set()
        self._confirmed: set[str] = set()

    def __bool__(self) -> bool:
        return bool(self._waiters)

    def __len__(self) -> int:
        return sum(map(len, self._waiters.values()))

    def add(self, run_id: str, wake: Wake) -> None:
        """Register a waiter. It is woken when its run may have ended."""
        self._waiters.setdefault(run_id, set()).add(wake)

    def discard(self, run_id: str, wake: Wake) -> None:
        """Withdraw a waiter."""
        waiters = self._waiters.get(run_id)
        if waiters is None:
            return
        waiters.discard(wake)
        if not waiters:
            del self._waiters[run_id]

    def is_confirmed(self, run_id: str) -> bool:
        """Whether the end of a run is certain to send a message."""
        return run_id in self._confirmed

    def commands(self) -> list[tuple[str, ...]]:
        """The commands that make the subscriptions those that the waiters need. They count as sent."""
        missing, unneeded = self._waiters.keys() - self._subscribed, self._subscribed - self._waiters.keys()
        self._subscribed = set(self._waiters)
        self._confirmed -= unneeded
        changes = [("SUBSCRIBE", missing), ("UNSUBSCRIBE", unneeded)]
        return [(name, *[self._prefix + run_id for run_id in sorted(runs)]) for name, runs in changes if runs]

    def receive(self, reply: Any) -> None:
        """Take what the server has sent: a confirmation, or a message."""
        kind, channel = reply[0], reply[1]
        run_id = channel.decode(errors="replace").removeprefix(self._prefix) if channel else ""
        if kind == b"subscribe" and run_id in self._subscribed:
            self._confirmed.add(run_id)
            self._wake(run_id)
        elif kind == b"message":
            self._wake(run_id)

    def forget_subscriptions(self) -> None:
        """Nothing is subscribed to any more, because the connection is lost."""
        self._subscribed.clear()
        self._confirmed.clear()

    def fail(self, error: Exception) -> None:
        """Give all waiters an error. The next waiter subscribes anew, because the server may have refused it."""
        self.forget_subscriptions()
        for run_id in list(self._waiters):
            self._wake(run_id, error)

    def _wake(self, run_id: str, error: Exception | None = None) -> None:
        for wake in list(self._waiters.get(run_id, ())):
            wake(error)
