"""Encrypted payloads with real workers: nothing on the server tells, nothing is lost for want of a key."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Callable, Iterator

import pytest
import redis

from stepflow import (
    Batch,
    Concurrency,
    ConfigurationError,
    Context,
    DecryptionError,
    Encryption,
    EncryptionKeyMissingError,
    Event,
    RunFailedError,
    StepError,
    Stepflow,
    reference_function,
)
from stepflow_workers.encryption_keys import KEY_IDS
from stepflow_workers.state.settings import WorkerSettings
from stepflow_workers.worker import StepWorker
from tests.support.command_line import as_json, call
from tests.support.partition_merging_client import server_urls
from tests.support.processes import WorkerThread, until
from tests.support.roles import as_role

SECRET = "swordfish"
VAULT = "tests.integration.apps.vault:app"
KEY, OTHER_KEY = Encryption.generate_key(), Encryption.generate_key()


@pytest.fixture
def seen(url: str) -> Iterator[Callable[[], bytes]]:
    """All that the servers were told since the test began."""
    found = bytearray()
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(redis.Redis.from_url(one)) for one in server_urls(url)]
        monitors = [stack.enter_context(client.monitor()) for client in clients]

        def read() -> bytes:
            for monitor in monitors:
                while monitor.connection.can_read(timeout=0.2):
                    found.extend(monitor.connection.read_response(disable_decoding=True))
            return bytes(found)

        yield read


def vault(url: str, *keys: str) -> Stepflow:
    """An app with these keys."""
    return Stepflow("vault", redis_url=url, encryption=Encryption(keys=keys) if keys else None)


def everything(client: redis.Redis) -> str:
    """All values on the server, as text."""
    found = []
    for key in client.scan_iter(count=1_000):
        match client.type(key):
            case "hash":
                found.append(client.hgetall(key))
            case "string":
                found.append(client.get(key))
            case "list":
                found.append(client.lrange(key, 0, -1))
            case "zset":
                found.append(client.zrange(key, 0, -1))
            case "set":
                found.append(client.smembers(key))
            case "stream":
                found.append(client.xrange(key))
        found.append(key)
    return str(found)


def test_nothing_that_reaches_the_server_tells_a_payload(url: str, client, seen, run_worker) -> None:
    app = vault(url, KEY)
    told: list[object] = []
    tries: list[int] = []

    def flaky() -> dict[str, str]:
        tries.append(1)
        if len(tries) == 1:
            raise ValueError(SECRET)
        return {"s": SECRET}

    def broken() -> None:
        raise ValueError(SECRET)

    @app.function("child", concurrency=Concurrency(3, key="event.data.n"))
    async def child(ctx: Context) -> str:
        if ctx.event.data["n"] == 2:
            raise RuntimeError(SECRET)
        return ctx.event.data["word"]

    @app.function("batched", event="b", batch=Batch(2, "10s"))
    async def batched(ctx: Context) -> list[str]:
        return [event.data["word"] for event in ctx.events]

    @app.function("waiter", retries=0)
    async def waiter(ctx: Context) -> object:
        first = await ctx.step.wait_for_event("m", event="came", timeout="30s", match="data.n", lookback="1m")
        same = "event.data.word == run.event.data.word"
        second = await ctx.step.wait_for_event("c", event="came", timeout="30s", if_=same, lookback="1m")
        assert first
        assert second
        return [first.data["word"], second.data["word"]]

    async def on_failure(ctx: Context) -> None:
        told.append(ctx.event.data)

    @app.function("main", retries=1, on_failure=on_failure)
    async def main(ctx: Context) -> None:
        assert await ctx.step.run("flaky", flaky) == {"s": SECRET}
        with pytest.raises(StepError, match=SECRET):
            await ctx.step.with_options(retries=0).run("broken", broken)
        word = await ctx.step.invoke("child", child, {"word": SECRET, "n": 1})
        await ctx.step.send_event("send", [Event(name, {"word": word, "n": 7}) for name in ("sent", "came", "came")])
        await ctx.step.invoke("bad child", child, {"word": SECRET, "n": 2})

    run_worker(app)
    waits = app.start(waiter, {"word": SECRET, "n": 7})
    batch = [app.start(batched, {"word": SECRET + str(n)}) for n in range(2)]
    app.send("nothing", {"word": SECRET})
    run = app.start(main, {"word": SECRET})
    with pytest.raises(RunFailedError, match=SECRET) as caught:
        run.result(30)
    assert caught.value.failure is not None
    assert caught.value.failure.cause is None or SECRET in str(caught.value.failure)
    assert waits.result(30) == [SECRET, SECRET]
    assert [one.result(30) for one in batch] == [[SECRET + "0", SECRET + "1"]] * 2
    until(lambda: told, what="the failure function")
    assert told[0]["event"]["data"] == {"word": SECRET}  # type: ignore[index]
    assert SECRET in told[0]["error"]["message"]  # type: ignore[index]
    commands = seen()
    assert b"XADD" in commands, "the server was watched"
    assert SECRET.encode() not in commands
    assert SECRET not in everything(client)
    assert "$enc" in everything(client)


@pytest.mark.slow
def test_a_run_waits_for_a_worker_that_has_the_key(url: str, client, run_worker) -> None:
    def declare(app: Stepflow) -> Stepflow:
        @app.function("keep", event="keep", retries=0)
        async def keep(ctx: Context) -> str:
            return await ctx.step.run("a", lambda: ctx.event.data["word"])

        return app

    keyed = declare(vault(url, KEY))
    worker = run_worker(declare(vault(url)))
    run = keyed.start("keep", {"word": SECRET})
    event_id = keyed.send("keep", {"word": SECRET})
    until(lambda: client.hget(f"stepflow:run:{run.id}", "blocked"), what="the run that cannot be read")
    blocked = client.hget(f"stepflow:run:{run.id}", "blocked")
    assert "STEPFLOW_ENCRYPTION_KEYS" in blocked
    assert SECRET not in blocked
    assert run.explain().kind == "not_readable"
    assert (run.status(), client.xlen("stepflow:events")) == ("waiting", 1)
    worker.stop()
    client.zadd("stepflow:timeouts", {f"job:{run.id}": 1}, xx=True)
    run_worker(keyed)
    assert run.result(30) == SECRET
    until(lambda: not client.xlen("stepflow:events"), what="the event that was left")
    assert event_id
    with pytest.raises(EncryptionKeyMissingError, match=f"its key '{Encryption(keys=[KEY]).key_ids[0]}'") as caught:
        vault(url, OTHER_KEY).run(run.id).result(5)
    assert SECRET not in str(caught.value)


def keeper(url: str, *keys: str) -> Stepflow:
    app = vault(url, *keys)

    @app.function("keep", retries=0)
    async def keep(ctx: Context) -> str:
        first, second = await asyncio.gather(*[ctx.step.run(name, lambda: ctx.event.data["word"]) for name in "ab"])
        return str(first + second)

    return app


def test_runs_go_to_the_worker_that_has_their_key_and_spend_no_attempt(url: str, client, run_worker, caplog) -> None:
    """The worker without the key leaves each run at once, and says so once."""

    def lines() -> list[str]:
        return [vars(one)["error"] for one in caplog.records if one.getMessage() == "payload_decryption_failed"]

    run_worker(keeper(url, OTHER_KEY))
    producer = keeper(url, KEY, OTHER_KEY)
    first = producer.start("keep", {"word": SECRET})
    until(lines, what="a run that cannot be read")
    run_worker(keeper(url, OTHER_KEY, KEY))
    until(lambda: len(_writers(url)) == 2, what="the second worker")
    runs = [first, *producer.start_many("keep", [{"word": SECRET}] * 20)]
    assert [run.result(30) for run in runs] == [SECRET * 2] * 21
    assert all(client.hget(f"stepflow:run:{run.id}", "attempt") == "0" for run in runs)
    (line,) = lines()
    assert vault(url, KEY).backend.cipher.key_ids[0] in line


def test_a_worker_that_could_not_read_what_another_writes_does_not_start(url: str, run_worker) -> None:
    run_worker(keeper(url, KEY))
    ids = {key: vault(url, key).backend.cipher.key_ids[0] for key in (KEY, OTHER_KEY)}
    settings = WorkerSettings(as_role(url, "worker"))
    until(lambda: _writers(url) == [ids[KEY]], what="the worker's record")
    for keys, text in (
        ([OTHER_KEY], f"with key '{ids[KEY]}', which this worker does not have"),
        ([], f"with key '{ids[KEY]}', which this worker does not have"),
        ([OTHER_KEY, KEY], f"this worker encrypts the data of app vault with key '{ids[OTHER_KEY]}', which worker"),
    ):
        with pytest.raises(ConfigurationError, match=text):
            StepWorker([keeper(url, *keys)], settings).work()
    run_worker(keeper(url, KEY, OTHER_KEY))  # the first step of a rotation
    until(lambda: len(_writers(url)) == 2, what="the second worker")
    assert keeper(url, KEY).start("keep", {"word": SECRET}).result(20) == SECRET * 2


def _writers(url: str) -> list[str]:
    """The ids of the keys with which the workers encrypt."""
    with redis.Redis.from_url(server_urls(url)[0], decode_responses=True) as one:
        names = one.smembers("rq:workers")
        fields = [one.hget(name if name.startswith("rq:") else f"rq:worker:{name}", KEY_IDS) for name in names]
    return [json.loads(field)["vault"][0] for field in fields if field]


def test_a_parent_waits_until_its_worker_has_the_key_of_its_child(url: str, client, run_worker) -> None:
    bank = Stepflow("bank", redis_url=url, encryption=Encryption(keys=[OTHER_KEY, KEY]))

    @bank.function("secret")
    async def secret(ctx: Context) -> str:
        return await ctx.step.run("a", lambda: SECRET)

    def parent(*keys: str) -> Stepflow:
        app = vault(url, *keys)

        @app.function("ask", retries=0)
        async def single(ctx: Context) -> str:
            return await ctx.step.invoke("secret", reference_function("secret", app_id="bank"), {"a": 1})

        return app

    run_worker(bank)
    poor = run_worker(parent(KEY))
    run = parent(KEY).start("ask")
    until(lambda: client.hget(f"stepflow:run:{run.id}", "blocked"), what="the parent that cannot read its child")
    assert Encryption(keys=[OTHER_KEY]).key_ids[0] in client.hget(f"stepflow:run:{run.id}", "blocked")
    poor.stop()
    client.zadd("stepflow:timeouts", {f"job:{run.id}": 1}, xx=True)
    run_worker(parent(KEY, OTHER_KEY))
    assert run.result(30) == SECRET


def test_a_key_of_an_encrypted_event_can_be_paused(url: str, client, run_worker) -> None:
    app = vault(url, KEY)
    steps: list[int] = []
    heard = threading.Event()

    @app.function("per-shop", concurrency=Concurrency(5, key="event.data.shop"))
    async def per_shop(ctx: Context) -> None:
        await ctx.step.run("first", pause)
        await ctx.step.run("second", steps.append, 2)

    def pause() -> None:
        app.pause(key="vault/per-shop:event.data.shop=17")
        until(lambda: worker.worker._worker_state.pauses._pauses, what="the worker's hearing of it")
        heard.set()

    worker = run_worker(app)
    run = app.start(per_shop, {"shop": 17})
    assert heard.wait(30), "the worker has not heard of the pause"
    until(lambda: run.explain().kind == "paused", what="the pause")
    assert steps == []
    app.resume(key="vault/per-shop:event.data.shop=17")
    run.result(30)
    assert steps == [2]


def test_keys_are_rotated_while_runs_wait(url: str, client, run_worker) -> None:
    def declare(*keys: str) -> tuple[Stepflow, Callable[[], WorkerThread]]:
        app = vault(url, *keys)

        @app.function("long")
        async def long(ctx: Context) -> list[object]:
            first = await ctx.step.run("first", lambda: SECRET)
            event = await ctx.step.wait_for_event("go", event="go", timeout="1h")
            return [first, await ctx.step.run("second", lambda: 2), event.data if event else None]

        return app, lambda: run_worker(app)

    old, start_old = declare(KEY)
    worker = start_old()
    run = old.start("long")
    until(lambda: client.zcard("stepflow:timeouts"), what="the wait")
    worker.stop()
    new, start_new = declare(OTHER_KEY, KEY)
    start_new()
    new.send("go", {"word": SECRET})
    assert new.run(run.id).result(30) == [SECRET, 2, {"word": SECRET}]
    ids = [Encryption(keys=[key]).key_ids[0] for key in (KEY, OTHER_KEY)]
    memos = list(client.hgetall(f"stepflow:memos:{run.id}").values())
    assert [sum(key in memo for memo in memos) for key in ids] == [1, 2]


def test_a_payload_that_was_moved_to_another_run_is_not_taken(url: str, client, run_worker) -> None:
    app = vault(url, KEY)

    @app.function("long", retries=0)
    async def long(ctx: Context) -> object:
        first = await ctx.step.run("first", lambda: ctx.run_id)
        await ctx.step.wait_for_event("go", event="go", timeout="1h")
        return first

    worker = run_worker(app)
    one, two = app.start(long), app.start(long)
    until(lambda: client.zcard("stepflow:timeouts") == 2, what="the waits")
    worker.stop()
    (key,) = client.hkeys(f"stepflow:memos:{one.id}")
    client.hset(f"stepflow:memos:{one.id}", key, client.hget(f"stepflow:memos:{two.id}", key))
    run_worker(app)
    app.send("go")
    assert two.result(30) == two.id
    with pytest.raises(RunFailedError, match=r"step 'first': .* was altered; .* run stepflow doctor") as failed:
        one.result(30)
    assert failed.value.name == "DecryptionError"
    client.hset(
        f"stepflow:run:{two.id}", "output", client.hget(f"stepflow:memos:{two.id}", key)[8:-1].split("}")[0] + "}"
    )
    with pytest.raises(DecryptionError):
        two.result(5)


@pytest.mark.slow
def test_the_command_line_shows_payloads_to_those_who_have_the_key(url: str, start_worker, monkeypatch) -> None:
    monkeypatch.setenv("STEPFLOW_ENCRYPTION_KEYS", KEY)
    start_worker(VAULT)
    keyed = {"STEPFLOW_REDIS_URL": url, "STEPFLOW_ENCRYPTION_KEYS": KEY}
    poor = {"STEPFLOW_REDIS_URL": url}
    until(lambda: "keep" in call("functions", **poor).stdout, what="the worker")
    started = call("start", "vault/keep", "--wait", "-d", f'{{"word": "{SECRET}", "n": 1}}', "-o", "json", **keyed)
    assert SECRET in started.stdout, started.stderr
    run_id = started.stdout.split('"')[3]
    shown = as_json("runs", "show", run_id, **keyed)
    assert (shown["output"], shown["event"]["data"]["word"]) == ({"kept": SECRET}, SECRET)
    hidden = as_json("runs", "show", run_id, **poor)
    assert (hidden["output"], hidden["event"]["data"], hidden["steps"][0]["result"]) == ("encrypted",) * 3
    assert hidden["event"]["name"] == shown["event"]["name"]
    table = call("runs", "show", run_id, **poor)
    assert (table.returncode, SECRET in table.stdout, "encrypted" in table.stdout) == (0, False, True)
