"""What RQ's own library sees of a real server is true."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
import redis
from rq import Queue
from rq.job import Job, JobStatus
from rq.registry import FailedJobRegistry, ScheduledJobRegistry, StartedJobRegistry
from rq.serializers import JSONSerializer
from rq.suspension import resume, suspend

from stepflow_engine.ids import job_id, step_key
from stepflow_engine.state_machine import RunStatus
from tests.support.backends import real_store
from tests.support.driver import RETENTION_MS, Driver

STEP = job_id("run1", step_key("a"))


@pytest.fixture
def connection(url: str) -> Iterator[redis.Redis]:
    """A connection as RQ has them."""
    with redis.Redis.from_url(url) as found:
        yield found


@pytest.fixture
def driver(url: str) -> Iterator[Driver]:
    """A driver with the time of day, for RQ compares with that."""
    store = real_store(url)
    yield Driver(store, now_ms=time.time_ns() // 1_000_000)
    store.client.close()
    store.broker.close()


def fetch(connection: redis.Redis, job: str) -> Job:
    return Job.fetch(job, connection=connection, serializer=JSONSerializer)


def queue(connection: redis.Redis, name: str) -> Queue:
    return Queue(name, connection=connection, serializer=JSONSerializer)


def test_a_queued_job_is_a_job_of_rqs(driver: Driver, connection: redis.Redis) -> None:
    driver.start()
    job = fetch(connection, "run1")
    assert job.get_status() is JobStatus.QUEUED
    assert (job.origin, job.description) == ("shop", "shop/buy")
    assert (job.func_name, job.args, job.kwargs) == ("stepflow_workers.rq_job.perform", ["run1"], {})
    assert job.created_at.timestamp() == pytest.approx(driver.now_ms / 1000, abs=0.001)
    assert job.enqueued_at is not None
    assert job.enqueued_at.timestamp() == pytest.approx(driver.now_ms / 1000, abs=0.001)


def test_lengths_and_jobs_of_queues_are_those_of_the_lists(driver: Driver, connection: redis.Redis) -> None:
    lease = driver.started("run1")
    driver.plan(lease, "a", "b")
    driver.start("run2")
    assert {found.name for found in Queue.all(connection=connection)} == {"shop", "shop:steps"}
    assert queue(connection, "shop").job_ids == ["run2"]
    assert [job.id for job in queue(connection, "shop:steps").jobs] == driver.queued("shop:steps")
    assert len(queue(connection, "shop:steps")) == 2


def test_a_leased_job_is_started_with_its_worker(driver: Driver, connection: redis.Redis) -> None:
    driver.plan(driver.started(worker="w1"), "a")
    driver.claim(worker="w2")
    for name, job_name, worker in (("shop", "run1", "w1"), ("shop:steps", STEP, "w2")):
        job = fetch(connection, job_name)
        assert (job.get_status(), job.worker_name) == (JobStatus.STARTED, worker)
        assert job.started_at is not None
        assert StartedJobRegistry(queue=queue(connection, name)).get_job_ids() == [job_name]
    assert len(queue(connection, "shop:steps")) == 0


def test_a_delayed_job_is_scheduled_for_its_time(driver: Driver, connection: redis.Redis) -> None:
    driver.fail(driver.started(), "a", delay_ms=5_000)
    registry = ScheduledJobRegistry(queue=queue(connection, "shop:steps"))
    assert registry.get_job_ids() == [STEP]
    assert registry.get_scheduled_time(STEP).timestamp() == -(-(driver.now_ms + 5_000) // 1000)
    assert fetch(connection, STEP).get_status() is JobStatus.SCHEDULED


def test_a_parked_run_is_deferred(driver: Driver, connection: redis.Redis) -> None:
    lease = driver.started()
    driver.plan(lease, "a")
    driver.park(lease)
    assert fetch(connection, "run1").get_status() is JobStatus.DEFERRED
    assert StartedJobRegistry(queue=queue(connection, "shop")).get_job_ids() == []


def test_a_failed_run_is_a_failed_job_with_its_error(driver: Driver, connection: redis.Redis) -> None:
    driver.finish(driver.started(), RunStatus.FAILED, retention_ms=RETENTION_MS)
    job = fetch(connection, "run1")
    assert job.get_status() is JobStatus.FAILED
    assert job.ended_at is not None
    assert "ValueError" in (job._exc_info or "")
    assert FailedJobRegistry(queue=queue(connection, "shop")).get_job_ids() == ["run1"]
    assert StartedJobRegistry(queue=queue(connection, "shop")).get_job_ids() == []


def test_a_completed_run_leaves_no_job(driver: Driver, connection: redis.Redis) -> None:
    driver.finish(driver.started())
    assert not Job.exists("run1", connection=connection)
    assert FailedJobRegistry(queue=queue(connection, "shop")).get_job_ids() == []


def test_rqs_suspend_and_resume_hold_for_claims(driver: Driver, connection: redis.Redis) -> None:
    driver.start()
    suspend(connection)
    assert driver.claim() is None
    resume(connection)
    assert len(driver.claim() or ()) == 1


def test_rqs_clean_up_leaves_a_lease_alone_that_is_just_over(driver: Driver, connection: redis.Redis) -> None:
    driver.advance(-60_000)
    driver.started()
    StartedJobRegistry(queue=queue(connection, "shop")).cleanup()
    assert fetch(connection, "run1").get_status() is JobStatus.STARTED
    driver.advance(60_000)
    assert driver.reclaim() == ["run1"]


def test_rqs_clean_up_leaves_a_job_alone_that_takes_hours(driver: Driver, connection: redis.Redis) -> None:
    driver.advance(-3 * 3_600_000)
    lease = driver.started()
    driver.advance(3 * 3_600_000)
    assert driver.extend(lease) == []
    StartedJobRegistry(queue=queue(connection, "shop")).cleanup()
    assert fetch(connection, "run1").get_status() is JobStatus.STARTED
    assert driver.finish(lease) == 1


@pytest.mark.parametrize(
    "moment",
    ["1970-01-01T00:00:00.001", "1999-12-31T23:59:59.999", "2000-02-29T12:00:00.000", "2100-03-01T00:00:00.123"],
)
def test_times_are_written_as_rq_reads_them(driver: Driver, connection: redis.Redis, moment: str) -> None:
    expected = datetime.fromisoformat(moment).replace(tzinfo=UTC)
    driver.now_ms = round(expected.timestamp() * 1000)
    driver.start()
    assert fetch(connection, "run1").created_at == expected
