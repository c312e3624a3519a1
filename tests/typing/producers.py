"""The types of producers: what a run of a function results in."""

from __future__ import annotations

from typing import Any, assert_type

from stepflow import Event, Pause, Reason, Run, RunStatus
from tests.typing.functions import Number, Square, app, compute_square, compute_square_in_a_thread, untyped

assert_type(app.start(compute_square, {"number": 4}), Run[Square])
assert_type(app.start(compute_square, Number(number=4), id="four").result(timeout=30), Square)
assert_type(app.start(compute_square_in_a_thread).result("1m").result, int)
assert_type(app.start(untyped).result(), str)
assert_type(app.start("compute-square", {"number": 4}).result(), Any)
assert_type(app.invoke(compute_square, {"number": 4}, timeout=30), Square)
assert_type(app.invoke(compute_square_in_a_thread), Square)
assert_type(app.invoke("other/compute-square"), Any)
assert_type(app.run("a run's id"), Run[Any])
assert_type(app.run("a run's id").explain(), Reason)
assert_type(app.pauses(), list[Pause])
assert_type(app.start(compute_square).status(), RunStatus)
assert_type(app.start(compute_square).cancel("enough", children=False), bool)
assert_type(app.send("calculate/square", {"number": 4}, id="order-17"), str)
assert_type(app.send(Event("calculate/square", {"number": 4})), str)
assert_type(app.send([Event("calculate/square"), Event("other", 1)]), list[str])

app.start(compute_square, id="four", priority=300, queue="bulk", retention="90d", timeout="2h", delay="3d")
app.start_many(compute_square, [{"number": 4}], priority=300, delay=30)
app.invoke(compute_square, {"number": 4}, timeout=30, queue="bulk")
app.start(4)  # error
app.start(compute_square, priorty=300)  # error
app.start(compute_square, priority="high")  # error
app.start("compute-square", delay=[3])  # error
app.start_many(compute_square, [], id="four")  # error
app.invoke(compute_square, delay="3d")  # error
app.invoke(lambda ctx: 4)  # error
app.send(4)  # error
print(app.start(compute_square).result().root)  # error
app.start(compute_square).result(timeout=[1])  # error


async def in_a_loop() -> None:
    assert_type(await app.start(compute_square).aresult(timeout=30), Square)
    assert_type(await app.start(compute_square).astatus(), RunStatus)
    assert_type(await app.start(compute_square).acancel(), bool)
    assert_type(await app.start(compute_square).aexplain(), Reason)
