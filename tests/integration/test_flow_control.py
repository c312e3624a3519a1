"""Flow control with real workers: the handlers themselves see what is let through."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter, defaultdict

import pytest

from stepflow import (
    Concurrency,
    ConfigurationError,
    Context,
    Debounce,
    Event,
    InvokeSkippedError,
    RunSkippedError,
    RunStatus,
    Singleton,
    Stepflow,
    SyncContext,
    Throttle,
)
from tests.support.command_line import call
from tests.support.processes import until


class Gauge:
    """Counts who is inside at once, for each key, and remembers the most."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside: Counter[object] = Counter()
        self.most: defaultdict[object, int] = defaultdict(int)
        self.done: list[object] = []

    def enter(self, key: object) -> None:
        with self._lock:
            self._inside[key] += 1
            self.most[key] = max(self.most[key], self._inside[key])

    def leave(self, key: object) -> None:
        with self._lock:
            self._inside[key] -= 1
            self.done.append(key)

    async def step(self, key: object, seconds: float = 0.01) -> None:
        self.enter(key)
        await asyncio.sleep(seconds)
        self.leave(key)


def no_slots(client) -> bool:
    """Whether nobody has a slot and nobody waits for one."""
    return not [*client.scan_iter("stepflow:concurrency-slots:*"), *client.scan_iter("stepflow:wait-list:*")]


@pytest.mark.parametrize("sticky", [0, 100])
def test_no_more_steps_than_the_limit_are_executed_at_once(app: Stepflow, run_worker, client, sticky: int) -> None:
    gauge = Gauge()

    @app.function("few", concurrency=3)
    async def few(ctx: Context) -> int:
        await ctx.step.run("one", gauge.step, "all")
        await asyncio.gather(*[ctx.step.run("many", gauge.step, "all") for _ in range(4)])
        await ctx.step.sleep("nap", "10ms")
        await ctx.step.run("last", gauge.step, "all")
        return ctx.event.data

    for _ in range(2):
        run_worker(app, sticky=sticky)
    runs = app.start_many(few, range(20))
    assert [run.result(60) for run in runs] == list(range(20))
    assert gauge.most["all"] == 3
    assert len(gauge.done) == 20 * 6
    until(lambda: no_slots(client))


def test_no_more_runs_than_the_limit_are_live_at_once(app: Stepflow, run_worker, client) -> None:
    gauge = Gauge()

    @app.function("live", concurrency=Concurrency(2, of="runs"))
    async def live(ctx: Context) -> int:
        await ctx.step.run("enter", gauge.enter, "all")
        await asyncio.gather(*[ctx.step.run("many", lambda: None) for _ in range(3)])
        await ctx.step.sleep("nap", "10ms")
        await ctx.step.run("leave", gauge.leave, "all")
        return ctx.event.data

    runs = app.start_many(live, range(8))
    reason = runs[7].explain()
    assert (reason.kind, reason.because[0].kind) == ("waitlisted", "concurrency")
    assert reason.because[0].text.startswith("number 6 for runs shop/live, limit 2 live runs, held by ")
    for _ in range(2):
        run_worker(app)
    assert [run.result(60) for run in runs] == list(range(8))
    assert gauge.most["all"] == 2
    until(lambda: no_slots(client))


def test_each_key_has_a_limit_of_its_own(app: Stepflow, run_worker, client) -> None:
    gauge = Gauge()

    @app.function("keyed", concurrency=Concurrency(1, key="event.data.tenant"))
    async def keyed(ctx: Context) -> None:
        for n in range(3):
            await ctx.step.run(f"s{n}", gauge.step, ctx.event.data["tenant"])

    for _ in range(3):
        run_worker(app, concurrency=20)
    runs = app.start_many(keyed, [{"tenant": n % 5} for n in range(50)])
    for run in runs:
        run.result(60)
    assert gauge.most == dict.fromkeys(range(5), 1)
    until(lambda: no_slots(client))


def test_a_tenant_with_very_many_runs_does_not_delay_another(app: Stepflow, run_worker) -> None:
    gauge = Gauge()

    @app.function("fair", concurrency=Concurrency(2, key="event.data.tenant"))
    async def fair(ctx: Context) -> None:
        await ctx.step.run("s", gauge.step, ctx.event.data["tenant"])

    app.start_many(fair, [{"tenant": "big"}] * 2_000)
    small = app.start(fair, {"tenant": "small"})
    run_worker(app)
    small.result(30)
    assert Counter(gauge.done)["big"] < 200


