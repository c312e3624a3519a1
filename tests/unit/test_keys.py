"""All key text stands in one file."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import stepflow
import stepflow_broker
import stepflow_cli
import stepflow_engine
import stepflow_workers
from stepflow_broker.protocol.keys import KEYS, Keys, lua_constants
from stepflow_broker.protocol.keys_doc import keys_page
from stepflow_broker.protocol.scripts import script_names

ROOT = Path(__file__).parents[2]
PACKAGES = (stepflow_engine, stepflow_broker, stepflow, stepflow_workers, stepflow_cli)
OWN = {"keys.py", "keys_doc.py"}
SOURCES = sorted(
    path
    for package in PACKAGES
    for pattern in ("*.py", "*.lua")
    for path in Path(package.__path__[0]).rglob(pattern)
    if path.name not in OWN
)
_KEY_TEXT = re.compile(r"(?<![\w./])(stepflow|rq|\{sf):")
_JOB_MEMBER = "job:"


def literals(path: Path) -> Iterator[str]:
    """The texts in a file's code; comments and docstrings are prose."""
    if path.suffix == ".lua":
        code = re.sub(r"--.*", "", path.read_text())
        yield from (single or double for single, double in re.findall(r"'([^']*)'|\"([^\"]*)\"", code))
        return
    tree = ast.parse(path.read_text())
    prose = {id(part.value) for part in ast.walk(tree) if isinstance(part, ast.Expr)}
    for part in ast.walk(tree):
        if isinstance(part, ast.Constant) and isinstance(part.value, str) and id(part) not in prose:
            yield part.value


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_no_key_text_stands_outside_its_file(path: Path) -> None:
    assert not [text for text in literals(path) if _KEY_TEXT.search(text)]


@pytest.mark.parametrize("path", [path for path in SOURCES if path.suffix == ".lua"], ids=lambda path: path.name)
def test_scripts_name_keys_by_their_constants(path: Path) -> None:
    known = {key.text for key in KEYS}
    for text in literals(path):
        assert text == _JOB_MEMBER or text not in known


def test_names_and_texts_are_given_once() -> None:
    assert len({key.name for key in KEYS}) == len(KEYS)
    assert len({key.text for key in KEYS}) == len(KEYS)


@pytest.mark.parametrize("key", KEYS, ids=lambda key: key.name)
def test_every_key_is_described(key) -> None:
    assert key.type in {"hash", "list", "set", "zset", "string", "stream", "channel"}
    assert key.writer
    assert key.expiry
    assert key.what
    assert key.text.endswith(":") == bool(key.ids)


def test_the_writers_that_are_scripts_exist() -> None:
    words = {word for key in KEYS for word in re.findall(r"\b[a-z]+(?:_[a-z]+)+\b", key.writer)}
    assert words <= set(script_names())


def test_a_key_is_its_text_and_its_subject() -> None:
    keys = Keys()
    assert keys("RUN", "r1") == "stepflow:run:r1"
    assert keys("LIVE") == "stepflow:live"
    with pytest.raises(KeyError):
        keys("NO_SUCH")


def test_the_keys_of_a_partition_share_a_slot() -> None:
    keys = Keys("{sf:3}:")
    assert keys("RUN", "r1") == "{sf:3}:stepflow:run:r1"
    assert keys("RQ_QUEUE", "shop").startswith("{sf:3}:")


def test_a_script_is_given_the_constants_that_it_names_and_no_more() -> None:
    text = lua_constants("redis.call('GET', RUN .. id)")
    assert "local RUN = P .. 'stepflow:run:'\n" in text
    assert text.count("local ") == 2


def test_the_page_of_keys_is_what_the_generator_makes() -> None:
    """Made by ``python -m stepflow_broker.protocol.keys_doc > docs/reference/redis-keys.md``."""
    assert (ROOT / "docs" / "reference" / "redis-keys.md").read_text() == keys_page()


def test_the_page_has_a_row_of_five_cells_for_each_key() -> None:
    rows = [line for line in keys_page().splitlines() if line.startswith("| `")]
    assert len(rows) == len(KEYS)
    assert all(len(re.findall(r"(?<!\\)\|", row)) == 6 for row in rows)
