"""The examples of the reference page of step.run, as functions and as a program."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from datetime import UTC, datetime
from typing import Any

import pytest

from examples import step_run
from stepflow import Stepflow
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


def test_the_program_prints_what_each_example_shows() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "examples.step_run"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    for example in step_run.EXAMPLES:
        assert f"{example.shows}:\n" in done.stdout
    assert '"s3://product-images/a.png"' in done.stdout