def test_two_limits_hold_at_once(app: Stepflow, run_worker, client) -> None:
    gauge = Gauge()
    limits = [Concurrency(2, key="event.data.tenant"), Concurrency(5)]

    @app.function("both", concurrency=limits)
    async def both(ctx: Context) -> None:
        async def step() -> None:
            gauge.enter("all")
            await gauge.step(ctx.event.data["tenant"])
            gauge.leave("all")

        await ctx.step.run("s", step)

    run_worker(app)
    for run in app.start_many(both, [{"tenant": n % 4} for n in range(60)]):
        run.result(60)
    assert gauge.most == {"all": 5, 0: 2, 1: 2, 2: 2, 3: 2}
    until(lambda: no_slots(client))


def test_functions_of_an_app_share_a_limit(app: Stepflow, run_worker) -> None:
    gauge = Gauge()
    shared = Concurrency(1, key="event.data.account", scope="app")

    @app.function("pay", concurrency=shared)
    async def pay(ctx: Context) -> None:
        await ctx.step.run("s", gauge.step, "a")

    @app.function("refund", concurrency=shared)
    def refund(ctx: SyncContext) -> None:
        def step() -> None:
            gauge.enter("a")
            time.sleep(0.01)
            gauge.leave("a")

        ctx.step.run("s", step)

    run_worker(app)
    runs = [app.start(function, {"account": 7}) for _ in range(10) for function in (pay, refund)]
    for run in runs:
        run.result(60)
    assert gauge.most["a"] == 1


def test_a_run_that_is_cancelled_in_line_or_at_work_leaves_its_place(app: Stepflow, run_worker, client) -> None:
    gate = threading.Event()

    @app.function("one", concurrency=1)
    async def one(ctx: Context) -> str:
        return await ctx.step.run("s", lambda: gate.wait(30) and "done")

    run_worker(app)
    first, second, third = app.start_many(one, range(3))
    until(lambda: first.status() is RunStatus.RUNNING)
    second.cancel()
    first.cancel()
    gate.set()
    assert third.result(30) == "done"
    until(lambda: no_slots(client))


@pytest.mark.slow
def test_a_worker_that_dies_leaks_no_slot(app: Stepflow, start_worker, client, url: str, tmp_path) -> None:
    producer = Stepflow("gated", redis_url=url)
    ledger, gate = tmp_path / "ledger", tmp_path / "gate"
    worker = start_worker("tests.integration.apps.limited:app")
    until(lambda: client.hexists("stepflow:functions", "gated/one"))
    data = {"ledger": str(ledger), "gate": str(gate)}
    runs = [producer.start("gated/one", data) for _ in range(3)]
    until(lambda: ledger.exists())
    worker.kill()
    gate.touch()
    start_worker("tests.integration.apps.limited:app")
    for run in runs:
        run.result(40)
    lines = ledger.read_text().split()
    assert lines.count("in") == 4  # the killed one again
    until(lambda: no_slots(client))


def test_a_throttle_spreads_starts_and_drops_none(app: Stepflow, run_worker) -> None:
    started: list[float] = []

    @app.function("slow", throttle=Throttle(10, "1s", burst=3))
    async def slow(ctx: Context) -> None:
        started.append(time.monotonic())

    run_worker(app)
    began = time.monotonic()
    runs = app.start_many(slow, range(12))
    for run in runs:
        run.result(30)
    assert len(started) == 12
    assert max(started) - began >= 0.8  # nine after the burst, 100 ms apart


def test_of_runs_that_come_close_together_the_last_starts(app: Stepflow, run_worker, client) -> None:
    seen: list[int] = []

    @app.function("search", event="typed", debounce=Debounce("400ms", key="event.data.user"))
    async def search(ctx: Context) -> None:
        seen.append((ctx.event.data["user"], ctx.event.data["n"]))

    run_worker(app)
    app.send([Event("typed", {"user": user, "n": n}, ts=1_000 + n) for n in (0, 3, 1, 2) for user in "ab"])
    until(lambda: len(seen) == 2)
    assert sorted(seen) == [("a", 3), ("b", 3)]
    reasons = [
        client.hget(f"stepflow:run:{run}", "reason") for run in client.zrange("stepflow:index:ended shop/search", 0, -1)
    ]
    assert Counter(reasons)["debounced"] == 6


def test_a_debounce_puts_off_no_longer_than_its_timeout(app: Stepflow, run_worker) -> None:
    seen: list[int] = []

    @app.function("busy", debounce=Debounce("5s", timeout="600ms"))
    async def busy(ctx: Context) -> None:
        seen.append(ctx.event.data)

    run_worker(app)
    began = time.monotonic()
    for n in range(5):
        app.start(busy, n)
    until(lambda: seen)
    assert seen == [4]
    assert time.monotonic() - began < 4


