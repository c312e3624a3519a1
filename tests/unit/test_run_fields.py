"""The tables of the fields of runs and steps agree with the scripts and with Python."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pytest

import stepflow
import stepflow_broker
import stepflow_cli
import stepflow_workers
from stepflow_broker.protocol.run_fields import RUN_FIELDS, STEP_FIELDS, HashField
from tests.support.lua_calls import calls, functions, table_after, without_comments
from tests.unit.test_lua import FOLDER, PATHS, header, libraries_of_transitions

TABLES: Mapping[str, tuple[HashField, ...]] = {"RUN": RUN_FIELDS, "STEPS": STEP_FIELDS}
READS, WRITES, DELETES = {"HGET", "HMGET", "HEXISTS"}, {"HSET", "HSETNX"}, {"HDEL"}

COMPUTED: Mapping[tuple[str, str], tuple[str, ...]] = {
    ("close_run", "field"): ("output", "error"),
    ("cancel_overdue", "what .. '_within'"): ("start_within", "finish_within"),
    ("examine_runs", "field"): ("output", "error"),
    ("defer", "key == '' and 'continuation' or key .. ':state'"): ("continuation", "<key>:state"),
}
"""Where, and the expression of a name that is no literal → the names that it can be."""


@dataclass
class Uses:
    """Where a field of one hash is used: the names of functions and scripts."""

    reads: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    writes: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    deletes: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))

    @property
    def names(self) -> set[str]:
        return {*self.reads, *self.writes, *self.deletes}


# -- Lua ---------------------------------------------------------------------------


def _names(where: str, expression: str) -> tuple[str, ...]:
    """The fields that an expression in Lua may name."""
    if (where, expression) in COMPUTED:
        return COMPUTED[where, expression]
    if literal := re.fullmatch(r"'([^']*)'", expression):
        return (literal[1],)
    if numbered := re.fullmatch(r"'(\w+:)' \.\. [\w.]+", expression):
        return (f"{numbered[1]}<n>",)
    if of_step := re.fullmatch(r"(?:key|ARGV\[\d+\]|name)(?: \.\. '(:\w+)')?", expression):
        return (f"<key>{of_step[1] or ''}",)
    raise AssertionError(f"{where}: which field is {expression}?")


def _hashes(key: str, keys: Mapping[str, str]) -> list[str]:
    """The hashes that an expression of a key may name."""
    key = re.sub(r"\bKEYS\[(\d+)\]", lambda found: keys.get(found[1], ""), key)
    return [name for name in TABLES if re.search(rf"\b{name}\b", key)]


def _add(uses: Mapping[str, Uses], where: str, command: str, key: str, expressions: list[str], keys: dict) -> None:
    hashes = _hashes(key, keys)
    step = 2 if command in WRITES else 1
    for expression in expressions[::step] if hashes else ():
        if expression.startswith("unpack("):
            continue
        for name in _names(where, expression):
            table = "STEPS" if name.startswith("<key>") else "RUN"
            assert table in hashes, (where, name, key)
            kind = "writes" if command in WRITES else "deletes" if command in DELETES else "reads"
            getattr(uses[table], kind)[name].add(where)


def _read_lua(uses: Mapping[str, Uses], where: str, code: str, keys: dict[str, str]) -> None:
    for command, key, *expressions in (args for args in calls(code, "redis.call") if len(args) > 2):
        if (name := command.strip("'")) in READS | WRITES | DELETES:
            _add(uses, where, name, key, expressions, keys)
    for key, name, *_ in calls(code, "record_death"):
        if key != "hash":
            _add(uses, where, "HSET", key, [name], keys)
    for _, name, *_ in calls(code, "add_field"):
        if name not in ("rule.name", "name"):
            _add(uses, where, "HSET", "RUN", [name], keys)
    for more in table_after(code, "more = "):
        _add(uses, where, "HSET", "RUN", more, keys)


def _used_in_scripts(paths: Mapping[str, Path]) -> dict[str, Uses]:
    uses = {name: Uses() for name in TABLES}
    for name in paths:
        found = header(name)
        keys = {str(n): word.split()[0].upper() for n, word in found.numbered("KEYS").items()}
        _read_lua(uses, name, without_comments(found.body), keys)
    return uses


@cache
def in_transitions() -> dict[str, Uses]:
    """What the libraries and the scripts use, without those of the doctor."""
    uses = _used_in_scripts({name: path for name, path in PATHS.items() if path.parent.name != "doctor"})
    for source in libraries_of_transitions().values():
        for name, code in functions(source).items():
            _read_lua(uses, name, code, {})
    for path in sorted((Path(stepflow_broker.__path__[0]) / "registry").glob("*.py")):
        for name in re.findall(r"""Rule\.of\("field", "(\w+)\"""", path.read_text()):
            uses["RUN"].writes[name].add("APPLY.field")
    return uses


# -- Python ------------------------------------------------------------------------


