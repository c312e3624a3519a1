"""``stepflow runs retry --function`` and ``stepflow bulk``, through real processes."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from stepflow import Stepflow
from tests.integration.apps import shop
from tests.support.command_line import SHOP, as_json, assert_refused, burst, call, enqueue, register
from tests.support.processes import WorkerProcess

pytestmark = pytest.mark.slow


@pytest.fixture
def failed(url: str) -> list[str]:
    """Runs that have failed."""
    register(url, shop.app)
    runs = [enqueue(url, "broken") for _ in range(3)]
    burst(url)
    return runs


def test_many_runs_are_counted_retried_followed_and_listed(
    failed: list[str], url: str, start_worker: Callable[..., WorkerProcess]
) -> None:
    server = ("--redis-url", url)
    counted = as_json("runs", "retry", "--function", "broken", "--dry-run", *server)
    assert (counted["matched"], counted["bulk"], counted["dry_run"]) == (3, None, True)
    assert sorted(counted["sample"]) == sorted(failed)
    assert "3 runs would be retried" in call("runs", "retry", "--function", "broken", "--dry-run", *server).stdout
    assert as_json("bulk", "list", *server) == []

    filters = ("--error", "NonRetriableError", "--since", "1h", "--rate", "500", "--reason", "card")
    bulk = call("runs", "retry", "--function", "shop/broken", *filters, "--yes", *server).stdout.strip()
    start_worker(SHOP)
    followed = as_json("bulk", "show", bulk, "--follow", *server)
    assert (followed["state"], followed["done"], followed["reason"]) == ("completed", 3, "card")
    assert [one["id"] for one in as_json("bulk", "list", *server)] == [bulk]
    assert "shop/broken" in call("bulk", "list", *server).stdout
    assert "3: 3 done, 0 skipped, 0 refused" in call("bulk", "show", bulk, *server).stdout
    source = as_json("runs", "show", failed[0], *server)
    (fork,) = source["forks"]
    assert f"bulk {bulk}: card" in call("runs", "show", fork, *server).stdout
    (action,) = as_json("audit", "--action", "fork_many", *server)
    assert (action["reason"], action["details"]["runs"], action["details"]["bulk"]) == ("card", 3, bulk)


def test_a_bulk_is_stopped_before_any_worker_has_it(failed: list[str], url: str) -> None:
    server = ("--redis-url", url)
    bulk = as_json("runs", "retry", "--function", "broken", "--yes", *server)["bulk"]
    assert "running" in call("bulk", "show", bulk, *server).stdout
    assert as_json("bulk", "stop", bulk, *server) == {"id": bulk, "stopped": True, "state": "stopped"}
    assert "was stopped already" in call("bulk", "stop", bulk, *server).stdout
    assert as_json("runs", "show", failed[0], *server)["forks"] == []
    assert "stop_bulk" in call("audit", *server).stdout


def test_bad_input_is_one_line_and_an_exit_code(failed: list[str], url: str) -> None:
    server = ("--redis-url", url)
    retry = ("runs", "retry")
    assert_refused(call(*retry, failed[0], "--function", "broken", *server), 2, "run ids cannot be combined")
    assert_refused(call(*retry, failed[0], "--dry-run", *server), 2, "run ids cannot be combined")
    assert_refused(call(*retry, *server), 2, "no runs are selected")
    assert_refused(call(*retry, "--since", "1h", "--yes", *server), 2, "need --function")
    assert_refused(call(*retry, "--function", "broken", *server), 2, "use --yes")
    assert_refused(call(*retry, "--function", "brokn", "--yes", *server), 4, "brokn")
    assert_refused(call(*retry, "--function", "broken", "--rate", "0", "--yes", *server), 2, "0.01")
    assert_refused(call(*retry, "--function", "broken", "--status", "completed", "--yes", *server), 2, "pass before=")
    assert_refused(call("bulk", "show", "b1", *server), 4, "no bulk has the id 'b1'")
    assert_refused(call("bulk", "stop", "b1", *server), 4, "no bulk has the id 'b1'")


def test_a_name_that_several_apps_have_needs_the_app(url: str) -> None:
    server = ("--redis-url", url)
    register(url, shop.app)
    other = Stepflow("other", redis_url=url)

    @other.function("broken")
    async def broken(_: object) -> None: ...

    register(url, other)
    assert_refused(
        call("runs", "retry", "--function", "broken", "--yes", *server), 2, "--function other/broken or shop/broken"
    )
    assert json.loads(call("bulk", "list", "-o", "json", *server).stdout) == []
