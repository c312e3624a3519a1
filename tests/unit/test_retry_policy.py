"""Retry policies: delays, errors, budgets, and the header Retry-After."""

from __future__ import annotations

import urllib.error
from dataclasses import dataclass, field
from email.message import Message
from typing import Any

import pytest

from stepflow import ConfigurationError, Context, NonRetriableError, Retry, RetryAfterError, Stepflow
from stepflow_engine.http_retry_after import http_retry_after_ms
from stepflow_engine.retry import retry_delay_ms
from stepflow_engine.retry_policy import Backoff

NOW = 1_700_000_000_000
"""Tue, 14 Nov 2023 22:13:20 GMT."""


def delay(error: BaseException, policy: Retry, attempt: int = 0, chance: float = 0.0, **more: Any) -> int | None:
    retries, backoff = policy.retries, Backoff(7, 7)
    return retry_delay_ms(
        error, attempt=attempt, retries=retries, policy=policy, backoff=backoff, chance=chance, now_ms=NOW, **more
    )


def test_each_delay_is_longer_by_the_factor_up_to_the_maximum() -> None:
    policy = Retry(10, initial="2s", factor=3, maximum="1m")
    assert [delay(ValueError(), policy, attempt) for attempt in range(5)] == [2_000, 6_000, 18_000, 54_000, 60_000]


def test_a_delay_after_thousands_of_attempts_is_the_maximum() -> None:
    assert delay(ValueError(), Retry(10_000, factor=100), 9_998) == 3_600_000
    assert delay(ValueError(), Retry(10_000, initial=0, factor=100), 9_998) == 0


def test_the_jitter_shortens_a_delay_by_its_part_at_most() -> None:
    assert delay(ValueError(), Retry(3, initial="10s", jitter=0.2), chance=0.999_999) == 8_000
    assert delay(ValueError(), Retry(3, initial="10s", jitter=0), chance=0.999_999) == 10_000


def test_the_first_attempt_counts() -> None:
    assert delay(ValueError(), Retry(1)) is None
    assert delay(ValueError(), Retry(2), 0) is not None
    assert delay(ValueError(), Retry(2), 1) is None


GROUP = ExceptionGroup("both", [TimeoutError(), ExceptionGroup("inner", [KeyError()])])


@pytest.mark.parametrize(
    ("error", "options", "retried"),
    [
        (TimeoutError(), {"on": TimeoutError}, True),
        (ConnectionResetError(), {"on": (TimeoutError, OSError)}, True),
        (ValueError(), {"on": (TimeoutError, OSError)}, False),
        (ValueError(), {"unless": ValueError}, False),
        (KeyError(), {"unless": ValueError}, True),
        (TimeoutError(), {"on": OSError, "unless": TimeoutError}, False),
        (ValueError("busy"), {"on": lambda error: "busy" in str(error)}, True),
        (ValueError("gone"), {"on": (KeyError, lambda error: "busy" in str(error))}, False),
        (ValueError("gone"), {"unless": lambda error: "gone" in str(error)}, False),
        (GROUP, {"on": TimeoutError}, False),
        (GROUP, {"on": (TimeoutError, LookupError)}, True),
        (GROUP, {"unless": KeyError}, False),
        (RetryAfterError("later", 1), {"on": OSError}, True),
        (NonRetriableError("never"), {"on": NonRetriableError}, False),
    ],
)
def test_on_and_unless_decide_which_errors_are_retried(
    error: BaseException, options: dict[str, Any], retried: bool
) -> None:
    assert (delay(error, Retry(3, **options)) is not None) is retried


@pytest.mark.parametrize("option", ["on", "unless"])
def test_a_predicate_that_raises_is_ignored_and_named_in_a_note(option: str) -> None:
    def broken(error: BaseException) -> bool:
        raise AttributeError("no status")

    error = ValueError("gone")
    assert delay(error, Retry(3, **{option: broken})) is not None  # type: ignore[arg-type]
    (note,) = error.__notes__
    assert option in note
    assert "broken was ignored: it raised AttributeError" in note


class Hidden:
    """A predicate that answers no question about itself. Its class does."""

    __qualname__ = "Hidden"

    def __call__(self, error: BaseException) -> bool:
        raise ValueError

    def __getattribute__(self, name: str) -> Any:
        if name == "__qualname__":
            raise RuntimeError(name)
        return object.__getattribute__(self, name)


class _AsksBack(type):
    def __subclasscheck__(cls, subclass: type) -> bool:
        raise RuntimeError("no answer")


class HostileError(Exception, metaclass=_AsksBack):
    """A class that raises when it is compared."""


def test_hostile_matchers_are_ignored() -> None:
    async def is_bad(error: BaseException) -> bool:
        return False

    for matcher in (Hidden(), HostileError, lambda error: is_bad(error)):
        error = ValueError()
        assert delay(error, Retry(3, unless=matcher)) == 1_000
        assert "unless=" in error.__notes__[0]
        assert delay(error, Retry(3, on=matcher)) == 1_000


class _Late(RetryAfterError):
    def delay_ms(self, now_ms: int) -> int:
        return 10**30


def test_a_named_delay_has_the_longest_duration_at_most() -> None:
    assert delay(_Late("x", retry_after=1), Retry(3)) == 366 * 86_400_000


