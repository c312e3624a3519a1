"""Defects: each plants one thing on a server that cannot be, by the code under which the doctor must find it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from stepflow_broker.doctor.findings import RULES
from stepflow_broker.protocol.keys import GROUP
from stepflow_broker.registry.cancellation import CancelConfig, CancellationConfig
from stepflow_broker.registry.code import register_code
from stepflow_broker.registry.crons import CronConfig
from stepflow_broker.registry.event_filter import wait_index
from stepflow_broker.registry.flow_control import BatchConfig, ConcurrencyConfig, FlowConfig, SingletonConfig
from stepflow_broker.registry.function_config import FunctionConfig
from stepflow_broker.registry.schedules import ScheduleConfig
from stepflow_broker.registry.tags import TagConfig
from stepflow_broker.transitions.invokes.invokes import ChildStart
from stepflow_broker.transitions.invokes.outbox import StartChild, read_finished
from stepflow_broker.transitions.invokes.remote_invokes import invoke_remote_child, start_remote_child
from stepflow_broker.transitions.jobs.job_claims import Lease
from stepflow_broker.transitions.runs.bulks import BulkStart, add_bulk_runs, start_bulk
from stepflow_broker.transitions.runs.run_starts import start_run
from stepflow_broker.transitions.schedules import ByHand, change_schedule
from stepflow_broker.transitions.steps.asks import begin_ask
from stepflow_broker.transitions.steps.signals import send_signal
from stepflow_broker.transitions.steps.waits import WaitStart, begin_wait
from stepflow_engine.codec import dumps
from stepflow_engine.ids import job_id, step_key
from stepflow_engine.state_machine import RunStatus
from tests.support.driver import GROUP_OF_ERRORS, RETENTION_MS, TIMEOUT_MEMO, Driver

__all__ = ["DEFECTS", "Defect"]

STEP_FIELDS = ("state", "lease", "owner", "leased_at")
A, CALL, W = step_key("a"), step_key("call"), step_key("w")
NOBODY = "nobody"
STEP = f"{NOBODY}:{A}"
HOUR_MS = 3_600_000
MARK = '["stepflow_workers.rq_job.perform", null, ["nobody"], {}]'
WAITLISTED = FlowConfig(concurrency=(ConcurrencyConfig(1),))
BATCHED = FlowConfig(batch=BatchConfig(10, HOUR_MS))
GATE = "shop/buy"


@dataclass(frozen=True, slots=True)
class Defect:
    """What is planted.

    Attributes:
        plant: arranges runs by the scripts, then does the damage behind their backs.
        codes: all that must be found, and nothing else; a code, and the place if it has several.
        leaves: what is still found after a repair.
    """

    plant: Callable[[Driver], object]
    codes: frozenset[str]
    leaves: frozenset[str] = frozenset()


DEFECTS: dict[str, Defect] = {}
Plant = Callable[[Driver], object]


def defect(*codes: str, leaves: str = "") -> Callable[[Plant], Plant]:
    """Name a function as one that plants what is found under these codes, the first being what it is about."""

    def name(plant: Plant) -> Plant:
        DEFECTS[plant.__name__] = Defect(plant, frozenset(codes), frozenset(filter(None, leaves.split(", "))))
        return plant

    return name


# -- arranging -----------------------------------------------------------------


def start(
    driver: Driver, run: str = "run1", *, flow: FlowConfig | None = None, bounds: CancellationConfig | None = None
) -> None:
    config = FunctionConfig("shop", "buy", "shop", flow=flow, cancellation=bounds, retention_ms=RETENTION_MS)
    event = dumps({"name": "e", "id": run, "ts": 1, "data": {"order": 1}})
    driver.send(start_run(driver.partition, config, run_id=run, event=event, dedupe=False))


def tagged(driver: Driver) -> None:
    """A run with a tag."""
    config = FunctionConfig(
        "shop", "buy", "shop", retention_ms=RETENTION_MS, tags=(TagConfig("tenant", "event.data.n"),)
    )
    event = dumps({"name": "e", "id": "run1", "ts": 1, "data": {"n": 17}})
    driver.send(start_run(driver.partition, config, run_id="run1", event=event, dedupe=False))


def planned(driver: Driver) -> Lease:
    """A parked run with one step on its list."""
    lease = driver.started()
    driver.plan(lease, "a")
    driver.park(lease)
    return lease


def waiting(driver: Driver, name: str = "") -> None:
    """A parked run that sleeps, or waits for an event."""
    lease = driver.started()
    index = wait_index(name, paths="", values=b"", has_condition=False) if name else ""
    detail = dumps({"id": "w", "kind": "wait"})[1:]
    wait = WaitStart(W, "w", detail, HOUR_MS, event=name, index=index)
    driver.send(begin_wait(driver.partition, wait, run_id="run1", fence=lease.fence))
    driver.park(lease)


def asking(driver: Driver) -> None:
    """A parked run that waits for an answer."""
    lease = driver.started()
    wait = WaitStart(W, "w", dumps({"id": "w", "kind": "ask", "schema": True})[1:], HOUR_MS)
    driver.send(begin_ask(driver.partition, wait, run_id="run1", fence=lease.fence))
    driver.park(lease)


def signalled(driver: Driver) -> None:
    """The run keeps a signal."""
    driver.send(send_signal(driver.partition, run_id="run1", name="go", signal_id="s1", data=b"1"))


def parent_and_child(driver: Driver) -> None:
    """A parked run, and the child that it waits for, which is ready."""
    lease = driver.started()
    driver.invoke(lease, timeout_ms=HOUR_MS)
    driver.park(lease)


def ended_child(driver: Driver, *, told: bool = False) -> None:
    """The child has ended; whether the parent was told of it."""
    parent_and_child(driver)
    driver.finish(driver.claim_one())
    if told:
        driver.wake()


def parent_of_child_away(driver: Driver) -> StartChild:
    """A parked run that waits for a child elsewhere, and the message that has the child made."""
    lease, config = driver.started(), FunctionConfig("shop", "sell", "shop", retention_ms=RETENTION_MS)
    event = dumps({"name": "e", "id": "child1", "ts": 1, "data": {}})
    start = ChildStart(CALL, "call", "child1", event, dumps({"id": "call"})[1:], HOUR_MS, TIMEOUT_MEMO, b"", config, 1)
    call = invoke_remote_child(driver.partition, start, run_id="run1", fence=lease.fence, version=0)
    message = driver.send(call)[1]
    assert message is not None
    driver.park(lease)
    return message


def ended(driver: Driver, status: RunStatus = RunStatus.COMPLETED) -> None:
    lease = driver.started()
    driver.commit(lease, "first")
    driver.finish(lease, status)


def batched(driver: Driver) -> str:
    """Two runs that wait for their batch; the batch."""
    start(driver, "run1", flow=BATCHED)
    start(driver, "run2", flow=BATCHED)
    return str(driver.client.hget(driver.keys("RUN", "run1"), "batch"))


def deferred(driver: Driver) -> None:
    """Workers have taken the only job again and again, and could not execute it."""
    for _ in range(8):
        driver.now_ms += HOUR_MS
        driver.fire()
        driver.defer(driver.claim_one())


def in_line(driver: Driver) -> None:
    """Two runs; one has the slot, and the other stands in line."""
    start(driver, "run1", flow=WAITLISTED)
    start(driver, "run2", flow=WAITLISTED)


# -- live runs -----------------------------------------------------------------


@defect("job_deferred")
def a_run_that_no_worker_can_read(driver: Driver) -> None:
    driver.start()
    deferred(driver)


@defect("job_deferred")
def a_step_that_no_worker_can_read(driver: Driver) -> None:
    planned(driver)
    deferred(driver)


@defect("missing rq_queue")
def a_job_off_its_list(driver: Driver) -> None:
    driver.start()
    driver.client.lrem(driver.keys("RQ_QUEUE", "shop"), 0, "run1")


@defect("missing rq_queue")
def a_step_off_its_list(driver: Driver) -> None:
    planned(driver)
    driver.client.delete(driver.keys("RQ_QUEUE", "shop:steps"))


@defect("missing rq_queue", "missing rq_job")
def a_job_that_rq_emptied(driver: Driver) -> None:
    driver.start()
    driver.client.delete(driver.keys("RQ_QUEUE", "shop"), driver.keys("RQ_JOB", "run1"))


@defect("duplicated rq_queue")
def a_job_twice_on_its_list(driver: Driver) -> None:
    driver.start()
    driver.start("run2")
    driver.client.rpush(driver.keys("RQ_QUEUE", "shop"), "run1")


@defect("duplicated rq_queue")
def a_job_on_both_lists(driver: Driver) -> None:
    driver.start()
    driver.client.rpush(driver.keys("RQ_QUEUE", "shop:steps"), "run1")


@defect("missing leases")
def a_lease_on_no_list(driver: Driver) -> None:
    driver.started()
    driver.client.zrem(driver.keys("LEASES"), "run1")


@defect("missing leases")
def a_lease_of_a_step_on_no_list(driver: Driver) -> None:
    planned(driver)
    driver.client.zrem(driver.keys("LEASES"), driver.claim_one().job)


@defect("lease_invalid")
def a_lease_of_nobody(driver: Driver) -> None:
    driver.started()
    driver.client.hdel(driver.keys("RUN", "run1"), "owner")


@defect("missing timeouts")
def a_retry_without_a_timer(driver: Driver) -> None:
    driver.retry(driver.started())
    driver.client.zrem(driver.keys("TIMEOUTS"), "job:run1")


@defect("missing timeouts")
def a_delayed_step_with_a_wrong_timer(driver: Driver) -> None:
    lease = driver.started()
    driver.fail(lease, "a")
    driver.park(lease)
    driver.client.zadd(driver.keys("TIMEOUTS"), {f"job:{job_id('run1', A)}": driver.now_ms + 10**9})


@defect("missing timeouts")
def a_sleep_without_a_timer(driver: Driver) -> None:
    waiting(driver)
    driver.client.delete(driver.keys("TIMEOUTS"))


@defect("missing timeouts")
def a_run_that_need_not_finish(driver: Driver) -> None:
    start(driver, bounds=CancellationConfig(finish_ms=HOUR_MS))
    driver.claim_one()
    driver.client.delete(driver.keys("TIMEOUTS"))


@defect("missing timeouts", leaves="missing timeouts")
def a_run_that_need_not_start(driver: Driver) -> None:
    start(driver, bounds=CancellationConfig(start_ms=HOUR_MS))
    driver.client.delete(driver.keys("TIMEOUTS"))


@defect("missing wait_list")
def a_job_out_of_its_line(driver: Driver) -> None:
    in_line(driver)
    driver.client.delete(driver.keys("WAIT_LIST", GATE))


@defect("duplicated wait_list")
def a_job_in_two_wait_lists(driver: Driver) -> None:
    in_line(driver)
    driver.client.zadd(driver.keys("WAIT_LIST", "queue shop"), {"run2": 1})


@defect("wait_list_stalled")
def a_line_that_nobody_moves(driver: Driver) -> None:
    start(driver, flow=WAITLISTED)
    driver.client.delete(driver.keys("CONCURRENCY_SLOTS", GATE), driver.keys("RQ_QUEUE", "shop"))
    driver.client.zadd(driver.keys("WAIT_LIST", GATE), {"run1": 1})
    driver.client.hset(driver.keys("RUN", "run1"), "continuation", "waitlisted")
    driver.client.hset(driver.keys("RQ_JOB", "run1"), "status", "deferred")


@defect("wait_list_stalled")
def a_wait_list_of_missing_code_that_no_claim_finds(driver: Driver) -> None:
    driver.start()
    driver.client.delete(driver.keys("RQ_QUEUE", "shop"))
    driver.client.zadd(driver.keys("WAIT_LIST", f"code shop\n{GATE}"), {"run1": 1})
    driver.client.hset(driver.keys("RUN", "run1"), "continuation", "waitlisted")
    driver.client.hset(driver.keys("RQ_JOB", "run1"), "status", "deferred")


@defect("wait_list_stalled")
def a_function_that_is_paused_no_more(driver: Driver) -> None:
    driver.start()
    driver.client.delete(driver.keys("RQ_QUEUE", "shop"))
    driver.client.zadd(driver.keys("WAIT_LIST", f"function {GATE}"), {"run1": 1})
    driver.client.hset(driver.keys("RUN", "run1"), "continuation", "waitlisted")
    driver.client.hset(driver.keys("RQ_JOB", "run1"), "status", "deferred")


@defect("batch_lost")
def a_run_out_of_its_batch(driver: Driver) -> None:
    driver.client.lrem(driver.keys("BATCHED", batched(driver)), 0, "run1")


@defect("batch_lost", "never_expires run", "orphaned batched")
def a_batch_whose_end_was_not_heard(driver: Driver) -> None:
    batched(driver)
    driver.advance(HOUR_MS)
    driver.fire()
    driver.finish(driver.claim_one())
    driver.client.xtrim(driver.keys("FINISHED"), 0)


@defect("run_stuck")
def a_run_that_waits_for_nothing(driver: Driver) -> None:
    lease = driver.started()
    driver.plan(lease, "a")
    driver.park(lease)
    driver.client.delete(driver.keys("STEPS", "run1"), driver.keys("RQ_JOB", job_id("run1", A)))
    driver.client.lrem(driver.keys("RQ_QUEUE", "shop:steps"), 1, job_id("run1", A))


@defect("run_status_wrong")
def a_status_that_is_not(driver: Driver) -> None:
    driver.start()
    driver.client.hset(driver.keys("RUN", "run1"), "status", "running")


@defect("missing live")
def a_live_run_that_is_not_listed(driver: Driver) -> None:
    driver.start()
    driver.client.zrem(driver.keys("LIVE"), "run1")


@defect(
    "expires_early run",
    "expires_early memos",
    "expires_early memo_order",
    "expires_early attempts",
    "expires_early steps",
)
def a_live_run_that_expires(driver: Driver) -> None:
    lease = driver.started()
    driver.commit(lease, "first")
    driver.fail(lease, "retried", delay_ms=HOUR_MS)
    driver.plan(lease, "a")
    for kind in ("RUN", "MEMOS", "MEMO_ORDER", "ATTEMPTS", "STEPS"):
        driver.client.pexpire(driver.keys(kind, "run1"), HOUR_MS)


@defect("run_incomplete", leaves="run_incomplete")
def a_run_without_a_queue(driver: Driver) -> None:
    driver.start()
    driver.client.hdel(driver.keys("RUN", "run1"), "queue")


@defect("run_status_missing")
def a_run_without_a_status(driver: Driver) -> None:
    driver.client.hset(driver.keys("RUN", NOBODY), "reason", "none")


@defect("missing singleton")
def a_singleton_that_is_not_named(driver: Driver) -> None:
    start(driver, flow=FlowConfig(singleton=SingletonConfig("skip")))
    driver.client.delete(driver.keys("SINGLETON", GATE))


# -- steps and waits -----------------------------------------------------------


@defect("step_incomplete", "orphaned rq_queue", "orphaned rq_job")
def a_step_without_a_state(driver: Driver) -> None:
    planned(driver)
    driver.client.hdel(driver.keys("STEPS", "run1"), f"{A}:state")


@defect("step_incomplete")
def a_wait_without_its_detail(driver: Driver) -> None:
    waiting(driver, "paid")
    driver.client.hdel(driver.keys("STEPS", "run1"), f"{W}:detail")


@defect("step_has_memo")
def a_step_with_a_memo_that_is_planned(driver: Driver) -> None:
    planned(driver)
    driver.client.hset(driver.keys("MEMOS", "run1"), A, '{"data":1,"id":"a"}')
    driver.client.rpush(driver.keys("MEMO_ORDER", "run1"), A)


@defect("missing timeout")
def a_sleep_without_a_timeout_key(driver: Driver) -> None:
    waiting(driver)
    driver.client.delete(driver.keys("TIMEOUT", f"run1:{W}"))


@defect("missing timeout")
def an_invoke_without_a_timeout_key(driver: Driver) -> None:
    parent_and_child(driver)
    driver.client.delete(driver.keys("TIMEOUT", f"run1:{CALL}"))


@defect("missing waits")
def a_wait_out_of_the_index(driver: Driver) -> None:
    waiting(driver, "paid")
    driver.client.delete(driver.keys("WAITS", "\n\npaid"), driver.keys("WAIT_COUNTS", "paid"))


@defect("missing waits")
def an_event_that_would_not_cancel(driver: Driver) -> None:
    start(driver, bounds=CancellationConfig((CancelConfig("gone"),)))
    for name in driver.client.scan_iter(f"{driver.keys('WAITS')}*"):
        driver.client.delete(name)
    driver.client.delete(driver.keys("WAIT_COUNTS", "gone"))


@defect("wait_count_low")
def a_count_of_waits_that_is_too_low(driver: Driver) -> None:
    waiting(driver, "paid")
    driver.client.delete(driver.keys("WAIT_COUNTS", "paid"))


@defect("wait_count_high", leaves="wait_count_high")
def a_count_of_waits_that_is_too_high(driver: Driver) -> None:
    waiting(driver, "paid")
    driver.client.hincrby(driver.keys("WAIT_COUNTS", "paid"), "", 2)


@defect("child_missing")
def a_child_that_does_not_exist(driver: Driver) -> None:
    parent_and_child(driver)
    client, keys = driver.client, driver.keys
    client.delete(keys("RUN", "child1"), keys("RQ_JOB", "child1"), keys("RQ_QUEUE", "shop"))
    client.zrem(keys("LIVE"), "child1")
    client.delete(keys("INDEX", "function shop/sell"))
    client.srem(keys("RUN_FUNCTIONS"), "shop/sell")


@defect("child_result_lost", "never_expires run")
def a_child_whose_end_was_not_heard(driver: Driver) -> None:
    ended_child(driver)
    driver.client.xtrim(driver.keys("FINISHED"), 0)


@defect("child_missing")
def a_child_elsewhere_that_does_not_exist(driver: Driver) -> None:
    parent_of_child_away(driver)
    driver.client.xtrim(driver.keys("FINISHED"), 0)


@defect("child_result_lost", "never_expires run")
def a_child_elsewhere_whose_end_was_not_heard(driver: Driver) -> None:
    message = parent_of_child_away(driver)
    driver.send(start_remote_child(driver.partition, message))
    child = next(lease for lease in driver.claim() or () if lease.job == message.child)
    driver.finish(child)
    driver.client.xtrim(driver.keys("FINISHED"), 0)


@defect("memo_order_wrong")
def a_memo_out_of_the_order(driver: Driver) -> None:
    lease = driver.started()
    driver.commit(lease, "first")
    driver.commit(lease, "second")
    driver.client.lpop(driver.keys("MEMO_ORDER", "run1"))


@defect("memo_order_wrong")
def a_memo_twice_in_the_order(driver: Driver) -> None:
    lease = driver.started()
    driver.commit(lease, "first")
    driver.yield_run(lease)
    driver.client.rpush(driver.keys("MEMO_ORDER", "run1"), step_key("first"))


@defect("child_outcome_differs", leaves="child_outcome_differs")
def an_answer_that_the_child_did_not_give(driver: Driver) -> None:
    ended_child(driver, told=True)
    driver.client.hset(driver.keys("MEMOS", "run1"), CALL, '{"data":"other","outcome":"completed","id":"call"}')


# -- ended runs ----------------------------------------------------------------


@defect("orphaned continuation")
def an_ended_run_with_a_lease(driver: Driver) -> None:
    ended(driver)
    driver.client.hset(driver.keys("RUN", "run1"), mapping={"continuation": "leased", "lease": 1, "owner": "w1"})


@defect("orphaned steps")
def an_ended_run_with_steps(driver: Driver) -> None:
    ended(driver)
    driver.client.hset(driver.keys("STEPS", "run1"), mapping={A: "a", f"{A}:state": "queued"})


@defect("never_expires run", "never_expires memos", "never_expires memo_order", "never_expires attempts")
def an_ended_run_that_stays(driver: Driver) -> None:
    ended(driver)
    driver.client.hset(driver.keys("ATTEMPTS", "run1"), f"1:{A}", "{}")
    for kind in ("RUN", "MEMOS", "MEMO_ORDER"):
        driver.client.persist(driver.keys(kind, "run1"))


@defect("expires_early run")
def an_ended_child_that_goes_too_early(driver: Driver) -> None:
    ended_child(driver)
    driver.client.pexpire(driver.keys("RUN", "child1"), HOUR_MS)


@defect("missing index")
def a_failed_run_that_no_index_lists(driver: Driver) -> None:
    tagged(driver)
    driver.finish(driver.claim_one(), RunStatus.FAILED)
    driver.start("run2")
    for subject in ("function shop/buy", "ended shop/buy", "failed shop/buy", f"error {GROUP_OF_ERRORS}"):
        driver.client.zrem(driver.keys("INDEX", subject), "run1")
    driver.client.zadd(driver.keys("INDEX", "tag tenant=17"), {"run1": 1})


@defect("missing run_functions")
def a_function_whose_runs_are_not_listed(driver: Driver) -> None:
    driver.start()
    driver.client.srem(driver.keys("RUN_FUNCTIONS"), "shop/buy")


@defect("missing expiry")
def an_ended_run_that_is_never_forgotten(driver: Driver) -> None:
    ended(driver)
    driver.client.delete(driver.keys("EXPIRY"))


# -- what dangles --------------------------------------------------------------


@defect("orphaned rq_queue")
def a_job_of_nobody_on_a_list(driver: Driver) -> None:
    driver.client.rpush(driver.keys("RQ_QUEUE", "shop"), NOBODY)
    driver.client.sadd(driver.keys("RQ_QUEUES"), driver.keys("RQ_QUEUE", "shop"))


@defect("orphaned leases")
def a_lease_of_an_ended_run(driver: Driver) -> None:
    ended(driver)
    driver.client.zadd(driver.keys("LEASES"), {"run1": driver.now_ms, STEP: driver.now_ms})


@defect("missing asks")
def an_ask_that_is_not_listed(driver: Driver) -> None:
    asking(driver)
    driver.client.delete(driver.keys("ASKS"))


@defect("orphaned asks")
def asks_of_nobody(driver: Driver) -> None:
    waiting(driver)
    driver.client.zadd(driver.keys("ASKS"), {STEP: 1, f"run1:{W}": 1})


@defect("orphaned timeouts")
def timers_of_nobody(driver: Driver) -> None:
    driver.start()
    members = [f"job:{NOBODY}", "job:run1", f"wait:{STEP}", f"start:{NOBODY}", "finish:run1"]
    driver.client.zadd(driver.keys("TIMEOUTS"), dict.fromkeys(members, driver.now_ms))


@defect("orphaned concurrency_slots")
def a_slot_that_is_never_freed(driver: Driver) -> None:
    start(driver, flow=WAITLISTED)
    driver.client.zadd(driver.keys("CONCURRENCY_SLOTS", GATE), {NOBODY: "inf"})


@defect("orphaned wait_list")
def one_in_line_who_has_a_slot(driver: Driver) -> None:
    start(driver, flow=WAITLISTED)
    driver.client.zadd(driver.keys("WAIT_LIST", GATE), {"run1": 1})


@defect("orphaned timeout")
def a_timeout_key_of_nobody(driver: Driver) -> None:
    driver.client.set(driver.keys("TIMEOUT", STEP), "{}")


@defect("orphaned items")
def results_of_no_map(driver: Driver) -> None:
    driver.start()
    driver.client.hset(driver.keys("ITEMS", f"run1:{A}"), "0", "{}")


@defect("map_stuck")
def a_map_whose_items_are_gone(driver: Driver) -> None:
    driver.begin_map(driver.started(), count=5)
    key = step_key("map")
    (gone, *_) = [lease for lease in driver.claim(worker="w2") or () if lease.key]
    driver.client.hdel(driver.keys("STEPS", "run1"), gone.key, *[f"{gone.key}:{name}" for name in STEP_FIELDS])
    driver.client.zrem(driver.keys("LEASES"), gone.job)
    driver.client.zrem(driver.keys("RQ_WIP", "shop:steps"), f"{gone.job}:{gone.fence}")
    driver.client.delete(driver.keys("RQ_JOB", gone.job))
    assert driver.steps()["map"].key == key


@defect("orphaned waits")
def waits_of_nobody(driver: Driver) -> None:
    driver.client.sadd(driver.keys("WAITS", "\n\npaid"), STEP, f"{NOBODY}:!0")
    driver.client.hset(driver.keys("WAIT_COUNTS", "paid"), "", 2)


@defect("orphaned live")
def ended_runs_that_are_listed_as_live(driver: Driver) -> None:
    ended(driver)
    driver.client.zadd(driver.keys("LIVE"), {"run1": 1, NOBODY: 1})


@defect("orphaned index")
def runs_that_are_in_indexes_of_others(driver: Driver) -> None:
    driver.start()
    driver.client.zadd(driver.keys("INDEX", "ended shop/buy"), {"run1": driver.now_ms, NOBODY: driver.now_ms})
    driver.client.zadd(driver.keys("INDEX", "failed shop/buy"), {"run1": driver.now_ms})
    driver.client.zadd(driver.keys("INDEX", "tag tenant=17"), {"run1": driver.now_ms})
    driver.client.zadd(driver.keys("INDEX", "function shop/buy"), {NOBODY: driver.now_ms})


@defect("orphaned run_functions")
def a_function_that_has_no_runs(driver: Driver) -> None:
    driver.client.sadd(driver.keys("RUN_FUNCTIONS"), "shop/gone")


@defect("orphaned expiry")
def a_live_run_that_is_listed_as_ended(driver: Driver) -> None:
    driver.start()
    entries = {"run1 8 shop/buy": driver.now_ms + HOUR_MS, f"{NOBODY} 8 shop/buy": driver.now_ms + HOUR_MS}
    driver.client.zadd(driver.keys("EXPIRY"), entries)


@defect("orphaned finished")
def a_finished_event_of_nobody(driver: Driver) -> None:
    driver.client.xadd(driver.keys("FINISHED"), {"run": NOBODY}, id=f"{driver.now_ms}-0")


@defect("orphaned steps")
def steps_of_nobody(driver: Driver) -> None:
    driver.client.hset(driver.keys("STEPS", NOBODY), A, "a")


@defect("orphaned memos", "orphaned memo_order")
def memos_of_nobody(driver: Driver) -> None:
    driver.client.hset(driver.keys("MEMOS", NOBODY), A, "{}")
    driver.client.rpush(driver.keys("MEMO_ORDER", NOBODY), A)


@defect("orphaned attempts")
def attempts_of_nobody(driver: Driver) -> None:
    driver.client.hset(driver.keys("ATTEMPTS", NOBODY), f"1:{A}", "{}")


@defect("orphaned signals", "orphaned signal_ids")
def signals_of_nobody(driver: Driver) -> None:
    driver.client.hset(driver.keys("SIGNALS", NOBODY), "count", 1)
    driver.client.sadd(driver.keys("SIGNAL_IDS", NOBODY), "x")


@defect("expires_early signals", "expires_early signal_ids")
def a_live_run_whose_signals_expire(driver: Driver) -> None:
    driver.start()
    signalled(driver)
    for kind in ("SIGNALS", "SIGNAL_IDS"):
        driver.client.pexpire(driver.keys(kind, "run1"), HOUR_MS)


@defect("never_expires signals", "never_expires signal_ids")
def an_ended_run_whose_signals_stay(driver: Driver) -> None:
    lease = driver.started()
    signalled(driver)
    driver.finish(lease)
    for kind in ("SIGNALS", "SIGNAL_IDS"):
        driver.client.persist(driver.keys(kind, "run1"))


@defect("orphaned batched")
def a_batch_of_nobody(driver: Driver) -> None:
    driver.client.rpush(driver.keys("BATCHED", NOBODY), "run1")


@defect("foreign_job", leaves="foreign_job")
def a_job_of_another_program(driver: Driver) -> None:
    driver.client.hset(driver.keys("RQ_JOB", NOBODY), mapping={"data": "x", "status": "queued"})
    driver.client.rpush(driver.keys("RQ_QUEUE", "shop"), NOBODY)
    driver.client.sadd(driver.keys("RQ_QUEUES"), driver.keys("RQ_QUEUE", "shop"))


@defect("orphaned rq_job")
def a_job_of_nobody(driver: Driver) -> None:
    driver.client.hset(driver.keys("RQ_JOB", NOBODY), mapping={"data": MARK, "status": "queued"})


@defect("never_expires rq_job")
def a_failed_job_that_stays(driver: Driver) -> None:
    ended(driver, RunStatus.FAILED)
    driver.client.persist(driver.keys("RQ_JOB", "run1"))


@defect("orphaned singleton")
def a_singleton_that_names_an_ended_run(driver: Driver) -> None:
    ended(driver)
    driver.client.set(driver.keys("SINGLETON", GATE), "run1")


@defect(*(f"never_expires {place}" for place in RULES["never_expires"].warnings))
def flow_control_that_stays(driver: Driver) -> None:
    for kind in map(str.upper, RULES["never_expires"].warnings):
        driver.client.set(driver.keys(kind, GATE), "1")


# -- what RQ's tools are shown -------------------------------------------------


@defect("missing rq_job", "missing rq_wip")
def jobs_that_rq_shows_otherwise(driver: Driver) -> None:
    driver.plan(driver.started(), "a")
    driver.start("run2")
    driver.client.hset(driver.keys("RQ_JOB", "run2"), "status", "finished")
    driver.client.delete(driver.keys("RQ_WIP", "shop"))


@defect("missing rq_scheduled")
def a_delayed_job_that_rq_does_not_show(driver: Driver) -> None:
    driver.retry(driver.started())
    driver.client.delete(driver.keys("RQ_SCHEDULED", "shop:steps"))


@defect("orphaned rq_wip", "orphaned rq_scheduled", "orphaned rq_failed")
def jobs_of_nobody_in_registries(driver: Driver) -> None:
    later_s = driver.now_ms / 1000 + 3_600
    driver.client.zadd(driver.keys("RQ_WIP", "shop"), {f"{NOBODY}:1": later_s})
    driver.client.zadd(driver.keys("RQ_SCHEDULED", "shop"), {NOBODY: later_s})
    driver.client.zadd(driver.keys("RQ_FAILED", "shop"), {NOBODY: later_s})


# -- what nobody sees to -------------------------------------------------------


@defect("lease_overdue")
def a_lease_that_nobody_reclaims(driver: Driver) -> None:
    driver.started()
    driver.advance(2 * HOUR_MS)


def noted_ahead(driver: Driver, note: Callable[[], object]) -> None:
    """What is noted while the clock of the server is ahead."""
    driver.advance(72 * HOUR_MS)
    note()
    driver.advance(-72 * HOUR_MS)


@defect("time_in_future")
def a_run_that_was_created_while_the_clock_was_ahead(driver: Driver) -> None:
    noted_ahead(driver, lambda: start(driver, "run1", flow=BATCHED))


@defect("ended_in_future")
def a_run_that_ended_while_the_clock_was_ahead(driver: Driver) -> None:
    lease = driver.started()
    noted_ahead(driver, lambda: driver.finish(lease, RunStatus.FAILED))


@defect("time_in_future")
def a_retry_that_was_set_while_the_clock_was_ahead(driver: Driver) -> None:
    lease = driver.started()
    noted_ahead(driver, lambda: driver.retry(lease))


@defect("time_in_future")
def a_wait_that_began_while_the_clock_was_ahead(driver: Driver) -> None:
    lease = driver.started()
    noted_ahead(driver, lambda: driver.invoke(lease))
    driver.park(lease)


@defect("time_in_future")
def a_lease_that_was_extended_while_the_clock_was_ahead(driver: Driver) -> None:
    lease = driver.started()
    noted_ahead(driver, lambda: driver.extend(lease))


@defect("time_in_future")
def a_slot_that_was_taken_while_the_clock_was_ahead(driver: Driver) -> None:
    start(driver, "run1", flow=WAITLISTED)
    noted_ahead(driver, lambda: driver.extend(driver.claim_one()))
    (slots,) = driver.client.keys(f"{driver.keys('CONCURRENCY_SLOTS')}*")
    driver.client.zadd(driver.keys("LEASES"), {"run1": driver.now_ms + HOUR_MS // 2})
    driver.client.hset(driver.keys("RUN", "run1"), "started_at", driver.now_ms)
    assert driver.client.zscore(slots, "run1") > driver.now_ms + HOUR_MS


@defect("time_in_future")
def a_function_that_was_resumed_while_the_clock_was_ahead(driver: Driver) -> None:
    noted_ahead(
        driver, lambda: driver.client.zadd(driver.keys("TIMEOUTS"), {"resume:function shop/buy": driver.now_ms})
    )


@defect("timer_overdue")
def a_timer_that_nobody_fires(driver: Driver) -> None:
    driver.retry(driver.started())
    driver.advance(2 * HOUR_MS)


@defect("pending_overdue")
def a_finished_event_that_somebody_took_and_left(driver: Driver) -> None:
    ended_child(driver)
    driver.store.broker.execute(read_finished(driver.partition, "w1"))
    (entry,) = driver.client.xrange(driver.keys("FINISHED"))
    driver.client.xclaim(driver.keys("FINISHED"), GROUP, "w1", 0, [entry[0]], idle=HOUR_MS, justid=True)


@defect("stream_behind")
def a_finished_event_that_nobody_takes(driver: Driver) -> None:
    driver.now_ms = driver.client.time()[0] * 1_000
    ended_child(driver)
    driver.advance(70_000)


@defect("group_missing", leaves="no_consumers")
def a_stream_without_its_group(driver: Driver) -> None:
    driver.client.xgroup_destroy(driver.keys("EVENTS"), GROUP)
    driver.client.xadd(driver.keys("EVENTS"), {"event": "{}"})


@defect("no_consumers", leaves="no_consumers")
def a_stream_that_nobody_reads(driver: Driver) -> None:
    driver.client.xgroup_delconsumer(driver.keys("EVENTS"), GROUP, "w1")
    driver.client.xadd(driver.keys("EVENTS"), {"event": "{}"}, id=f"{driver.now_ms}-0")


@defect("queue_unserved", leaves="queue_unserved")
def a_former_queue_that_has_runs_and_no_worker(driver: Driver) -> None:
    driver.client.sadd(driver.keys("FUNCTION_QUEUES"), "shop/buy\nshop", "shop/buy\nformer", "shop/buy\nempty")
    driver.start(queue="former")


@defect("function_unserved", leaves="function_unserved")
def a_function_whose_code_nobody_has(driver: Driver) -> None:
    driver.client.hset(driver.keys("FUNCTIONS"), "shop/old", FunctionConfig("shop", "old", "shop").to_json())
    driver.send(register_code(driver.partition, ["shop/buy"]))


@defect("queue_unserved", leaves="queue_unserved")
def a_queue_that_nobody_serves(driver: Driver) -> None:
    driver.client.hset(driver.keys("FUNCTIONS"), "other/f", FunctionConfig("other", "f", "other").to_json())


@defect("bulk_unserved", leaves="bulk_unserved")
def a_bulk_that_no_worker_executes(driver: Driver) -> None:
    driver.send(add_bulk_runs(driver.partition, "b1", 0, ["run8", "run9"]))
    driver.send(start_bulk(driver.partition, BulkStart("b1", 2, "shop/buy", b"{}", 50, "ann")))
    driver.advance(61_000)


@defect("events_aside", leaves="events_aside")
def an_event_that_is_set_aside(driver: Driver) -> None:
    driver.client.xadd(driver.keys("EVENTS_ASIDE"), {"event": "{}", "id": "e1", "dedupe": "1", "reason": "too long"})


@defect("schedule_without_function", leaves="schedule_without_function")
def a_schedule_of_a_function_that_was_forgotten(driver: Driver) -> None:
    schedule = ScheduleConfig("shop", "s", "shop/old", CronConfig("0 6 * * *")).changed()
    by = ByHand("", "create")
    driver.send(change_schedule(driver.partition, schedule.name, before=None, after=schedule, state="now", by=by))


@defect("undo_failed", leaves="undo_failed")
def an_undo_handler_that_has_failed(driver: Driver) -> None:
    driver.client.zadd(driver.keys("UNDO_FAILURES"), {"run1": driver.now_ms + HOUR_MS, "old": driver.now_ms - 1})


@defect("suspended", leaves="suspended")
def rq_that_is_suspended(driver: Driver) -> None:
    driver.client.set(driver.keys("RQ_SUSPENDED"), 1)
