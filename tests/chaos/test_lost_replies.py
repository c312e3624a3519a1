"""Calls are executed, and their replies are lost: the calls are sent again, and nothing is done twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.load import Load
from tests.support.proxy import Proxy
from tests.support.site import Site


@pytest.mark.timeout(1800)
def test_calls_that_are_executed_and_not_answered_have_their_effect_once(
    tmp_path: Path, long: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    with Site(tmp_path, capsys) as site, Proxy(site.server.port, seed=site.seed) as proxy:
        site.start_workers(2, url=proxy.url)
        proxy.cut_chance = 0.05
        with Load(proxy.url, tmp_path, pause_s=0.005) as load:
            load.await_starts(5_000 if long else 300)
        load.settle(site.client)
        cuts, proxy.cut_chance = proxy.cuts, 0.0
        site.say(f"{cuts} lost replies, {load}; jobs reclaimed: {site.reclaimed}")
        assert cuts > 20
        assert load.lost(site.client) == []
        assert load.effects.repeats().total() <= site.reclaimed