def test_the_budget_ends_the_attempts() -> None:
    policy = Retry(100, initial="10s", factor=1, jitter=0, budget="1m")
    assert delay(ValueError(), policy, 1, first_failed_ms=NOW - 50_000) == 10_000
    assert delay(ValueError(), policy, 1, first_failed_ms=NOW - 50_001) is None
    assert delay(RetryAfterError("later", "2m"), policy) is None


# -- Retry-After ---------------------------------------------------------------------------


@dataclass
class Response:
    status_code: int = 429
    headers: dict[str, str] = field(default_factory=dict)


class HTTPStatusError(Exception):
    """As httpx and requests raise it."""

    def __init__(self, response: Any) -> None:
        super().__init__("429")
        self.response = response


class ClientResponseError(Exception):
    """As aiohttp raises it."""

    def __init__(self, status: int, headers: dict[str, str]) -> None:
        super().__init__(status)
        self.status, self.headers = status, headers


def _urllib() -> urllib.error.HTTPError:
    headers = Message()
    headers["Retry-After"] = "9"
    return urllib.error.HTTPError("http://there", 503, "busy", headers, None)


AWS = {"Error": {}, "ResponseMetadata": {"HTTPStatusCode": 503, "HTTPHeaders": {"retry-after": "7"}}}


@pytest.mark.parametrize(
    ("error", "expected_ms"),
    [
        (HTTPStatusError(Response(headers={"Retry-After": "120"})), 120_000),
        (HTTPStatusError(Response(headers={"Retry-After": "Tue, 14 Nov 2023 22:14:00 GMT"})), 40_000),
        (HTTPStatusError(Response(headers={"Retry-After": "Tue, 14 Nov 2023 22:00:00 GMT"})), 0),
        (ClientResponseError(503, {"Retry-After": "5"}), 5_000),
        (_urllib(), 9_000),
        (HTTPStatusError(AWS), 7_000),
        (HTTPStatusError(Response(status_code=200, headers={"Retry-After": "120"})), None),
        (HTTPStatusError(Response()), None),
        (HTTPStatusError(Response(headers={"Retry-After": "soon"})), None),
        (HTTPStatusError(Response(headers={"Retry-After": "9" * 100_000})), None),
        (HTTPStatusError({"ResponseMetadata": None}), None),
        (ValueError(), None),
    ],
)
def test_the_header_retry_after_of_common_clients_is_read(error: BaseException, expected_ms: int | None) -> None:
    assert http_retry_after_ms(error, NOW) == expected_ms


def test_retry_after_lengthens_a_delay_up_to_the_maximum() -> None:
    asks = HTTPStatusError(Response(headers={"Retry-After": "120"}))
    assert delay(asks, Retry(3)) == 120_000
    assert delay(asks, Retry(3, maximum="1m")) == 60_000
    assert delay(asks, Retry(3, initial="5m")) == 300_000
    assert delay(ExceptionGroup("all", [KeyError(), asks]), Retry(3)) == 120_000


# -- wrong values --------------------------------------------------------------------------


async def _async_predicate(error: BaseException) -> bool:
    return True


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attempts": 0}, "retry: attempts must be an integer from 1 to 10,000, got 0"),
        ({"attempts": True}, "retry: attempts must be"),
        ({"attempts": 10_001}, "retry: attempts must be"),
        ({"initial": "soon"}, "retry: initial must be a duration, got 'soon'"),
        ({"initial": -1}, "retry: initial must not be negative"),
        ({"initial": "2h"}, "retry: maximum must not be shorter than initial, got '1h' and '2h'"),
        ({"factor": 0.5}, "retry: factor must be a number from 1 to 100, got 0.5"),
        ({"factor": float("nan")}, "retry: factor must be"),
        ({"jitter": 2}, "retry: jitter must be a number from 0 to 1, got 2"),
        ({"budget": "100ms"}, "retry: budget must leave time for a second attempt after 1s, got '100ms'"),
        ({"on": "TimeoutError"}, "retry: on must be a class of errors, a plain function"),
        ({"on": [TimeoutError]}, "retry: on must be"),
        ({"unless": int}, "retry: unless must be"),
        ({"unless": _async_predicate}, "retry: unless must be"),
        ({"attempts": 2, "factor": 10**400}, "retry: factor must be a number from 1 to 100"),
        (
            {"attempts": 10**5000},
            "retry: attempts must be an integer from 1 to 10,000, got a number of too many digits",
        ),
    ],
)
def test_a_wrong_value_is_refused_where_it_is_written(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        Retry(**{"attempts": 3, **options})
    assert str(refused.value).startswith(message)


@pytest.mark.parametrize("retries", [21, -1, "3", None.__class__, (3,)])
def test_an_app_and_a_function_refuse_retries_of_another_form(retries: Any) -> None:
    app = Stepflow("shop")
    with pytest.raises(ConfigurationError, match="retries must be an integer from 0 to 20, or a Retry"):

        @app.function("f", retries=retries)
        async def f(ctx: Context) -> None: ...


def test_a_function_has_the_policy_of_its_app() -> None:
    patient = Retry(50, maximum="1m")
    app = Stepflow("shop", retries=patient)

    @app.function("f")
    async def f(ctx: Context) -> None: ...

    @app.function("g", retries=2)
    async def g(ctx: Context) -> None: ...

    assert (f.retry, f.config.retries) == (patient, 49)
    assert (g.retry, g.config.retries) == (Retry(3, maximum="1m"), 2)
