"""Limits and ids."""

from __future__ import annotations

import pytest

from stepflow_engine.ids import StepKeys, job_id, run_id_for, split_job_id, step_key
from stepflow_engine.limits import MAX_RETRIES, Limits, check_id, check_retries


def test_the_defaults_are_those_that_are_promised() -> None:
    assert Limits() == Limits(10_000, 4 * 1024**2, 32 * 1024**2, 512 * 1024, 5_000)
    assert MAX_RETRIES == 20


@pytest.mark.parametrize("value", ["a", "ü ☃", "x" * 10_240, "☃" * 3_413, "\0", " "])
def test_odd_ids_are_accepted_as_they_are(value: str) -> None:
    assert check_id(value, "an id") == value


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("", "non-empty text"),
        (None, "non-empty text"),
        (b"a", "non-empty text"),
        (1, "non-empty text"),
        ("x" * 10_241, "at most 10,240 bytes, got 10,241"),
        ("☃" * 3_414, "got 10,242"),
        ("a\ud800", "lone surrogate"),
    ],
)
def test_what_cannot_be_an_id_is_refused_with_the_reason(value: object, reason: str) -> None:
    with pytest.raises(ValueError, match=f"an id .*{reason}"):
        check_id(value, "an id")


@pytest.mark.parametrize("value", [0, 1, 20])
def test_retries_from_none_to_twenty_are_accepted(value: int) -> None:
    assert check_retries(value) == value


@pytest.mark.parametrize("value", [-1, 21, 1.0, "3", None, True])
def test_other_retries_are_refused(value: object) -> None:
    with pytest.raises(ValueError, match="an integer from 0 to 20"):
        check_retries(value)


# -- ids -----------------------------------------------------------------------------


def test_a_steps_key_is_the_sha1_of_its_id() -> None:
    assert step_key("my-step-id") == "e7d8a2f140845095749d60246ff1110c9d01d76a"


def test_the_key_of_a_repeat_is_the_sha1_of_the_id_and_the_number() -> None:
    keys = StepKeys()
    assert [keys.next("id") for _ in range(3)] == [step_key("id"), step_key("id:1"), step_key("id:2")]
    assert keys.next("other") == step_key("other")
    assert len(keys) == 4


def test_a_run_id_follows_from_its_parts_and_differs_with_each() -> None:
    made = {run_id_for(*parts) for parts in (("a", "b"), ("ab",), ("a", "b", ""), ("b", "a"), ("a", "b"))}
    assert len(made) == 4
    assert all(len(run) == 32 and "-" not in run for run in made)


@pytest.mark.parametrize("key", ["", step_key("a")])
def test_a_jobs_id_tells_its_run_and_step(key: str) -> None:
    run = run_id_for("e", "f")
    assert split_job_id(job_id(run, key)) == (run, key)
