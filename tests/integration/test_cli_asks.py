"""Signals, asks and values on the command line."""

from __future__ import annotations

import json

import pytest
import redis

from stepflow import Context, Stepflow
from tests.support.command_line import as_json, call
from tests.support.processes import until

pytestmark = [pytest.mark.slow, pytest.mark.roles("producer", "operator")]
SCHEMA = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}


def test_a_person_sees_what_waits_and_answers(app: Stepflow, url: str, run_worker, client: redis.Redis) -> None:
    @app.function("order")
    async def order(ctx: Context) -> object:
        ctx.set("stage", "waits for ops")
        answer = await ctx.step.ask("approve it", schema=SCHEMA, to="ops", timeout="2h")
        word = await ctx.step.wait_for_signal("word", "the word", timeout="3h")
        return [answer, word.data if word else None]

    def show() -> str:
        return call("runs", "show", run.id, COLUMNS="200", **env).stdout

    env = {"STEPFLOW_REDIS_URL": url}
    run_worker(app)
    run = app.start(order)
    until(lambda: as_json("asks", **env), what="the ask")
    assert (
        call("runs", "signal", run.id, "early", "--data", "[1]", **env).stdout
        == f"run {run.id} was sent signal early\n"
    )
    (listed,) = as_json("asks", "--to", "ops", "--function", "shop/order", **env)
    assert (listed["run_id"], listed["step"], listed["to"], listed["schema"]) == (run.id, "approve it", "ops", SCHEMA)
    assert as_json("asks", "--to", "others", **env) == []
    assert "approve it" in call("asks", COLUMNS="200", **env).stdout
    explained = call("explain", run.id, **env).stdout
    assert "step 'approve it' waits for an answer of ops, since" in explained
    assert f"give it with: stepflow answer {run.id} 'approve it' --data JSON" in explained
    shown = show()
    assert 'stage="waits for ops"' in shown
    assert "not received yet: early [1]" in shown
    assert "waits for an answer of ops until" in shown
    details = as_json("runs", "show", run.id, **env)
    assert details["values"] == {"stage": "waits for ops"}
    assert [(one["signal"], one["data"]) for one in details["signals"]] == [("early", [1])]

    wrong = call("answer", run.id, "approve it", "--data", '{"ok": "yes"}', **env)
    assert wrong.returncode == 2
    assert "$.ok: 'yes' is not of type 'boolean'" in wrong.stderr
    done = call("answer", run.id, "approve it", "--data", '{"ok": true}', "--by", "ada", **env)
    assert done.stdout == f"step approve it of run {run.id} is answered by ada\n"
    again = call("answer", run.id, "approve it", "--data", '{"ok": true}', **env)
    assert again.returncode == 2
    assert "was answered by ada at 20" in again.stderr
    (entry,) = as_json("audit", "--action", "answer", **env)
    assert (entry["subject"], entry["details"]) == (run.id, {"step": "approve it", "by": "ada"})

    until(lambda: "waits for signal" in call("explain", run.id, **env).stdout, what="the wait for the signal")
    assert f"send it with: stepflow runs signal {run.id} 'the word'" in call("explain", run.id, **env).stdout
    sent = json.loads(call("runs", "signal", run.id, "the word", "--id", "w1", "-o", "json", **env).stdout)
    assert sent == {"run_id": run.id, "signal": "the word", "id": "w1", "sent": True}
    assert run.result(20) == [{"ok": True}, None]
    assert "answered by ada" in show()
    late = call("runs", "signal", run.id, "the word", "--id", "w1", **env)
    assert late.stdout == f"run {run.id} was sent a signal with id w1 before\n"
    ended = call("runs", "signal", run.id, "more", **env)
    assert (ended.returncode, "has ended (completed), so it receives no signal 'more'" in ended.stderr) == (2, True)
    assert call("runs", "signal", "0123nobody", "go", **env).returncode == 4
    assert call("asks", **env).stdout == "nothing waits for an answer\n"
