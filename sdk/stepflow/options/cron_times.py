"""Computes the times of a schedule, and when the runs of these times start.

A time comes from the five fields of the schedule, or from its interval. A time outside of the window is moved to the
next beginning of the window; several times with the same beginning are one. The run of a time starts at the time, or,
with jitter, up to that much later. How much later derives from the schedule and the time, so that all workers agree.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from cronsim import CronSim

from stepflow.options.window import Window
from stepflow_broker.registry.crons import CronConfig

__all__ = ["due_times", "next_start", "start_of", "upcoming"]

_LATE_MS = 60_000
"""A time that is older than this, in milliseconds, counts as missed: no worker was running."""
_MAX_TIMES = 1_000
"""The largest number of missed times that start runs."""
_FURTHEST_MS = 10 * 366 * 24 * 3600 * 1000
_MINUTE_MS = 60_000


def due_times(cron: CronConfig, *, after_ms: int, now_ms: int, name: str = "", most: int = _MAX_TIMES) -> list[int]:
    """The times of a schedule whose runs start after ``after_ms`` and up to ``now_ms``, in ms since the epoch.

    Missed times follow the ``catch_up`` policy of the schedule; at most the latest 1,000 are returned.

    Args:
        name: the name of the schedule, from which the jitter derives.
        most: how many times are returned at most, instead of 1,000.
    """
    after_ms = max(after_ms, now_ms - _LATE_MS) if cron.catch_up == "skip" else after_ms
    times: list[int] = []
    for time_ms in _backward(cron, now_ms):
        if time_ms + cron.jitter_ms <= after_ms or len(times) == most:
            break
        if after_ms < start_of(cron, time_ms, name) <= now_ms:
            times.append(time_ms)
    if cron.catch_up == "latest":
        on_time = [one for one in times if cron.jitter_ms and start_of(cron, one, name) > now_ms - _LATE_MS]
        times = on_time or times[:1]
    return sorted(times, key=lambda time_ms: (start_of(cron, time_ms, name), time_ms))


def start_of(cron: CronConfig, time_ms: int, name: str) -> int:
    """When the run of a time starts. The jitter never moves it out of the window."""
    most = cron.jitter_ms
    if not most:
        return time_ms
    if window := _window(cron):
        most = min(most, window.end_after(time_ms) - 1 - time_ms)
    digest = hashlib.sha256(f"{name}\0{time_ms}".encode()).digest()
    return time_ms + int.from_bytes(digest[:8], "big") % (most + 1)


def upcoming(cron: CronConfig, *, after_ms: int, name: str = "") -> Iterator[tuple[int, int]]:
    """The runs that start after a time, in order: when each starts, and the time that it is for.

    It ends with the schedule, or when there is none for ten years.
    """
    waiting: list[tuple[int, int]] = []
    for time_ms in _forward(cron, after_ms - cron.jitter_ms):
        while waiting and waiting[0][0] < time_ms:
            yield waiting.pop(0)
        if time_ms > max(after_ms, cron.start_ms) + _FURTHEST_MS:
            break
        if (start_ms := start_of(cron, time_ms, name)) > after_ms:
            waiting = sorted([*waiting, (start_ms, time_ms)])
    yield from waiting


def next_start(cron: CronConfig, *, after_ms: int, name: str = "") -> int | None:
    """When the first run after a time starts; ``None``: none does within ten years."""
    return next((start_ms for start_ms, _ in upcoming(cron, after_ms=after_ms, name=name)), None)


# -- times, moved into the window ------------------------------------------------


def _window(cron: CronConfig) -> Window | None:
    return Window.parse(cron.window, ZoneInfo(cron.zone)) if cron.window else None


def _backward(cron: CronConfig, until_ms: int) -> Iterator[int]:
    """The times of a schedule, the latest first: all up to ``until_ms``, and perhaps later ones."""
    until_ms = min(until_ms, cron.end_ms or until_ms)
    moved = _moved(cron, until_ms, _base_before, lambda window, _, at_ms: window.end_before(at_ms) - 1)
    within = itertools.takewhile(lambda time_ms: time_ms >= cron.start_ms, moved)
    return (time_ms for time_ms in within if not cron.end_ms or time_ms <= cron.end_ms)


def _forward(cron: CronConfig, after_ms: int) -> Iterator[int]:
    """The times of a schedule after a time, in order."""
    after_ms, window = max(after_ms, cron.start_ms - 1), _window(cron)
    since_ms = after_ms if window is None or window.contains(after_ms) else window.end_before(after_ms) - 1
    moved = _moved(cron, since_ms, _base_after, lambda _, moved_ms, __: moved_ms)
    within = itertools.takewhile(lambda time_ms: not cron.end_ms or time_ms <= cron.end_ms, moved)
    return (time_ms for time_ms in within if time_ms > after_ms)


def _moved(
    cron: CronConfig,
    from_ms: int,
    base: Callable[[CronConfig, int], Iterator[int]],
    passed: Callable[[Window, int, int], int],
) -> Iterator[int]:
    """The times of a schedule in one direction, each once, moved into the window.

    Args:
        base: the times before they are moved.
        passed: from where the times go on after one was moved: those between are moved to the same beginning.
    """
    window, times, last = _window(cron), base(cron, from_ms), -1
    while (time_ms := next(times, None)) is not None:
        at_ms = time_ms
        if window is not None and not window.contains(time_ms):
            at_ms = window.begin_after(time_ms)
            times = base(cron, passed(window, at_ms, time_ms))
        if at_ms != last:
            yield at_ms
        last = at_ms


# -- times of the fields, or of the interval -----------------------------------


def _base_before(cron: CronConfig, until_ms: int) -> Iterator[int]:
    """The times up to ``until_ms``, the latest first."""
    if cron.every_ms:
        first = cron.anchor_ms + (until_ms - cron.anchor_ms) // cron.every_ms * cron.every_ms
        return iter(range(first, cron.anchor_ms - 1, -cron.every_ms))
    # in UTC: local arithmetic skips a repeated hour
    minute_after = datetime.fromtimestamp(until_ms // _MINUTE_MS * 60 + 60, UTC)
    return map(_ms, CronSim(cron.schedule, minute_after.astimezone(ZoneInfo(cron.zone)), reverse=True))


def _base_after(cron: CronConfig, after_ms: int) -> Iterator[int]:
    """The times after ``after_ms``, in order."""
    if cron.every_ms:
        passed = max(-1, (after_ms - cron.anchor_ms) // cron.every_ms)
        return itertools.count(cron.anchor_ms + (passed + 1) * cron.every_ms, cron.every_ms)
    return map(_ms, CronSim(cron.schedule, datetime.fromtimestamp(after_ms / 1000, ZoneInfo(cron.zone))))


def _ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)
