"""`runs list` and `errors`: filters, pages, and one line for what is wrong."""

from __future__ import annotations

import pytest

from stepflow import Context, NonRetriableError, Stepflow
from tests.support.command_line import as_json, assert_refused, call, register

pytestmark = pytest.mark.roles("producer", "operator")


@pytest.fixture
def found(app: Stepflow, url: str, run_worker) -> list[str]:
    """Runs with tags, of which the second has failed; their ids, the oldest first."""

    @app.function("buy", retries=0, tags={"tenant": "event.data.tenant"})
    async def buy(ctx: Context) -> None:
        if ctx.event.data.get("bad"):
            raise NonRetriableError("card 17 is not valid\x1b[31m")

    runs = [app.start(buy, {"tenant": n % 2, "bad": n == 1}, id=f"order-{n}") for n in range(4)]
    worker = run_worker(app)
    for n in (0, 2, 3):
        runs[n].result(timeout="30s")
    with pytest.raises(Exception, match="card 17"):
        runs[1].result(timeout="30s")
    worker.stop()
    register(url, app)
    return [run.id for run in sorted(runs, key=lambda run: (run.info().created_at, run.id))]


def test_runs_are_listed_by_filters_and_page_by_page(app: Stepflow, found: list[str], url: str) -> None:
    def ids(*words: str) -> list[str]:
        return [run["run_id"] for run in as_json("runs", "list", *words, "--redis-url", url)]

    bad = app.run(function="buy", id="order-1").id
    assert ids("--status", "failed") == ids("--error", "NonRetriableError") == ids("--error", "card 17") == [bad]
    assert ids("--app", "shop") == ids("--app", "shop", "--function", "buy") == found[::-1]
    assert ids("--event", "order-1") == ids("--id", bad[:12].upper()) == ids("--if", "event.data.bad") == [bad]
    tagged = as_json("runs", "list", "--tag", "tenant=1", "--since", "1h", "--redis-url", url)
    assert {run["tags"]["tenant"] for run in tagged} == {"1"}
    assert len(tagged) == 2
    first, second = as_json("runs", "list", "--function", "buy", "--limit", "2", "--redis-url", url)
    assert [first["run_id"], second["run_id"]] == found[::-1][:2]
    assert ids("--function", "buy", "--cursor", first["cursor"], "--limit", "1") == [second["run_id"]]
    table = call("runs", "list", "--limit", "2", "--redis-url", url).stdout
    cursor = table.splitlines()[-1].split()[-1]
    assert ids("--cursor", cursor) == found[::-1][2:]
    assert "there may be more runs: --cursor" in table
    assert "there may be more runs" not in call("runs", "list", "--redis-url", url).stdout


def test_errors_are_listed_in_groups(found: list[str], url: str) -> None:
    [group] = as_json("errors", "--redis-url", url)
    assert (group["function"], group["name"], group["count"], group["step"]) == (
        "shop/buy",
        "NonRetriableError",
        1,
        None,
    )
    shown = call("errors", "--function", "buy", "--since", "1h", "--redis-url", url, COLUMNS="200").stdout
    assert group["id"] in shown
    assert "\x1b[31m" not in shown
    assert f"runs list --error {group['id']}" in shown
    assert as_json("runs", "list", "--error", group["id"], "--redis-url", url)[0]["error_group"] == group["id"]
    assert "no errors" in call("errors", "--since", "0s", "--redis-url", url).stdout
    show = call("runs", "show", group["run_id"], "--redis-url", url).stdout
    assert "tenant=1" in show


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (("--function", "byu"), 4, "could not find function with ID: byu: did you mean 'buy'?"),
        (("--function", "shop/byu"), 4, "could not find function with ID: shop/byu: did you mean 'shop/buy'?"),
        (("--tag", "tenat=1"), 2, "there is no tag 'tenat': did you mean 'tenant'?"),
        (("--tag", "tenant"), 2, "tag must be NAME=VALUE, got 'tenant'"),
        (("--tag", "a b=1"), 2, "the name of a tag must have"),
        (("--tag", f"a={'z' * 129}"), 2, "the value must have 1 to 128 bytes"),
        (("--cursor", "made-up"), 2, "'--cursor': cursor must be one that a page has ended with"),
        (("--since", "yesterday"), 2, "time must be an age such as 2h"),
        (("--since", "1h", "--until", "2h"), 2, "'--since': since must be earlier than until"),
        (("--id", "xyz"), 2, "id must be the beginning of a run id"),
        (("--parent", "nobody"), 4, "there is no run 'nobody'"),
        (("--batch", "nobody"), 4, "there is no run 'nobody'"),
        (("--batch", "nobody", "--event", "e"), 2, "parent, batch, event and id cannot be combined"),
        (("--app", "shpo"), 2, "there is no app 'shpo': did you mean 'shop'?"),
        (("--app", "shop", "--function", "bank/buy"), 2, "--app shop and a function of app bank contradict each other"),
        (("--error", "0123456789abcdef"), 2, "there is no group of errors"),
        (("--error", "E", "--status", "completed"), 2, "'--error': error is a filter of failed runs"),
        (("--if", "event.data ="), 2, "is not CEL"),
        (("--tag", "tenant=1", "--tag", "tenant=2"), 2, "a run has one value of a tag, got tenant=1 and tenant=2"),
    ],
)
def test_what_is_wrong_is_one_line(found: list[str], url: str, words: tuple[str, ...], code: int, text: str) -> None:
    assert_refused(call("runs", "list", *words, "--redis-url", url), code, text)
