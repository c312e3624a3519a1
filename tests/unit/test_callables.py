"""Handlers of every form: decorated, partial, methods and objects; their types, and annotations that are unknown."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import BaseModel

from stepflow import ConfigurationError, Stepflow
from stepflow_engine.callables import is_async_callable, undecorated
from stepflow_engine.codec import result_adapter

if TYPE_CHECKING:
    from decimal import Decimal as Unknown

    from stepflow import Context


class Receipt(BaseModel):
    total: int


class Order(BaseModel):
    number: int


def traced(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def inner(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return inner


def plain() -> Receipt:
    return Receipt(total=1)


async def asynchronous() -> Receipt:
    return Receipt(total=1)


class Calls:
    def __call__(self) -> Receipt:
        return Receipt(total=1)

    def method(self) -> Receipt:
        return Receipt(total=1)


class CallsAsync:
    async def __call__(self) -> Receipt:
        return Receipt(total=1)


TYPED: list[Callable[..., Any]] = [
    plain,
    asynchronous,
    traced(plain),
    traced(traced(asynchronous)),
    functools.partial(plain),
    functools.partial(functools.partial(traced(plain))),
    Calls(),
    Calls().method,
    CallsAsync(),
    functools.partial(Calls()),
]


@pytest.mark.parametrize("handler", TYPED)
def test_the_return_type_of_every_form_of_a_handler_is_restored(handler: Callable[..., Any]) -> None:
    adapter = result_adapter(handler)
    assert adapter is not None
    assert adapter.validate_python({"total": 3}) == Receipt(total=3)


def test_two_functions_with_one_decorator_keep_their_own_types() -> None:
    def other() -> Order:
        return Order(number=1)

    adapters = [result_adapter(traced(one)) for one in (plain, other)]
    assert [type(one.validate_python({"total": 1, "number": 2})) for one in adapters if one] == [Receipt, Order]


def test_an_object_with_an_async_call_is_async() -> None:
    assert is_async_callable(CallsAsync())
    assert is_async_callable(functools.partial(CallsAsync()))
    assert not is_async_callable(Calls())
    assert not is_async_callable(traced(asynchronous))
    assert is_async_callable(undecorated(traced(asynchronous)))


def test_a_local_type_of_an_enclosing_function_is_known() -> None:
    class Local(BaseModel):
        x: int

    def handler() -> Local:
        return Local(x=1)

    adapter = result_adapter(handler)
    assert adapter is not None
    assert adapter.validate_python({"x": 1}) == Local(x=1)


def test_an_unknown_return_type_of_a_step_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    def handler() -> Unknown: ...  # type: ignore[empty-body]

    with caplog.at_level(logging.WARNING):
        assert result_adapter(handler) is None
        assert result_adapter(handler) is None
    [record] = caplog.records
    assert record.message == "annotation_unresolved"
    assert "handler" in record.handler  # type: ignore[attr-defined]
    assert "Unknown" in record.error  # type: ignore[attr-defined]


def test_an_unknown_type_of_the_data_or_the_result_is_refused_at_the_decorator() -> None:
    app = Stepflow("shop")

    async def data(ctx: Context[Unknown]) -> None: ...

    async def result(ctx: Context[Order]) -> Unknown: ...  # type: ignore[empty-body]

    for handler in (data, result):
        with pytest.raises(ConfigurationError, match=r"function 'f': an annotation of .*'Unknown' is not defined"):
            app.function("f")(handler)


def test_a_context_that_only_type_checkers_import_keeps_the_type_of_its_data() -> None:
    @Stepflow("shop").function("f")
    async def f(ctx: Context[Order], *rest: Unknown) -> Receipt: ...  # type: ignore[empty-body]

    assert f.input is not None
    assert f.output is not None


CELL = """
from stepflow import Stepflow
app = globals().get("app") or Stepflow("notebook")

async def failed(ctx): ...

@app.function("f", on_failure=failed)
async def f(ctx): ...

@app.on_failure
async def alert(ctx): ...
"""


def test_a_cell_of_a_notebook_can_be_run_again() -> None:
    cell: dict[str, Any] = {"__name__": "__main__"}
    exec(CELL, cell)
    first = cell["app"].functions["f"]
    exec(CELL, cell)
    assert cell["app"].functions["f"] is not first
    assert sorted(cell["app"].functions) == ["f", "f-failed", "on-failure"]
    module: dict[str, Any] = {"__name__": "flows", "__file__": "flows.py"}
    exec(CELL, module)
    with pytest.raises(ConfigurationError, match="already has a function"):
        exec(CELL, module)
