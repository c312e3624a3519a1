"""The audit log: an action is recorded once, by the script that does it."""

from __future__ import annotations

from stepflow_broker.protocol.streams import create_group
from stepflow_broker.registry.function_config import FunctionConfig
from stepflow_broker.registry.functions import forget_function, register_functions
from stepflow_broker.transitions.audit import Action, AuditEntry, read_audit_page, record_action
from stepflow_broker.transitions.events.aside_events import read_aside_events, resend_event, set_aside_event
from stepflow_broker.transitions.events.event_stream import add_event, read_events
from stepflow_broker.transitions.pauses import pause, resume
from stepflow_broker.transitions.runs.forks import ForkStart, fork_run
from stepflow_broker.transitions.runs.run_control import cancel_run
from stepflow_engine.codec import dumps
from stepflow_engine.state_machine import RunStatus
from tests.support.driver import ERROR, RETENTION_MS, Driver


def recorded(driver: Driver) -> list[AuditEntry]:
    """The entries, oldest first."""
    return driver.store.broker.execute(read_audit_page(driver.partition, before="", limit=1_000))[::-1]


def test_each_action_is_recorded_once_though_it_is_sent_twice(driver: Driver) -> None:
    driver.twice = True
    driver.start()
    driver.send(
        cancel_run(driver.partition, run_id="run1", failure=ERROR, retention_ms=RETENTION_MS, who="ann", reason="late")
    )
    config = FunctionConfig("shop", "buy", "shop", retention_ms=RETENTION_MS)
    event = dumps({"name": "e", "id": "run1", "ts": 1, "data": {}})
    start = ForkStart("run2", "run1", event, who="ann", action="retry", details=dumps({"run": "run2"}))
    driver.send(fork_run(driver.partition, config, start))
    driver.send(pause(driver.partition, "queue", "shop", reason="night", who="bob"))
    driver.send(pause(driver.partition, "queue", "shop", reason="day", who="bob"))
    driver.send(resume(driver.partition, "queue", "shop", who="bob"))
    driver.send(record_action(driver.partition, Action("ann", "cancel_many", "runs", "closed", {"runs": 3})))
    found = recorded(driver)
    assert [(one.who, one.action, one.subject, one.reason) for one in found] == [
        ("ann", "cancel", "run1", "late"),
        ("ann", "retry", "run1", ""),
        ("bob", "pause", "queue shop", "night"),
        ("bob", "pause", "queue shop", "day"),
        ("bob", "resume", "queue shop", ""),
        ("ann", "cancel_many", "runs", "closed"),
    ]
    assert found[1].details == {"run": "run2"}
    assert found[5].details["runs"] == 3


def test_an_event_that_is_resent_and_a_function_that_is_forgotten_are_recorded_once(driver: Driver) -> None:
    driver.store.broker.execute(create_group(driver.keys, "EVENTS"))
    driver.store.broker.execute(register_functions(driver.keys, [FunctionConfig("shop", "buy", "shop")]))
    driver.store.broker.execute(add_event(driver.partition, dumps({"name": "e"}), event_id="e1", dedupe=True))
    (event,) = driver.store.broker.execute(read_events(driver.partition, "w1"))
    driver.send(set_aside_event(driver.partition, event, ["too long"]))
    (aside,) = driver.store.broker.execute(read_aside_events(driver.partition))
    driver.twice = True
    driver.send(resend_event(driver.partition, aside.entry, who="ann"))
    driver.send(forget_function(driver.partition, "shop/buy", who="ann"))
    found = [(one.who, one.action, one.subject, one.details) for one in recorded(driver)]
    assert found == [
        ("ann", "resend", "event e1", {"entry": aside.entry}),
        ("ann", "forget", "function shop/buy", {}),
    ]


def test_the_same_action_again_is_another_one(driver: Driver) -> None:
    for _ in range(2):
        driver.send(record_action(driver.partition, Action("ann", "repair", "all data")))
    assert len(recorded(driver)) == 2


def test_what_nobody_did_by_hand_is_not_recorded(driver: Driver) -> None:
    driver.finish(driver.started("run1"), RunStatus.FAILED)
    driver.start("run2")
    driver.cancel("run2")
    driver.cancel("nobody")
    assert recorded(driver) == []
