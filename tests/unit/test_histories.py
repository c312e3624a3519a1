"""Histories as files: they are read as they were written, redacted values keep their shape, and code must fit them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stepflow import Context, HistoryFileError, Stepflow
from stepflow.replay.history import PlannedStep, RunHistory
from stepflow.replay.history_file import file_name, read_history_file, read_history_json, to_json, to_text
from stepflow.replay.redaction import redact
from stepflow.testing import assert_replays
from stepflow_engine.codec import dumps
from stepflow_engine.failure import Failure
from stepflow_engine.ids import round_key, step_key
from stepflow_engine.memo import Memo
from stepflow_engine.patches import PatchDecision

RUN = "3f9a12bc" * 4
EVENT = {
    "name": "shop/order",
    "id": "e",
    "ts": 1,
    "data": {"card": {"number": "4111", "cvc": 123}, "items": ["übergröße"]},
}
HISTORY = RunHistory(
    "shop/order",
    RUN,
    (dumps(EVENT),),
    (
        (
            step_key("charge"),
            Memo("charge", {"receipt": "r7"}, None, {"worker": "w1", "attempts": 2, "ended_at": 1_000}),
        ),
        (step_key("charge", 1), Memo("charge", None, Failure("ValueError", "no", "Traceback…", Failure("E", "why")))),
        (round_key(step_key("pause"), 1), Memo("pause", None, None, {"kind": "sleep"})),
    ),
    (PlannedStep(step_key("shipped"), "shipped", "wait"), PlannedStep(step_key("all"), "all", "map", "0123abcd")),
    {"tax": PatchDecision(True, 2)},
    attempt=1,
    round=1,
    started_ms=1_000,
)


def written(folder: Path, value: Any = None, name: str = "") -> Path:
    folder.mkdir(exist_ok=True)
    file = folder / (name or file_name(HISTORY))
    file.write_text(to_text(value) if isinstance(value, dict) else value or to_text(to_json(HISTORY)))
    return file


def test_a_history_is_read_as_it_was_written_without_what_differs_between_workers(tmp_path: Path) -> None:
    file = written(tmp_path)
    assert file.name == "order-3f9a12bc.json"
    read = read_history_file(file)
    assert to_json(read) == to_json(HISTORY)
    assert read.events == HISTORY.events
    assert [key for key, _ in read.memos] == [key for key, _ in HISTORY.memos]
    assert read.memos[0][1] == Memo("charge", {"receipt": "r7"}, None, {"ended_at": 1_000})
    assert read.memos[1][1].failure == Failure("ValueError", "no", "", Failure("E", "why"))
    assert (read.planned, read.patches, read.round, read.attempt) == (HISTORY.planned, HISTORY.patches, 1, 1)
    assert "übergröße" in file.read_text()


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("{", "is not JSON"),
        ([], "it has no 'stepflow_history': write it with 'stepflow export'"),
        ({"a": 1}, "it has no 'stepflow_history'"),
        ({"stepflow_history": 2}, "its format is 2, and this version reads 1: export it again"),
        ({"stepflow_history": 1}, "a field is missing or has another form: KeyError 'function'"),
        ({**to_json(HISTORY), "steps": [{"id": "a", "kind": "walk"}]}, "a field is missing or has another form"),
    ],
)
def test_a_file_that_is_no_history_says_so(tmp_path: Path, value: Any, said: str) -> None:
    file = written(tmp_path, value if isinstance(value, str) else json.dumps(value))
    with pytest.raises(HistoryFileError) as error:
        read_history_file(file)
    assert said in str(error.value)
    assert str(file) in str(error.value)
    with pytest.raises(HistoryFileError, match="cannot be read: No such file"):
        read_history_file(tmp_path / "none.json")


def test_redacted_values_keep_their_shape() -> None:
    value = to_json(HISTORY)
    redact(value, ["event.data.card", "event.data.items.0", "steps.charge.data.receipt"])
    again = to_json(read_history_json(json.loads(to_text(value))))
    assert again["events"][0]["data"] == {"card": {"number": "redacted", "cvc": 0}, "items": ["redacted"]}
    assert again["steps"][0]["data"] == {"receipt": "redacted"}
    assert "4111" not in to_text(value)
    redact(value, ["steps.*.data.receipt"])
    for path in ("event", "event.data.none", "steps.none.data", "steps", "card", "", "steps.*.data.receipt.x"):
        with pytest.raises(
            HistoryFileError, match=r"leads to no value: it begins with 'event.data'.*steps: charge, pause"
        ):
            redact(value, [path])


def app_with(code: Callable[..., Any]) -> Stepflow:
    app = Stepflow("shop")
    app.function("order")(code)
    return app


def handler() -> None:
    raise AssertionError("a replay must not call a handler")


async def same(ctx: Context) -> None:
    await ctx.step.run("charge", handler)
    await ctx.step.wait_for_event("shipped", event="shipped", timeout="1h")


async def inserted(ctx: Context) -> None:
    await ctx.step.run("score", handler)
    await same(ctx)


def test_the_code_must_fit_all_histories_of_a_folder(tmp_path: Path) -> None:
    charged = RunHistory(
        "shop/order",
        RUN,
        (dumps(EVENT),),
        ((step_key("charge"), Memo("charge", {"receipt": "r7"})),),
        (PlannedStep(step_key("shipped"), "shipped", "wait"),),
    )
    written(tmp_path, to_json(charged))
    assert_replays(app_with(same), tmp_path)
    assert_replays(app_with(same), tmp_path / file_name(charged))
    written(tmp_path, "{", "broken.json")
    written(tmp_path, {**to_json(charged), "function": "bank/order"}, "other.json")
    with pytest.raises(AssertionError) as failed:
        assert_replays(app_with(inserted), str(tmp_path))
    first, broken, differs, other = str(failed.value).splitlines()
    assert first == "3 of 3 histories do not fit the code:"
    assert "broken.json is not JSON" in broken
    assert differs.startswith('  order-3f9a12bc.json: re-runs: step "score" is asked for before "charge"')
    assert differs.endswith(f"({__file__}:{inserted.__code__.co_firstlineno + 1})")
    assert (
        "other.json: it is of function bank/order, which app 'shop' does not have; its functions: shop/order" in other
    )


def test_a_folder_without_histories_is_an_error(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(
            AssertionError, match=r"there are no histories in .*: write some with 'stepflow export RUN --to"
        ):
            assert_replays(app_with(same), folder)
