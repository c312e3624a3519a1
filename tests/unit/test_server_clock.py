"""A clock that was ahead and has come back is noticed, and nothing else is taken for it."""

from __future__ import annotations

import pytest

from stepflow_workers.scheduling.server_clock import ServerClock

START_MS = 1_763_200_000_000
HOUR_MS, DAY_MS = 3_600_000, 86_400_000


def seen(*moments: tuple[int, int]) -> list[bool]:
    """What a clock answers at moments: the steady time, and how far the server's clock is ahead then, both in ms."""
    clock = ServerClock()
    return [clock.has_come_back(START_MS + steady_ms + ahead_ms, steady_ms) for steady_ms, ahead_ms in moments]


@pytest.mark.parametrize("ahead_ms", [6_000, HOUR_MS, 3 * DAY_MS])
def test_a_clock_that_was_ahead_for_seconds_has_come_back(ahead_ms: int) -> None:
    assert seen((0, 0), (60_000, 0), (62_000, ahead_ms), (66_000, ahead_ms), (68_000, 40)) == [False] * 4 + [True]


def test_each_of_two_jumps_is_noticed() -> None:
    moments = [(0, 0), (60_000, 0), (62_000, DAY_MS), (64_000, 0), (120_000, 0), (122_000, HOUR_MS), (124_000, 0)]
    assert [at for (at, _), found in zip(moments, seen(*moments), strict=True) if found] == [64_000, 124_000]


def test_a_clock_that_comes_back_in_two_parts_is_noticed_at_the_end() -> None:
    assert seen((0, 0), (60_000, 0), (62_000, DAY_MS), (64_000, HOUR_MS), (66_000, 0)) == [False] * 4 + [True]


@pytest.mark.parametrize(
    "moments",
    [
        pytest.param([(0, 0), (60_000, 1_000), (120_000, 3_000), (180_000, 0)], id="drift"),
        pytest.param([(0, 0), (60_000, DAY_MS), (120_000, DAY_MS)], id="ahead for good"),
        pytest.param([(0, 0), (60_000, -DAY_MS), (120_000, -DAY_MS)], id="back for good"),
        pytest.param([(0, 0), (60_000, 0), (62_000, -DAY_MS), (68_000, 0)], id="back for seconds"),
        pytest.param([(0, -DAY_MS), (6_000, 0), (HOUR_MS, 0), (HOUR_MS + 2_000, -DAY_MS)], id="back twice"),
        pytest.param([(0, 0), (60_000, HOUR_MS), (62_000, -DAY_MS)], id="ahead, then wrong in the other direction"),
    ],
)
def test_a_clock_that_only_moves_has_not_come_back(moments: list[tuple[int, int]]) -> None:
    assert not any(seen(*moments))
