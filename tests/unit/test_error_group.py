"""Failures that are alike are in one group, and others are not."""

from __future__ import annotations

import pytest

from stepflow_engine.error_group import GROUP_LENGTH, error_group, failed_step
from stepflow_engine.errors import StepError
from stepflow_engine.failure import Failure
from stepflow_engine.suggestions import suggestion

TRACE = """Traceback (most recent call last):
  File "/srv/{version}/shop/flows.py", line {line}, in charge
    pay()
  File "/usr/lib/python3.12/json/decoder.py", line 3, in decode
    raise
ValueError: no
"""


def group(
    message: str = "order 17",
    *,
    function: str = "shop/buy",
    step: str = "charge-1",
    name: str = "ValueError",
    trace: str = TRACE.format(version="a", line=1),
    is_secret: bool = False,
) -> str:
    return error_group(function, step, Failure(name, message, trace), is_secret=is_secret).group


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("order 17 is bad", "order 180 is bad"),
        ("user 'bob' is gone", "user 'al' is gone"),
        ('no "x"', 'no "y z"'),
        ("object at 0x7f12ab", "object at 0x1"),
        ("run 4f1c0d8e7a2b4c5d is gone", "run 9e8f7a6b5c4d3e2f is gone"),
        ("took 1.5 s\n  twice", "took 20.25 s twice"),
    ],
)
def test_numbers_ids_and_quoted_parts_of_a_message_do_not_count(one: str, other: str) -> None:
    assert group(one) == group(other)
    assert len(group(one)) == GROUP_LENGTH


def test_what_counts() -> None:
    others = (
        group("the card is bad"),
        group(function="shop/sell"),
        group(step="pay-1"),
        group(name="TypeError"),
        group(trace=TRACE.format(version="a", line=1).replace("charge", "refund")),
        group(trace=TRACE.format(version="a", line=1).replace("flows.py", "other.py")),
    )
    assert len({group(), *others}) == len(others) + 1


def test_the_number_of_a_step_its_line_and_its_folder_do_not_count() -> None:
    assert group(step="charge-22", trace=TRACE.format(version="b", line=99)) == group()


def test_a_secret_failure_has_only_its_step_and_its_name() -> None:
    assert group("a", is_secret=True) == group("b", trace="", is_secret=True)
    assert error_group("shop/buy", "s", Failure("E", "secret"), is_secret=True).message == ""


def test_any_text_has_a_group() -> None:
    for text in ("", "\0", "'" * 10_000, "\ud800", "1" * 100_000, "File \x1b[31m"):
        assert len(group(text, name=text, step=text, trace=text)) == GROUP_LENGTH


class _Odd(StepError):
    """An error of a user, whose attributes raise."""

    def __getattribute__(self, name: str) -> object:
        raise RuntimeError(name)


def test_the_failed_step_is_read_from_the_error_of_the_code() -> None:
    error = StepError("charge", Failure("ValueError", "no"))
    assert failed_step(error) == failed_step(ExceptionGroup("one", [error])) == "charge"
    assert failed_step(ExceptionGroup("two", [error, error])) == failed_step(ValueError("no")) == ""
    assert failed_step(_Odd("charge", Failure("ValueError", "no"))) == "charge"


def test_a_mistyped_name_is_answered_with_what_is_close_or_with_what_there_is() -> None:
    known = ["shop/order", "shop/parent", "shop/refund"]
    assert suggestion("shop/ordr", known, "functions") == "did you mean 'shop/order'?"
    assert suggestion("zzz", known, "functions") == "the functions are shop/order, shop/parent, shop/refund"
    assert suggestion("zzz", [], "tags") == "there are no tags"
    many = [f"f{number:03d}" for number in range(1_000)]
    assert suggestion("zzz", many, "functions").endswith("f009 and 990 more")
    assert len(suggestion("x" * 100_000, ["y" * 10_000], "functions")) < 20_000