def test_a_parent_is_told_that_its_child_was_debounced_away(app: Stepflow, run_worker) -> None:
    @app.function("calm", debounce=Debounce("300ms"))
    async def calm(ctx: Context) -> str:
        return f"ran {ctx.event.data}"

    @app.function("main")
    async def main(ctx: Context) -> list[str]:
        results = await asyncio.gather(*[ctx.step.invoke(f"c{n}", calm, n) for n in range(3)], return_exceptions=True)
        return [one.reason if isinstance(one, InvokeSkippedError) else one for one in results]

    run_worker(app)
    assert sorted(app.invoke(main, timeout=20)) == ["debounced", "debounced", "ran 2"]


def test_a_singleton_skips_what_comes_while_it_lives(app: Stepflow, run_worker) -> None:
    gate = threading.Event()

    @app.function("sync", singleton=Singleton(key="event.data.shop"))
    async def sync(ctx: Context) -> str:
        await ctx.step.run("wait", lambda: gate.wait(30))
        return "synced"

    run_worker(app)
    first, other = app.start(sync, {"shop": 1}), app.start(sync, {"shop": 2})
    second = app.start(sync, {"shop": 1})
    with pytest.raises(RunSkippedError, match="singleton"):
        second.result(20)
    gate.set()
    assert (first.result(20), other.result(20)) == ("synced", "synced")
    assert app.start(sync, {"shop": 1}).result(20) == "synced"


def test_a_singleton_may_cancel_what_is_there(app: Stepflow, run_worker) -> None:
    @app.function("latest", singleton=Singleton(mode="cancel"))
    async def latest(ctx: Context) -> int:
        await ctx.step.sleep("x", ctx.event.data)
        return ctx.event.data

    run_worker(app)
    first = app.start(latest, 3600)
    second = app.start(latest, 0)
    assert second.result(20) == 0
    assert first.status() is RunStatus.CANCELLED


def test_each_value_of_an_idempotency_key_starts_one_run(app: Stepflow, run_worker) -> None:
    done: list[int] = []

    @app.function("pay", event="order", idempotency="event.data.order_id")
    async def pay(ctx: Context) -> None:
        done.append(ctx.event.data["order_id"])

    @app.function("after", event="order")
    async def after(ctx: Context) -> None: ...

    run_worker(app)
    app.send([Event("order", {"order_id": n % 2}) for n in range(6)])
    until(lambda: len(done) == 2)
    with pytest.raises(RunSkippedError, match="duplicate"):
        app.start(pay, {"order_id": 1}).result(20)
    assert sorted(done) == [0, 1]


def test_a_priority_is_a_better_place_in_line(app: Stepflow, run_worker) -> None:
    order: list[str] = []
    gate = threading.Event()

    @app.function("ranked", concurrency=1, priority="event.data.vip ? 120 : 0")
    async def ranked(ctx: Context) -> None:
        if ctx.event.data["name"] == "first":
            await ctx.step.run("wait", lambda: gate.wait(30))
        order.append(ctx.event.data["name"])

    first = app.start(ranked, {"name": "first", "vip": False})
    others = [app.start(ranked, {"name": name, "vip": name == "vip"}) for name in ("a", "b", "vip")]
    run_worker(app)
    until(lambda: first.status() is RunStatus.RUNNING)
    gate.set()
    for run in others:
        run.result(20)
    assert order == ["first", "vip", "a", "b"]


