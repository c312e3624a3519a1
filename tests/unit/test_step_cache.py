"""By which key the result of a step is cached."""

from __future__ import annotations

from typing import Any

import pytest

from stepflow import Context, Event, StepUsageError
from stepflow_engine.cipher import NO_ENCRYPTION, Cipher
from stepflow_engine.execution import Waiting
from stepflow_engine.step_cache import StepCache
from tests.support.replay import execution_of, on_run_loop, play


def handler(*_args: Any, **_kwargs: Any) -> int:
    return 1


def cache_of(*args: Any, options: dict[str, Any] | None = None, **kwargs: Any) -> StepCache | None:
    """Where a step with these arguments is cached."""

    async def code(ctx: Context) -> None:
        await ctx.step.with_options(**(options or {"cache": "1h"})).run("a", handler, *args, **kwargs)

    async def main() -> StepCache | None:
        execution = execution_of(code)
        try:
            outcome = await execution.advance()
            assert isinstance(outcome, Waiting)
            return outcome.fresh[0].request.cache  # type: ignore[union-attr]
        finally:
            execution.close()

    return on_run_loop(main())


def test_equal_arguments_have_the_same_key() -> None:
    one, other = cache_of({"a": [1, {"c": 2, "b": 3}]}, x=1, y=2), cache_of({"a": [1, {"b": 3, "c": 2}]}, y=2, x=1)
    assert one == other
    assert one is not None
    assert one.ttl_ms == 3_600_000
    assert cache_of(1) != cache_of("1")
    assert cache_of(1) != cache_of(n=1)


def test_a_key_takes_the_place_of_the_arguments() -> None:
    options = {"cache": 60, "cache_key": ["v1", 7]}
    assert cache_of(object(), options=options) == cache_of(options=options)
    assert cache_of(options=options) != cache_of(options={**options, "cache_key": ["v2", 7]})
    assert cache_of(options={"retries": 1}) is None


def test_what_cannot_be_cached_is_refused_where_it_is_written() -> None:
    def failing(options: dict[str, Any], *args: Any, **kwargs: Any) -> BaseException:
        async def code(ctx: Context) -> None:
            await ctx.step.with_options(**options).run("a", handler, *args, **kwargs)

        return play(code).error

    no_json = failing({"cache": "1h"}, object())
    assert isinstance(no_json, StepUsageError)
    assert "without cache_key must be JSON" in str(no_json)
    assert "cannot have an undo handler" in str(failing({"cache": "1h"}, undo=handler))

    assert "needs cache=" in str(failing({"cache_key": 1}))
    for wrong in ("soon", -1, 0):
        error = failing({"cache": wrong})
        assert isinstance(error, ValueError)
        assert str(error).startswith("cache must")


@pytest.mark.parametrize(
    ("call", "args"),
    [
        ("map", (handler, [1, 2])),
        ("invoke", ("other",)),
        ("start_child", ("other",)),
        ("sleep", ("1m",)),
        ("send_event", (Event("a"),)),
    ],
)
def test_only_calls_of_handlers_are_cached(call: str, args: tuple[Any, ...]) -> None:
    async def code(ctx: Context) -> None:
        await getattr(ctx.step.with_options(cache="1h"), call)("a", *args)

    assert f"with_options(cache=...) is for step.run, not for step.{call}: remove cache" in str(play(code).error)


@pytest.mark.parametrize("cipher", [NO_ENCRYPTION, Cipher([b"k" * 32])], ids=["plain", "encrypted"])
def test_a_digest_depends_on_the_text_its_scope_and_the_key(cipher: Cipher) -> None:
    digest = cipher.digest(b"1", ("cached", "shop/f", "a"))
    assert digest == cipher.digest(b"1", ("cached", "shop/f", "a"))
    others = {
        cipher.digest(b"2", ("cached", "shop/f", "a")),
        cipher.digest(b"1", ("cached", "shop/f", "b")),
        Cipher([b"o" * 32]).digest(b"1", ("cached", "shop/f", "a")),
    }
    assert digest not in others
    assert len(others) == 3
