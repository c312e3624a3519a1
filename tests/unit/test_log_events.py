"""The table of log events says what the packages log, and the documentation lists all of it."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from stepflow_workers.log_events import LOG_EVENTS

ROOT = Path(__file__).parents[2]
PACKAGES = ("engine", "broker", "sdk", "workers", "cli")
REFERENCE = ROOT / "docs" / "reference" / "log-events.md"
LEVELS = {"debug": "DEBUG", "info": "INFO", "warning": "WARNING", "error": "ERROR", "exception": "ERROR"}
ANY_LEVEL = "log"
EVENT = re.compile(r"[a-z_]+\b")


def _logging_calls() -> Iterator[tuple[str, ast.Call]]:
    """The method and the call of every logging call in the packages."""
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and _is_logger(node.func.value):
                    yield node.func.attr, node


def _is_logger(value: ast.expr) -> bool:
    match value:
        case ast.Name(id="_log") | ast.Attribute(attr="_log"):
            return True
        case ast.Call(func=ast.Attribute(attr="getLogger")):
            return True
    return False


def _names(message: ast.expr) -> list[str]:
    match message:
        case ast.Constant(value=str(text)) if found := EVENT.match(text):
            return [found[0]]
        case ast.IfExp(body=body, orelse=orelse):
            return [*_names(body), *_names(orelse)]
    raise AssertionError(f"not the name of an event: {ast.unparse(message)}")


def _fields(call: ast.Call) -> set[str]:
    for keyword in call.keywords:
        if keyword.arg == "extra":
            assert isinstance(keyword.value, ast.Dict), f"not a literal: {ast.unparse(call)}"
            return {key.value for key in keyword.value.keys if isinstance(key, ast.Constant)}  # type: ignore[misc]
    return set()


def test_the_table_says_what_is_logged() -> None:
    levels, fields = defaultdict[str, set[str]](set), defaultdict[str, set[str]](set)
    for method, call in _logging_calls():
        assert method in LEVELS or method == ANY_LEVEL, ast.unparse(call)
        message = call.args[method == ANY_LEVEL]
        for name in _names(message):
            levels[name] |= {LEVELS[method]} if method in LEVELS else set(LOG_EVENTS[name].levels)
            fields[name] |= _fields(call)
    assert levels == {name: set(event.levels) for name, event in LOG_EVENTS.items()}
    assert fields == {name: set(event.fields) for name, event in LOG_EVENTS.items()}


def test_every_name_is_there_once_and_says_what_it_means() -> None:
    for name, event in LOG_EVENTS.items():
        assert name == event.name
        assert event.meaning.endswith(".")
        assert not event.action or event.action.endswith(".")


@pytest.mark.skipif(not REFERENCE.exists(), reason="there is no reference of log events")
def test_the_reference_lists_every_event_and_no_other() -> None:
    first_cells = [line.split("|")[1] for line in REFERENCE.read_text().splitlines() if line.startswith("| `")]
    documented = {
        found[0] for cell in first_cells for code in re.findall(r"`([^`]+)`", cell) if (found := EVENT.match(code))
    }
    assert documented == set(LOG_EVENTS)
