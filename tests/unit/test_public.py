"""What `stepflow` shows is what it says that it shows, and all of it is documented."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import pkgutil
import re
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

import stepflow
import stepflow_broker
import stepflow_cli
import stepflow_engine
import stepflow_workers

PACKAGES = (stepflow_engine, stepflow_broker, stepflow, stepflow_workers, stepflow_cli)
FILES = sorted(path for package in PACKAGES for path in Path(package.__path__[0]).rglob("*.py"))


def modules() -> Iterator[types.ModuleType]:
    for package in PACKAGES:
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            yield importlib.import_module(found.name)


def test_all_names_the_public_names_of_stepflow() -> None:
    public = {
        name
        for name, value in vars(stepflow).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }
    assert set(stepflow.__all__) == public
    assert len(stepflow.__all__) == len(public)


def test_all_names_of_every_module_exist_and_are_listed_once() -> None:
    for module in modules():
        names = getattr(module, "__all__", [])
        assert len(names) == len(set(names)), f"{module.__name__} lists a name twice"
        missing = [name for name in names if not hasattr(module, name)]
        assert not missing, f"{module.__name__} lists {missing}, which it does not have"


def test_every_module_says_in_all_what_it_offers() -> None:
    silent = [
        module.__name__
        for module in modules()
        if not hasattr(module, "__all__") and not hasattr(module, "__path__") and "__main__" not in module.__name__
    ]
    assert not silent


def public_parts(path: Path) -> Iterator[tuple[str, ast.AST]]:
    """The module, and its public classes, functions and methods."""
    tree = ast.parse(path.read_text())
    yield path.stem, tree
    waiting: list[tuple[str, ast.AST]] = [(path.stem, tree)]
    while waiting:
        name, parent = waiting.pop()
        for part in ast.iter_child_nodes(parent):
            if isinstance(part, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and part.name[0] != "_":
                inside = f"{name}.{part.name}"
                if not _is_overload(part):
                    yield inside, part
                if isinstance(part, ast.ClassDef):
                    waiting.append((inside, part))


def _is_overload(part: ast.AST) -> bool:
    return any(getattr(decorator, "id", "") == "overload" for decorator in getattr(part, "decorator_list", ()))


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_everything_public_has_a_docstring(path: Path) -> None:
    if not path.read_text():
        return
    missing = [name for name, part in public_parts(path) if not ast.get_docstring(part)]  # type: ignore[arg-type]
    assert not missing


def test_every_package_is_typed() -> None:
    for package in PACKAGES:
        assert (Path(package.__path__[0]) / "py.typed").exists(), f"{package.__name__} has no py.typed"


def test_public_classes_name_their_parameters() -> None:
    """Programs are written against these names."""
    assert list(inspect.signature(stepflow.Stepflow).parameters)[:2] == ["app_id", "redis_url"]
    function = inspect.signature(stepflow.Stepflow.function).parameters
    assert {"id", "event", "triggers", "retries"} <= set(function)
    assert {"retries", "timeout"} <= stepflow.StepOptions.__optional_keys__


def test_the_types_that_handles_return_are_exported() -> None:
    assert {"Pause", "Reason", "Run", "RunStatus", "Failure"} <= set(stepflow.__all__)


def test_blocking_methods_have_asyncio_twins() -> None:
    """A twin has the same parameters."""
    twins = {
        stepflow.Stepflow: (
            *("send", "start", "start_many", "invoke", "cancel_many", "pause", "resume", "pauses"),
            *("asks", "answer", "audit"),
        ),
        stepflow.Run: ("result", "status", "cancel", "explain", "signal", "values"),
    }
    for owner, names in twins.items():
        for name in names:
            blocking, twin = getattr(owner, name), getattr(owner, f"a{name}")
            assert inspect.iscoroutinefunction(twin), f"a{name}"
            assert inspect.signature(twin).parameters == inspect.signature(blocking).parameters, name


def test_times_of_public_values_are_datetimes() -> None:
    times = {
        f"{name}.{field.name}": field.type
        for name in stepflow.__all__
        if dataclasses.is_dataclass(thing := getattr(stepflow, name))
        for field in dataclasses.fields(thing)
        if re.search(r"(^|_)(at|since|until|time)$|_ms$", field.name)
    }
    others = {name for name, kind in times.items() if "datetime" not in str(kind)}
    assert others == {"Event.at"}, "which takes several forms"
    assert "Reason.until" in times


def test_the_error_tree_in_the_docstring_is_the_real_one() -> None:
    drawn: list[tuple[int, str]] = []
    for line in (stepflow.__doc__ or "").splitlines():
        found = re.match(r"    ([│├└─ ]*)(\w+Error)\b", line)
        if found:
            drawn.append((len(found[1]) // 3, found[2]))
    parents: list[str] = []
    for depth, name in drawn:
        del parents[depth:]
        if parents:
            assert issubclass(getattr(stepflow, name), getattr(stepflow, parents[-1])), name
        parents.append(name)
    errors = {name for name in stepflow.__all__ if name.endswith("Error")}
    assert {name for _, name in drawn} == errors