@pytest.mark.parametrize("partitions", [1, 4], ids=["whole", "divided"])
def test_a_start_gets_the_live_run_of_a_singleton_that_attaches(app: Stepflow, run_worker, client, url) -> None:
    @app.function("build", singleton=Singleton("event.data.branch", mode="attach"), event="pushed")
    async def build(ctx: Context) -> str:
        signal = await ctx.step.wait_for_signal("go", "go")
        return f"built {ctx.event.data['branch']} for {signal.data if signal else 'nobody'}"

    @app.function("release")
    async def release(ctx: Context) -> str:
        try:
            return await ctx.step.invoke("build", build, {"branch": "main"})
        except InvokeSkippedError as error:
            return error.reason

    run_worker(app)
    run = app.start(build, {"branch": "main"})
    other, same = app.start_many(build, [{"branch": "dev"}, {"branch": "main"}])
    again = app.start("build", {"branch": "main"}, id="push-17")
    assert (run.attached, other.attached, same.attached, again.attached) == (False, False, True, True)
    assert {run.id, same.id, again.id} == {run.id}
    assert app.start(release).result(30) == f"attached to {run.id}"
    app.send("pushed", {"branch": "main"})
    until(lambda: len([*app.runs("build", status="skipped")]) == 4)
    done = call("start", "shop/build", "--data", '{"branch": "main"}', STEPFLOW_REDIS_URL=url)
    assert (done.stdout.strip(), "was live, and none was started" in done.stderr) == (run.id, True)
    run.signal("go", "all")
    assert [one.result(30) for one in (run, same, again)] == ["built main for all"] * 3
    assert app.start("build", {"branch": "main"}, id="push-17").id == run.id
    assert not app.start("build", {"branch": "main"}).attached
    assert asyncio.run(app.astart("build", {"branch": "main"})).attached


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"concurrency": 0}, "concurrency: limit must be an integer >= 1, got 0"),
        ({"concurrency": 10**30}, "concurrency: limit must be at most 1,000,000,000, got 1000"),
        ({"throttle": Throttle(10**5_000, "1m")}, "at most 1,000,000,000, got a number of too many digits"),
        ({"throttle": Throttle(1, "1m", burst=10**10)}, "burst must be at most 1,000,000,000, got 10000000000"),
        ({"concurrency": [Concurrency(1), Concurrency(2), Concurrency(3)]}, "at most two"),
        ({"concurrency": Concurrency(1, scope="global")}, "needs a key"),
        ({"concurrency": Concurrency(1, scope="planet")}, "'function', 'app' or 'global'"),
        ({"concurrency": Concurrency(1, of="jobs")}, "concurrency: of must be 'steps' or 'runs', got 'jobs'"),
        ({"concurrency": [Concurrency(1, of="runs")] * 3}, "at most two Concurrency of steps and two of runs"),
        ({"concurrency": Concurrency(1, key="data.user")}, "write event.data"),
        ({"concurrency": Concurrency(1, key="event.data.")}, "is not CEL"),
        ({"throttle": Throttle(0, "1m")}, "throttle: limit must be an integer >= 1, got 0"),
        ({"throttle": Throttle(1, "0s")}, "throttle: period must be at least 1ms, got '0s'"),
        ({"throttle": Throttle(1, "1m", burst=0)}, "throttle: burst must be an integer >= 1, got 0"),
        ({"debounce": Debounce(-1)}, "must not be negative"),
        ({"debounce": Debounce("1s"), "throttle": Throttle(1, "1m")}, "cannot be combined"),
        ({"singleton": Singleton(mode="wait")}, "singleton: mode must be 'skip', 'cancel' or 'attach', got 'wait'"),
        ({"idempotency": "event.data. >"}, "is not CEL"),
        ({"priority": "high"}, "write event.data.high"),
        ({"priority": "600"}, "must use the event"),
    ],
)
def test_bad_flow_control_is_refused_where_it_is_written(
    app: Stepflow, settings: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigurationError, match="function 'f'") as refused:
        app.function("f", **settings)  # type: ignore[arg-type]
    assert message in str(refused.value)


def test_events_of_a_key_start_runs_in_the_order_in_which_they_were_sent(app: Stepflow, run_worker) -> None:
    executed: dict[int, list[int]] = {key: [] for key in range(8)}

    @app.function("ordered", event="shop/changed", concurrency=Concurrency(1, key="event.data.key"))
    async def ordered(ctx: Context) -> None:
        executed[ctx.event.data["key"]].append(ctx.event.data["n"])

    for _ in range(3):
        run_worker(app)
    for n in range(25):
        for key in executed:
            app.send("shop/changed", {"key": key, "n": n})
    until(lambda: sum(map(len, executed.values())) == 200)
    assert executed == {key: list(range(25)) for key in executed}


def test_events_that_are_routed_together_keep_their_order_when_some_are_sent_again(
    app: Stepflow, run_worker, client
) -> None:
    executed: list[int] = []

    @app.function("ordered", triggers=["shop/added", "shop/paid"], concurrency=1)
    async def ordered(ctx: Context) -> None:
        executed.append(ctx.event.data["n"])

    @app.function("waits", event="shop/opened")
    async def waits(ctx: Context) -> None:
        await ctx.step.wait_for_event("paid", event="shop/paid", match={"data.n": -1}, timeout="1h")

    worker = run_worker(app)
    app.send("shop/opened", {})
    until(lambda: client.exists("stepflow:wait-counts:shop/paid"))
    worker.stop()
    names = ["shop/paid", "shop/added"]  # the server refuses each paid one at first: it asks for the value of data.n
    app.send([Event(names[n % 2], {"n": n}) for n in range(40)])
    run_worker(app)
    until(lambda: len(executed) == 40)
    assert executed == list(range(40))


@pytest.mark.slow
def test_the_order_of_events_survives_a_worker_that_dies_with_some(app: Stepflow, run_worker, client) -> None:
    executed: list[int] = []

    @app.function("ordered", event="shop/changed", concurrency=1)
    async def ordered(ctx: Context) -> None:
        executed.append(ctx.event.data["n"])

    run_worker(app).stop()
    app.send([Event("shop/changed", {"n": n}) for n in range(3)])
    client.xreadgroup("stepflow", "dead", {"stepflow:events": ">"})  # a worker that reads and dies
    run_worker(app)
    app.send([Event("shop/changed", {"n": n}) for n in range(3, 6)])
    until(lambda: len(executed) == 6)
    assert executed == list(range(6))
