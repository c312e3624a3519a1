"""Failures as data, memos, and when a failed attempt is tried again."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from stepflow_engine.codec import dumps, loads
from stepflow_engine.errors import (
    ConfigurationError,
    InvokeError,
    LimitError,
    NonRetriableError,
    RetryAfterError,
    StepError,
    StepOutputError,
    StepUsageError,
)
from stepflow_engine.failure import Failure
from stepflow_engine.memo import Memo, memo_of_data, memo_of_failure, read_memo
from stepflow_engine.retry import is_final, retry_delay_ms
from stepflow_engine.retry_policy import Backoff
from stepflow_workers.logs import FieldFormatter


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as caught:
        return caught


def chained(depth: int) -> BaseException:
    error: BaseException = ValueError("0")
    for number in range(1, depth):
        try:
            raise KeyError(str(number)) from error
        except KeyError as caught:
            error = caught
    return error


def causes(failure: Failure | None) -> list[str]:
    names = []
    while failure is not None:
        names.append(failure.message)
        failure = failure.cause
    return names


def test_a_failure_has_name_message_and_traceback() -> None:
    failure = Failure.of(raised(ValueError("bad")))
    assert (failure.name, failure.message, failure.cause) == ("ValueError", "bad", None)
    assert "test_failure.py" in failure.traceback
    assert failure.traceback.endswith("ValueError: bad\n")


def test_a_failure_has_its_cause() -> None:
    assert causes(Failure.of(chained(3))) == ["'2'", "'1'", "0"]


def test_a_failure_has_the_error_during_whose_handling_it_came_unless_that_is_suppressed() -> None:
    def fails(suppress: bool) -> BaseException:
        try:
            raise KeyError("first")
        except KeyError:
            try:
                if suppress:
                    raise ValueError("second") from None
                raise ValueError("second")
            except ValueError as error:
                return error

    assert causes(Failure.of(fails(False))) == ["second", "'first'"]
    assert causes(Failure.of(fails(True))) == ["second"]


def test_at_most_ten_causes_are_kept() -> None:
    assert len(causes(Failure.of(chained(50)))) == 11


def test_causes_that_go_round_in_a_circle_end() -> None:
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    assert len(causes(Failure.of(first))) == 11


def test_an_error_whose_text_cannot_be_read_is_still_described() -> None:
    class BrokenError(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    failure = Failure.of(raised(BrokenError()))
    assert failure.name == "BrokenError"
    assert failure.message == "<BrokenError whose text cannot be read: RuntimeError>"


def test_a_group_of_one_is_described_as_its_error_and_a_larger_one_as_a_group() -> None:
    one = ExceptionGroup("tasks", [ExceptionGroup("inner", [ValueError("bad")])])
    assert Failure.of(one).name == "ValueError"
    two = raised(ExceptionGroup("tasks", [ValueError("bad"), KeyError("worse")]))
    failure = Failure.of(two)
    assert (failure.name, failure.message) == ("ExceptionGroup", "tasks (2 sub-exceptions)")
    assert "bad" in failure.traceback
    assert "worse" in failure.traceback


def test_a_step_error_is_described_as_the_failure_that_it_carries() -> None:
    inner = Failure("ValueError", "bad", "Traceback …")
    assert Failure.of(raised(StepError("a", inner))) == inner


def test_the_name_of_an_error_is_cut() -> None:
    assert len(Failure.of(type("E" * 100_000, (Exception,), {})()).name) == 256


def test_long_texts_are_cut_in_the_middle() -> None:
    failure = Failure.of(ValueError("a" * 20_000 + "b" * 20_000))
    assert len(failure.message) < 17_000
    assert failure.message.startswith("aaa")
    assert failure.message.endswith("bbb")
    assert "characters cut" in failure.message
    assert len(failure.traceback) < 17_000


@pytest.mark.parametrize("text", ["\ud800", "ü ☃ \udfff", "\0"])
def test_any_text_can_be_stored(text: str) -> None:
    failure = Failure.of(ValueError(text))
    assert Failure.from_json(loads(dumps(failure.to_json()))) == failure


def test_a_failure_survives_json() -> None:
    failure = Failure.of(chained(3))
    assert Failure.from_json(loads(dumps(failure.to_json()))) == failure


def test_a_failure_of_another_version_is_read_as_far_as_it_goes() -> None:
    assert Failure.from_json({"name": "E", "code": 7}) == Failure("E", "")


# -- memos ---------------------------------------------------------------------------


@pytest.mark.parametrize("data", [None, 0, "x", [1, {"error": {"name": "E"}}], {"data": 1, "id": "own"}])
def test_a_memo_of_data_is_read_back(data: object) -> None:
    memo = read_memo(memo_of_data(dumps(data), {"id": "ü", "attempts": 2, "worker": "w"}))
    assert memo == Memo("ü", data=data, detail={"attempts": 2, "worker": "w"})


def test_a_memo_of_a_failure_is_read_back() -> None:
    failure = Failure.of(chained(2))
    memo = read_memo(memo_of_failure(failure, {"id": "a", "attempts": 5}))
    assert memo == Memo("a", failure=failure, detail={"attempts": 5})


# -- retries -------------------------------------------------------------------------

BACKOFF = Backoff(first_ms=1_000, max_ms=60_000)


def delay(error: BaseException, *, attempt: int = 0, retries: int = 4, jitter: float = 0.0) -> int | None:
    return retry_delay_ms(
        error, attempt=attempt, retries=retries, backoff=BACKOFF, chance=jitter, policy=None, now_ms=1_000_000
    )


def test_waits_double_up_to_the_longest() -> None:
    assert [delay(ValueError(), attempt=n, retries=20) for n in range(8)] == [
        1_000,
        2_000,
        4_000,
        8_000,
        16_000,
        32_000,
        60_000,
        60_000,
    ]
    assert Backoff().delay_ms(10_000, 0.0) == 3_600_000


def test_jitter_shortens_a_wait_by_half_at_most() -> None:
    waits = [delay(ValueError(), jitter=jitter) for jitter in (0.0, 0.5, 0.999_999)]
    assert waits == [1_000, 750, 500]


def test_there_is_one_attempt_more_than_retries() -> None:
    assert delay(ValueError(), attempt=3, retries=4) is not None
    assert delay(ValueError(), attempt=4, retries=4) is None
    assert delay(ValueError(), attempt=0, retries=0) is None


@pytest.mark.parametrize(
    "error",
    [
        NonRetriableError("no"),
        StepError("a", Failure("E", "m")),
        InvokeError("a", Failure("E", "m")),
        StepOutputError("no"),
        StepUsageError("no"),
        LimitError("no"),
        ConfigurationError("no"),
        ExceptionGroup("tasks", [ValueError(), NonRetriableError("no")]),
        ExceptionGroup("tasks", [ExceptionGroup("inner", [StepError("a", Failure("E", "m"))])]),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_that_rule_out_another_attempt(error: Exception) -> None:
    assert is_final(error)
    assert delay(error) is None


@pytest.mark.parametrize("error", [ValueError(), TimeoutError(), ExceptionGroup("tasks", [ValueError(), KeyError()])])
def test_other_errors_are_tried_again(error: Exception) -> None:
    assert not is_final(error)
    assert delay(error) == 1_000


@pytest.mark.parametrize(
    ("retry_after", "expected"),
    [
        (30, 30_000),
        ("1h", 3_600_000),
        (timedelta(minutes=2), 120_000),
        (datetime.fromtimestamp(1_060, UTC), 60_000),
        (datetime.fromtimestamp(1_060, UTC).replace(tzinfo=None), 60_000),
        (datetime.fromtimestamp(1, UTC), 0),
        (0, 0),
    ],
)
def test_the_next_attempt_is_when_the_error_says(retry_after: object, expected: int) -> None:
    error = RetryAfterError("later", retry_after)  # type: ignore[arg-type]
    assert str(error) == "later"
    assert delay(error, jitter=0.9) == expected


def test_a_retry_after_does_not_add_attempts() -> None:
    assert delay(RetryAfterError("later", 30), attempt=4, retries=4) is None


def test_a_retry_after_that_is_no_time_is_refused_where_it_is_written() -> None:
    with pytest.raises(ValueError, match="retry_after must be a duration, got 'soon'"):
        RetryAfterError("later", "soon")


def test_the_first_error_of_a_group_that_says_when_decides() -> None:
    group = ExceptionGroup("tasks", [RetryAfterError("later", 30)])
    assert delay(group, jitter=0.9) == 30_000


# -- errors of users ---------------------------------------------------------------------


def hostile(*_: object) -> object:
    raise SystemExit(3)


class TouchyError(Exception):
    """Raises for each attribute that it does not have, and for most that it has."""

    __getattr__ = hostile
    __str__ = __repr__ = __bool__ = __len__ = __eq__ = hostile  # type: ignore[assignment]
    __hash__ = None  # type: ignore[assignment]
    failure = property(hostile)
    __notes__ = property(hostile)


class HiddenError(Exception):
    __dict__ = property(hostile)  # type: ignore[assignment]
    __class__ = property(hostile)  # type: ignore[assignment]


class HostileGroup(ExceptionGroup):  # type: ignore[type-arg]
    exceptions = property(hostile)  # type: ignore[assignment]


def noted(notes: object) -> BaseException:
    error = ValueError("noted")
    error.__notes__ = notes  # type: ignore[assignment]
    return error


def nested_group(depth: int) -> BaseException:
    error: Exception = ValueError("in")
    for _ in range(depth):
        error = ExceptionGroup("g", [error, ValueError("x")])
    return error


def caused(depth: int) -> BaseException:
    error = ValueError("0")
    for number in range(1, depth):
        outer = ValueError(str(number))
        outer.__cause__ = error
        error = outer
    return error


USER_ERRORS: dict[str, Callable[[], BaseException]] = {
    "TouchyError": TouchyError,
    "HiddenError": HiddenError,
    "HostileGroup": lambda: HostileGroup("two", [ValueError(), ValueError()]),
    "notes": lambda: noted(17),
    "mixed notes": lambda: noted(["fine", 17]),
    "deep group": lambda: nested_group(20_000),
    "causes": lambda: caused(50_000),
    "huge": lambda: ValueError("x" * 10_000_000),
    "syntax": lambda: SyntaxError("bad", ("f", "no number", "x", None)),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("make", USER_ERRORS.values(), ids=USER_ERRORS)
def test_any_error_of_a_user_is_described_soon_and_retried(make: Callable[[], BaseException]) -> None:
    error = raised(make())
    began = time.process_time()
    failure = Failure.of(error)
    assert time.process_time() - began < 0.5
    assert failure.name == type(error).__name__
    assert Failure.from_json(loads(dumps(failure.to_json()))) == failure
    assert len(failure.traceback) < 17_000
    delay_ms = retry_delay_ms(error, attempt=0, retries=1, backoff=Backoff(100), chance=0.0, policy=None, now_ms=0)
    assert delay_ms == 100


def test_a_note_is_in_the_traceback() -> None:
    assert "fine\n" in Failure.of(raised(noted(["fine", 17]))).traceback


def test_a_retry_after_whose_time_was_changed_is_retried_by_the_backoff() -> None:
    error = RetryAfterError("later", "1s")
    error.retry_after = "soon"
    assert retry_delay_ms(error, attempt=0, retries=1, backoff=Backoff(100), chance=0.0, policy=None, now_ms=0) == 100


def test_a_log_line_has_the_causes_of_an_error_that_cannot_be_printed(capsys: pytest.CaptureFixture[str]) -> None:
    error = raised(TouchyError())
    error.__cause__ = ValueError("first")
    text = FieldFormatter().formatException((type(error), error, None))
    assert text.index("ValueError: first") < text.index("TouchyError")
