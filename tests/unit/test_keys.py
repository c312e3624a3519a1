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
from stepflow_broker.protocol.run_fields import RUN_FIELDS, STEP_FIELDS
from tests.support.lua_calls import calls, functions, without_comments
from tests.unit.test_lua import PATHS, header, libraries_of_transitions

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
_WRITE = {"SET", "HSET", "HSETNX", "HINCRBY", "SADD", "ZADD", "RPUSH", "LPUSH", "XADD", "INCR", "PUBLISH"}
_DELETE = {"DEL", "UNLINK", "SREM", "ZREM", "ZREMRANGEBYSCORE", "ZPOPMIN", "LREM", "LTRIM", "LPOP", "XDEL"}
IN_PYTHON = {"RQ", "add_event", "drop_event", "run_replicated"}
"""What writes or deletes keys and is not Lua."""


def literals(path: Path) -> Iterator[str]:
    """The texts in a file's code; comments and docstrings are prose."""
    if path.suffix == ".lua":
        code = re.sub(r"--.*", "", path.read_text())
        yield from (single or double for single, double in re.findall(r"'([^']*)'|\"([^\"]*)\"", code))
        return
    tree = ast.parse(path.read_text())
    prose = {id(part.value) for part in ast.walk(tree) if isinstance(part, ast.Expr)}
    for part in ast.walk(tree):
        if isinstance(part, ast.Constant) and isinstance(part.value, str | bytes) and id(part) not in prose:
            yield part.value if isinstance(part.value, str) else part.value.decode(errors="replace")


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
    assert key.writers
    assert key.lifetime
    assert key.what
    assert key.text.endswith(":") == bool(key.ids)


def _used_in_lua() -> dict[str, tuple[set[str], set[str]]]:
    """Each kind of key → the scripts and functions of libraries that write it, and that delete from it."""
    found: dict[str, tuple[set[str], set[str]]] = {key.name: (set(), set()) for key in KEYS}
    for name in (name for name, path in PATHS.items() if path.parent.name != "doctor"):
        script = header(name)
        declared = {f"KEYS[{n}]": words.split()[0].upper() for n, words in script.numbered("KEYS").items()}
        _read_uses(found, name, without_comments(script.body), declared)
    for source in libraries_of_transitions().values():
        for name, code in functions(source).items():
            _read_uses(found, name, code, {})
    return found


def _read_uses(found: dict[str, tuple[set[str], set[str]]], where: str, code: str, names: dict[str, str]) -> None:
    names = {**names, **dict(re.findall(r"local (\w+)[^=\n]*= ([A-Z_]+) \.\.", code))}
    for command, key in (args[:2] for args in calls(code, "redis.call") if len(args) > 1):
        commands = set(re.findall(r"'([A-Z]+)'", command))
        for kind in found.keys() & set(re.findall(r"\b[A-Z_]{3,}\b", names.get(key, key))):
            writers, deleters = found[kind]
            if commands & _WRITE:
                writers.add(where)
            if commands & _DELETE or ("PEXPIRE" in commands and where not in writers):
                deleters.add(where)
            if "HDEL" in commands and kind not in ("RUN", "STEPS"):  # see test_run_fields.py
                deleters.add(where)


@pytest.mark.parametrize("key", KEYS, ids=lambda key: key.name)
def test_the_scripts_write_and_delete_keys_where_the_table_says(key) -> None:
    writers, deleters = _used_in_lua()[key.name]
    assert set(key.writers.split()) - IN_PYTHON == writers
    assert set(key.deleters.split()) - IN_PYTHON == deleters


def test_the_functions_of_python_that_write_or_delete_keys_exist() -> None:
    named = {name for key in KEYS for name in f"{key.writers} {key.deleters}".split()} & IN_PYTHON - {"RQ"}
    assert named == IN_PYTHON - {"RQ"}
    sources = [path.read_text() for path in SOURCES if path.suffix == ".py"]
    assert all(any(f"def {name}(" in source for source in sources) for name in named)


def test_the_keys_of_a_header_have_the_names_of_the_table() -> None:
    for name in (name for name, path in PATHS.items() if path.parent.name != "doctor"):
        named = {words.split()[0] for words in header(name).numbered("KEYS").values()}
        assert named <= {key.name.lower() for key in KEYS}, name


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
    assert "local RUN = 'stepflow:run:'\nif P then RUN = P .. RUN end\n" in text
    assert text.count("local ") == 2
    assert lua_constants("return 1") == ""


def test_the_page_of_keys_is_what_the_generator_makes() -> None:
    """Made by ``python -m stepflow_broker.protocol.keys_doc > docs/reference/redis-keys.md``."""
    assert (ROOT / "docs" / "reference" / "redis-keys.md").read_text() == keys_page()


def test_the_page_has_a_row_of_cells_for_each_key_and_field() -> None:
    rows = [line for line in keys_page().splitlines() if line.startswith("| `")]
    assert len(rows) == len(KEYS) + len(RUN_FIELDS) + len(STEP_FIELDS)
    cells = [len(re.findall(r"(?<!\\)\|", row)) - 1 for row in rows]
    assert cells == [6] * len(KEYS) + [5] * (len(RUN_FIELDS) + len(STEP_FIELDS))
