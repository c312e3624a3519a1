"""The error tree is what its docstring draws, and its errors carry their facts."""

from __future__ import annotations

import inspect
import re

import pytest

import stepflow
from stepflow_engine import errors
from stepflow_engine.failure import Failure

FAILURE = Failure("ValueError", "bad", "Traceback …", Failure("KeyError", "'k'"))


def drawn() -> dict[str, str]:
    """Each error of the drawing with the one above it."""
    tree: dict[str, str] = {}
    above: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        found = re.match(r"    ([│├└─ ]*)(\w+Error)\b", line)
        if found:
            depth = len(found[1]) // 3
            above[depth:] = [found[2]]
            tree[found[2]] = above[depth - 1] if depth else "Exception"
    return tree


def test_the_drawn_tree_is_that_of_the_classes() -> None:
    classes = {
        name: found.__bases__[0].__name__
        for name, found in inspect.getmembers(errors, inspect.isclass)
        if issubclass(found, Exception) and found.__module__ == errors.__name__
    }
    assert drawn() == classes
    assert set(errors.__all__) == set(classes)


def test_every_error_can_be_imported_from_stepflow() -> None:
    assert set(errors.__all__) <= set(stepflow.__all__)
    assert all(getattr(stepflow, name) is getattr(errors, name) for name in errors.__all__)


def test_an_invoke_error_is_a_step_error_that_is_not_retried() -> None:
    assert issubclass(errors.InvokeError, errors.StepError | errors.NonRetriableError)
    error = errors.InvokeError("pay", FAILURE, function_id="shop/pay", run_id="r1")
    assert (error.step_id, error.function_id, error.run_id, error.name) == ("pay", "shop/pay", "r1", "ValueError")


def test_a_step_error_carries_the_facts_of_the_original() -> None:
    error = errors.StepError("copy", FAILURE)
    assert (error.step_id, error.name, error.message, error.traceback) == ("copy", "ValueError", "bad", "Traceback …")
    assert error.cause == FAILURE.cause
    assert str(error) == "step 'copy' failed: ValueError: bad"


def test_a_skipped_invoke_says_why() -> None:
    error = errors.InvokeSkippedError("pay", FAILURE, reason="rate_limited")
    assert error.reason == "rate_limited"


def test_a_run_error_carries_run_status_and_what_ended_the_run() -> None:
    error = errors.RunFailedError("r1", "failed", "run r1 failed", failure=FAILURE)
    assert (error.run_id, error.status, error.name, error.message) == ("r1", "failed", "ValueError", "bad")
    assert str(error) == "run r1 failed"
    missing = errors.RunNotFoundError("r1", "unknown", "there is no run")
    assert (missing.name, missing.message, missing.failure) == ("RunNotFoundError", "there is no run", None)


@pytest.mark.parametrize("name", errors.__all__)
def test_every_error_says_in_its_docstring_what_it_means(name: str) -> None:
    assert getattr(errors, name).__doc__
