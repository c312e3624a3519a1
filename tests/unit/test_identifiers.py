"""Identifiers use the words of docs/glossary.md, not those that it has replaced."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("engine", "sdk", "workers", "cli")
REPLACED = {
    "asked": "requested",
    "asking": "requesting",
    "away": "remote",
    "bench": "worker_state",
    "bounds": "cancellation",
    "converse": "run_operation",
    "crew": "dev_workers",
    "crier": "cron_ticker",
    "deputy": "lease_sidecar",
    "dialogue": "operation",
    "exits": "exit_codes",
    "found": "a noun",
    "given": "a noun",
    "goes": "continues",
    "going": "continues",
    "hear": "receive",
    "heard": "received",
    "hurry": "stop_at_once",
    "inbox": "notifications",
    "keeper": "lease_renewer",
    "kept": "retained",
    "link": "client",
    "look": "read",
    "looked": "read",
    "looks": "reads",
    "misled": "wrong_node",
    "patience": "retry",
    "performer": "execute_step",
    "place": "prefix",
    "places": "scopes",
    "quarantine": "poison_isolation",
    "relay": "forwarder",
    "station": "partition_worker",
    "tell": "notify",
    "tells": "notifies",
    "timekeeper": "maintenance",
    "told": "notified",
    "waker": "completions",
    "wire": "connection",
    "words": "args",
    "workbench": "worker_state",
}
_NOT_FOUND = re.compile(r"not_?found", re.IGNORECASE)
"""The field's word for what does not exist."""


def _identifiers(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name) | ast.arg(arg=name) | ast.Attribute(attr=name):
                yield node.lineno, name
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield node.lineno, name


def _words(name: str) -> set[str]:
    """The words of an identifier: ``_RunDriver`` has ``run`` and ``driver``."""
    name = _NOT_FOUND.sub("_", name)
    return set(re.findall(r"[a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()))


@pytest.mark.parametrize(
    "path",
    [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_no_identifier_has_a_word_that_was_replaced(path: Path) -> None:
    replaced = {
        f"line {line}: {name}: write {', '.join(REPLACED[word] for word in old)}"
        for line, name in _identifiers(ast.parse(path.read_text()))
        if (old := sorted(_words(name) & set(REPLACED)))
    }
    modules = {word for part in path.relative_to(ROOT).with_suffix("").parts for word in _words(part)}
    assert replaced == set()
    assert modules & set(REPLACED) == set()
