"""A server that writes to disk every second loses power: its last writes are gone, and what is left goes on.

What was lost may be what workers know: memos of runs that they hold, leases that they have, children and waits of them.
"""

from __future__ import annotations

import itertools
import time
from pathlib import Path

import pytest

from tests.support.load import Load
from tests.support.redis_server import AofSizes
from tests.support.site import Site


@pytest.mark.timeout(1800)
def test_with_fsync_everysec_a_loss_of_power_costs_the_last_writes_and_leaves_nothing_stuck(
    tmp_path: Path, long: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    died_at: list[float] = []
    with Site(tmp_path, capsys, fsync="everysec") as site:
        site.start_workers(2)
        with Load(site.server.url, tmp_path) as load:
            for _ in range(20 if long else 3):
                with AofSizes(site.server) as sizes:
                    load.await_starts(site.chance.randint(120, 160))
                    died_at.append(time.monotonic())
                    site.server.lose_power(sizes, site.chance.uniform(0.1, 1.0))
                site.await_work(load.effects)
        load.settle(site.client, all_memos=False)
        lost = [load.acknowledged_at[run] for run in load.lost(site.client)]
        lost_ms = [
            round(max((1000 * (death - at) for at in lost if before < at <= death), default=0))
            for before, death in itertools.pairwise([0.0, *died_at])
        ]
        site.say(f"{len(died_at)} losses of power, {load}; {len(lost)} lost, those of the last {lost_ms} ms")
        assert lost, "the fault did not happen: nothing was lost"
