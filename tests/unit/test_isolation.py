"""Isolated handlers without a server: options, what can be sent to a process, and what may come back."""

from __future__ import annotations

import asyncio
import functools
import math
import operator
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

from stepflow import NonRetriableError, Retry, RetryAfterError, StepUsageError
from stepflow.functions.step_tools import StepTools
from stepflow_engine.around_attempt import Attempt
from stepflow_engine.codec import dumps, loads
from stepflow_engine.execution import Execution
from stepflow_engine.failure import Failure
from stepflow_engine.http_retry_after import http_retry_after_ms
from stepflow_engine.isolation import check_importable
from stepflow_engine.limits import Limits
from stepflow_engine.retry import is_final, retry_delay_ms
from stepflow_engine.retry_policy import Backoff, is_retried
from stepflow_engine.user_code import EscapedError
from stepflow_workers.handler_process.described_error import describe_error, error_of
from stepflow_workers.handler_process.frames import MAX_CALL_BYTES
from stepflow_workers.handler_process.pickled_call import HandlerCall, dump_call, load_call


async def _no_code(_: Execution) -> None: ...


STEP = StepTools(Execution(_no_code), app_id="shop", event={}, limits=Limits())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"isolate": "thread"}, "isolate must be 'process', got 'thread'"),
        ({"isolate": True}, "isolate must be 'process', got True"),
        ({"memory_limit": "2G"}, "memory_limit needs isolate='process'"),
        ({"isolate": "process", "memory_limit": "lots"}, "memory_limit must be a number with a unit, as in 500M or 2G"),
        ({"isolate": "process", "memory_limit": -1}, "memory_limit must be a number with a unit, as in 500M or 2G"),
        ({"isolate": "process", "memory_limit": "10M"}, "memory_limit must be at least 100 MiB, got '10M'"),
    ],
)
def test_a_wrong_option_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        STEP.with_options(**options)


def test_options_hold_for_the_tools_made_of_them() -> None:
    tools = STEP.with_options(isolate="process").with_options(memory_limit="2G").with_options(timeout="1m")
    assert tools._settings.isolation is not None
    assert tools._settings.isolation.memory_bytes == 2 * 1024**3
    assert STEP._settings.isolation is None


class Counter:
    """A class whose methods are handlers."""

    def count(self) -> int:
        return 1

    @staticmethod
    def static() -> int:
        return 2

    @classmethod
    def of_class(cls) -> int:
        return 3


def plain() -> int:
    """A function at the top of a module."""
    return 1


def _decorated(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda: function()


@functools.wraps(plain)
def wrapped() -> int:
    return plain()


@pytest.mark.parametrize(
    "handler",
    [plain, Counter().count, Counter.static, Counter.of_class, functools.partial(plain), math.sqrt, operator.add, len],
)
def test_functions_of_modules_and_methods_can_be_isolated(handler: Callable[..., Any]) -> None:
    check_importable(handler, what="it")


@pytest.mark.parametrize(
    ("handler", "message"),
    [
        (lambda: 1, "got <lambda> of tests.unit.test_isolation: another process imports it by its name"),
        (functools.partial(lambda: 1), "got <lambda>"),
        (_decorated(plain), "got _decorated.<locals>.<lambda>"),
        (wrapped, "got plain of tests.unit.test_isolation: the module has something else under this name"),
    ],
)
def test_other_functions_cannot(handler: Callable[..., Any], message: str) -> None:
    with pytest.raises(StepUsageError, match=f"it must be a function at the top of a module, {message}"):
        check_importable(handler, what="it")


def test_a_function_of_the_main_module_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain, "__module__", "__main__")
    with pytest.raises(StepUsageError, match="got plain of __main__: another process cannot import this module"):
        check_importable(plain, what="it")


async def test_a_handler_is_refused_before_anything_runs() -> None:
    with pytest.raises(StepUsageError, match="step 'a': an isolated handler must be a function at the top"):
        await STEP.with_options(isolate="process").run("a", lambda: 1)