def _constants(tree: ast.AST) -> dict[str, list[str]]:
    """The variables of a module that are tuples of texts."""
    found = {}
    for part in ast.walk(tree):
        if isinstance(part, ast.Assign) and isinstance(part.targets[0], ast.Name) and isinstance(part.value, ast.Tuple):
            texts = [one.value for one in part.value.elts if isinstance(one, ast.Constant)]
            found[part.targets[0].id] = [text for text in texts if isinstance(text, str)]
    return found


def _python_names(argument: ast.expr, constants: Mapping[str, list[str]]) -> list[str]:
    match argument:
        case ast.Constant(str(name)):
            return [name]
        case ast.Starred(ast.Name(name)):
            return constants.get(name, [])
        case ast.JoinedStr([ast.Constant(str(prefix)), *_]):
            return [f"{prefix}<n>"]
        case ast.JoinedStr([ast.FormattedValue(), ast.Constant(str(suffix))]):
            return [f"<key>{suffix}"]
    return []


def _hash_of(argument: ast.expr) -> str:
    """The hash whose key an expression such as ``keys("RUN", run_id)`` makes."""
    match argument:
        case ast.Call(args=[ast.Constant(str(name)), *_]) if name in TABLES:
            return name
    return ""


def _read_python(uses: Mapping[str, Uses], path: Path) -> None:
    tree = ast.parse(path.read_text())
    constants = _constants(tree)
    inside = {
        id(part): function.name
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for part in ast.walk(function)
    }
    for call in ast.walk(tree):
        parts = call.args if isinstance(call, ast.Call) else call.elts if isinstance(call, ast.Tuple) else []
        commands = [n for n, one in enumerate(parts) if isinstance(one, ast.Constant) and one.value in READS | DELETES]
        for n in commands:
            if len(parts) > n + 2 and (table := _hash_of(parts[n + 1])):
                kind = "deletes" if parts[n].value in DELETES else "reads"
                for name in (name for part in parts[n + 2 :] for name in _python_names(part, constants)):
                    getattr(uses[table], kind)[name].add(inside[id(call)])


@cache
def in_python() -> dict[str, Uses]:
    """What Python reads and deletes. Python writes no field of a run: only scripts do."""
    uses = {name: Uses() for name in TABLES}
    for package in (stepflow_broker, stepflow, stepflow_workers, stepflow_cli):
        for path in sorted(Path(package.__path__[0]).rglob("*.py")):
            _read_python(uses, path)
    folder = Path(stepflow_broker.__path__[0]) / "transitions"
    records = [ast.parse((folder / name).read_text()) for name in ("runs/run_record.py", "steps/step_record.py")]
    for function in (part for tree in records for part in ast.walk(tree) if isinstance(part, ast.FunctionDef)):
        if function.name in ("_parse_run", "_step"):
            for name in _record_names(function):
                uses["STEPS" if name.startswith("<key>") else "RUN"].reads[name].add(function.name)
    return uses


def _record_names(function: ast.FunctionDef) -> Iterator[str]:
    """The names that a function takes from the hash that it was given whole."""
    for part in ast.walk(function):
        match part:
            case ast.Call(func=ast.Name("text" | "number"), args=[name]):
                yield from _python_names(name, {})
            case ast.Call(func=ast.Attribute(ast.Name("fields"), "get"), args=[name, *_]):
                yield from _python_names(name, {})
            case ast.Subscript(value=ast.Name("fields"), slice=name):
                yield from _python_names(name, {})


# -- the tests ---------------------------------------------------------------------


@pytest.mark.parametrize("table", TABLES)
def test_names_are_given_once_and_every_field_is_described(table: str) -> None:
    names = [one.name for one in TABLES[table]]
    assert len(set(names)) == len(names)
    for one in TABLES[table]:
        assert one.meaning[0].isupper()
        assert one.meaning.endswith(".")
        assert one.type


@pytest.mark.parametrize("table", TABLES)
def test_the_scripts_write_the_fields_of_the_table_where_it_says(table: str) -> None:
    assert in_transitions()[table].writes == {one.name: set(one.writers) for one in TABLES[table]}


@pytest.mark.parametrize("table", TABLES)
def test_the_scripts_and_python_delete_the_fields_of_the_table_where_it_says(table: str) -> None:
    deleted: dict[str, set[str]] = defaultdict(set)
    for uses in (in_transitions()[table], in_python()[table]):
        for name, places in uses.deletes.items():
            deleted[name] |= places
    assert deleted == {one.name: set(one.deleters) for one in TABLES[table] if one.deleters}


@pytest.mark.parametrize("table", TABLES)
def test_every_field_is_read_and_every_field_that_is_read_is_in_the_table(table: str) -> None:
    names = {one.name for one in TABLES[table]}
    read = {*in_transitions()[table].reads, *in_python()[table].reads}
    if table == "STEPS":
        read.add("<key>")  # by `_steps`, as the names without a colon
    assert read == names


@pytest.mark.parametrize("table", TABLES)
def test_the_scripts_of_the_doctor_use_fields_of_the_table_only(table: str) -> None:
    doctor = _used_in_scripts({name: path for name, path in PATHS.items() if path.parent.name == "doctor"})
    assert doctor[table].names <= {one.name for one in TABLES[table]}
    assert FOLDER.joinpath("doctor").is_dir()
