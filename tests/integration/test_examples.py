"""The examples: those of the reference pages of step.run and step.invoke, and of time and events; also as programs."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from types import ModuleType
from typing import Any

import pytest
import redis

from examples import step_invoke, step_run, step_waits
from examples.support import move_schedules_back
from stepflow import RunFailedError, Stepflow
from tests.support.processes import ROOT, until


@pytest.fixture
def producer(url: str, run_worker) -> Stepflow:
    """A producer of the examples' app, whose worker runs; the stand-ins are empty."""
    step_run.BUCKET.clear()
    step_run.TABLE.clear()
    run_worker(step_run.app)
    return Stepflow(step_run.app.id, redis_url=url)


def test_an_imported_product_has_its_images_copied(producer: Stepflow) -> None:
    producer.send("shop/product.imported", {"imageURLs": ["https://shop.example/a.png", "https://shop.example/b.png"]})
    until(lambda: sorted(step_run.BUCKET) == ["a.png", "b.png"], what="the copies")


def test_the_copied_images_are_returned(producer: Stepflow) -> None:
    urls = producer.invoke(step_run.import_product_images, {"imageURLs": ["https://shop.example/a.png"]}, timeout=20)
    assert urls == ["s3://product-images/a.png"]


def test_data_goes_from_step_to_step_and_is_inserted_once(producer: Stepflow) -> None:
    assert producer.invoke(step_run.import_prices, timeout=20) == {"total": 42}
    assert step_run.TABLE == [{"total": 42}]


def test_one_id_used_twice_makes_two_users(producer: Stepflow) -> None:
    users = producer.invoke(step_run.create_users, timeout=20)
    assert [user["name"] for user in users] == ["ada", "grace"]
    assert users == step_run.TABLE


def test_the_parallel_steps_come_back_in_order(producer: Stepflow) -> None:
    done = producer.invoke(step_run.sign_up, {"email": "ada@example.com"}, timeout=20)
    assert done == ["subscription of ada@example.com", "contact ada@example.com", "mail to ada@example.com"]


def test_an_object_id_and_a_datetime_become_text_unless_a_type_restores_them(producer: Stepflow) -> None:
    shown: dict[str, Any] = asyncio.run(producer.ainvoke(step_run.serialize, timeout=20))
    assert shown["plain types"] == ["str", "str"]
    assert datetime.fromisoformat(shown["plain"]["createdAt"]) == datetime(2023, 5, 31, 11, 39, 18, tzinfo=UTC)
    assert shown["typed types"] == ["Account", "datetime"]
    assert step_run.Account.model_validate(shown["typed"]).created_at == datetime(2023, 5, 31, 11, 39, 18, tzinfo=UTC)


# -- step.invoke -------------------------------------------------------------------


@pytest.fixture
def invoker(url: str, client: redis.Redis, run_worker: Callable[..., Any]) -> Iterator[Stepflow]:
    """A producer of the app that invokes; each of the two apps has a worker."""
    step_invoke.OPENED.clear()
    run_worker(step_invoke.maths)
    until(lambda: client.hexists("stepflow:functions", "maths/compute-pi"), what="the registration of maths")
    run_worker(step_invoke.app)
    yield Stepflow(step_invoke.app.id, redis_url=url)
    step_invoke.OPENED.set()


def test_an_event_starts_the_function_that_invokes_another_one(invoker: Stepflow) -> None:
    assert invoker.invoke(step_invoke.main_function, timeout=20) == "Square of 4 is 16."
    assert invoker.invoke(step_invoke.compute_square, {"number": 3}, timeout=20) == step_invoke.Square(result=9)


def test_a_function_is_invoked_by_definition_by_reference_and_by_id(invoker: Stepflow) -> None:
    assert invoker.invoke(step_invoke.invoke_each_way, timeout=20) == {
        "definition": 4,
        "reference": 9,
        "another app": "3.14159265358",
        "id": "3.1415",
    }


def test_a_bounded_invoke_gives_the_result_that_comes_in_time(invoker: Stepflow) -> None:
    assert invoker.invoke(step_invoke.invoke_with_timeout, timeout=20) == 25


def test_invokes_run_side_by_side_and_come_back_in_order(invoker: Stepflow) -> None:
    assert invoker.invoke(step_invoke.invoke_in_parallel, timeout=20) == [0, 1, 4, 9, 16]
    assert invoker.invoke(step_invoke.invoke_and_go_on, timeout=20) == "6² = 36, 7² = 49"
    assert invoker.invoke(step_invoke.invoke_from_a_plain_function, timeout=20) == [64, 81]


def test_each_kind_of_end_is_told_apart(invoker: Stepflow) -> None:
    assert invoker.invoke(step_invoke.handle_errors, timeout=30) == {
        "not found": "not found: could not find function with ID: no-such-function",
        "failed": "failed: ValueError: the card was declined",
        "timed out": "timed out: function step-invoke-examples/waits-for-the-door did not finish within 200ms",
        "rate limited": ["result: done", "skipped: rate limited"],
    }


def test_a_failure_that_is_not_caught_fails_the_run_that_invoked(invoker: Stepflow) -> None:
    with pytest.raises(RunFailedError, match="the card was declined"):
        invoker.invoke(step_invoke.let_it_fail, timeout=20)


# -- time and events ---------------------------------------------------------------


@pytest.fixture
def patient(url: str, run_worker: Callable[..., Any]) -> Stepflow:
    """A producer of the app that waits, whose worker runs; the stand-ins are empty."""
    for stand_in in (step_waits.MAILS, step_waits.REPORTS):
        while not stand_in.empty():
            stand_in.get()
    run_worker(step_waits.app)
    return Stepflow(step_waits.app.id, redis_url=url)


def test_an_order_waits_for_its_payment_and_a_large_one_is_told_of(patient: Stepflow) -> None:
    assert step_waits.paid_at_once(patient) == {"result": "order 1 was paid", "mail": "thank you for order 1"}


def test_the_customer_is_reminded_before_the_order_is_given_up(patient: Stepflow) -> None:
    after = {"mail": "please pay order 2", "result": "order 2 was paid after a reminder"}
    assert step_waits.paid_after_the_reminder(patient) == after
    assert step_waits.never_paid(patient) == {"mail": "please pay order 3", "result": "order 3 was never paid"}


def test_support_is_told_of_a_run_that_fails(patient: Stepflow) -> None:
    mail = step_waits.failed(patient)["mail"]
    assert mail == "step-waits-examples/ship failed for order 4: there is no van"


@pytest.mark.roles("producer", "worker")
def test_a_night_that_was_missed_is_made_up_for(patient: Stepflow, run_worker: Callable[..., Any]) -> None:
    move_schedules_back(patient, hours=48)
    run_worker(step_waits.app)  # the other worker looks again when the next night has come
    assert step_waits.REPORTS.get(timeout=30) == "the report of 02:00 in Europe/Rome"


# -- as programs -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("program", "part"),
    [
        (step_run, '"s3://product-images/a.png"'),
        (step_invoke, '"Square of 4 is 16."'),
        (step_waits, '"the report of 02:00 in Europe/Rome"'),
    ],
)
def test_the_program_prints_what_each_example_shows(program: ModuleType, part: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", program.__name__], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    for example in program.EXAMPLES:
        assert f"{example.shows}:\n" in done.stdout
    assert part in done.stdout