def _call(*args: object) -> HandlerCall:
    return HandlerCall(Attempt("shop/f", "run1", "s", 0), print, args, {}, [], "key", None, 1_000)


def test_a_call_survives_its_pickle_and_what_has_none_is_refused() -> None:
    assert load_call(dump_call(_call(1, "a"))) == _call(1, "a")
    with pytest.raises(StepUsageError, match="step 's': an isolated handler and its arguments must be picklable"):
        dump_call(_call(threading.Lock()))
    with pytest.raises(StepUsageError, match="at most 67,108,864 bytes as a pickle"):
        dump_call(_call(b"x" * MAX_CALL_BYTES))


# -- errors that come back -----------------------------------------------------------------


class OddError(ConnectionError):
    """An error that needs arguments, and has attributes."""

    def __init__(self, code: int, *, reason: str) -> None:
        super().__init__(code, reason)


def _sent(error: BaseException) -> Exception:
    return error_of(loads(dumps(describe_error(error))))


def test_an_error_keeps_its_class_its_text_and_its_traceback() -> None:
    try:
        raise OddError(7, reason="odd") from ValueError("before")
    except OddError as error:
        described, expected = _sent(error), Failure.of(error)
    assert Failure.of(described) == expected
    assert is_retried(Retry(2, on=OddError), described)
    assert not is_retried(Retry(2, unless=OSError), described)


def test_a_class_that_the_worker_does_not_have_counts_as_its_base() -> None:
    class LocalError(TimeoutError): ...

    described = _sent(LocalError("late"))
    assert type(described) is TimeoutError
    assert Failure.of(described).name == "LocalError"


def test_errors_that_say_whether_and_when_to_retry_keep_their_meaning() -> None:
    class Response:
        status_code = 503
        headers = {"Retry-After": "7"}  # noqa: RUF012

    unavailable = OSError("unavailable")
    unavailable.response = Response()  # type: ignore[attr-defined]
    assert is_final(_sent(NonRetriableError("no")))
    assert is_final(_sent(ExceptionGroup("two", [ValueError("a"), NonRetriableError("no")])))
    assert http_retry_after_ms(_sent(unavailable), 0) == 7_000
    later = _sent(RetryAfterError("later", "90s"))
    common: dict[str, Any] = {"attempt": 0, "retries": 1, "policy": None, "backoff": Backoff(), "chance": 0.0}
    assert retry_delay_ms(later, now_ms=0, **common) == 90_000


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError("no")])
def test_an_error_that_would_end_the_worker_is_a_plain_one(error: BaseException) -> None:
    described = _sent(error)
    assert type(described) is Exception
    assert Failure.of(described).name == type(error).__name__


@pytest.mark.parametrize(
    "description",
    [
        None,
        7,
        {},
        {"failure": [], "leaves": 3},
        {"failure": {"name": 1, "message": {}, "cause": []}, "leaves": [None, 7, {}, {"classes": 3, "after_ms": -1}]},
        {"failure": {"name": "n" * 999, "message": "m" * 999_999}, "leaves": [{"classes": [1, None, ":", "a:b.c"]}]},
        {"leaves": [{"classes": ["stepflow_engine.user_code:EscapedError", "asyncio.exceptions:CancelledError"]}]},
        {"leaves": [{"classes": ["builtins:ExceptionGroup", "builtins:open", "sys:exit"], "http_ms": True}]},
        {"leaves": [{"after_ms": 10**30}], "failure": functools.reduce(lambda one, _: {"cause": one}, range(50), {})},
    ],
)
def test_any_description_gives_an_error_that_the_worker_can_raise_and_store(description: object) -> None:
    error = error_of(description)
    assert isinstance(error, Exception)
    assert not isinstance(error, EscapedError)
    failure = Failure.of(error)
    assert len(dumps(failure.to_json())) < 100_000
    assert "tests.unit.test_isolation" in sys.modules
