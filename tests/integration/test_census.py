"""The census: its totals against a count made in another way, and its report when a worker is killed."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import sysconfig
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from examples.census.counting import Count, Longest, add_counts, count_source
from examples.census.flow import census
from examples.census.listing import MODULES, Part, cut_package, list_packages
from examples.census.report import Report, build_report, format_table
from stepflow import Run, RunFailedError, Stepflow
from stepflow_broker.redis_client.broker import Broker
from stepflow_broker.transitions.runs.run_memos import read_memos
from stepflow_broker.transitions.runs.run_record import read_run
from stepflow_broker.transitions.runs.run_state import count_steps
from stepflow_engine.ids import run_id_by_event
from stepflow_engine.memo import read_memo
from tests.support.plain import plain_partition
from tests.support.processes import ROOT, until
from tests.support.roles import as_role

STDLIB = Path(sysconfig.get_path("stdlib"))
NOT_STDLIB = {"site-packages", "dist-packages", "__pycache__"}
SOME = ["asyncio", "email", "encodings", "json", "logging", "multiprocessing", "unittest", "xml"]
STRING_OR_COMMENT = re.compile(
    r"""#[^\n]*|\"{3}(?:\\.|[^\\])*?\"{3}|'{3}(?:\\.|[^\\])*?'{3}|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'""", re.DOTALL
)


# -- counting one file -------------------------------------------------------------


def test_code_comments_and_blank_lines_are_told_apart() -> None:
    source = b'"""Doc.\n\nMore.\n"""\n\n# why\nx = (1,  # one\n\n     2)\n'
    count = count_source(source, "a.py")
    assert (count.lines, count.code_lines, count.comment_lines, count.blank_lines) == (9, 6, 1, 2)


def test_functions_classes_and_the_longest_function_are_found() -> None:
    source = b"class A:\n class B:\n  async def f(self):\n   def g():\n    pass\n\ndef h(): pass"
    count = count_source(source, "a.py")
    assert (count.functions, count.classes, count.longest) == (3, 2, Longest("f", "a.py", 3))


@pytest.mark.parametrize(
    ("data", "lines"), [(b"", 0), (b"x", 1), (b"x\n", 1), (b"x\r\ny\r\n", 2), (b"x\ry", 2), (b"x\n\x0c\ny\n", 3)]
)
def test_lines_end_as_python_says(data: bytes, lines: int) -> None:
    count = count_source(data, "a.py")
    assert (count.lines, count.unparsable) == (lines, 0)


@pytest.mark.parametrize("data", [b"# coding: no-such-code\n", b"x = '\xff'\n", b"# coding: rot13\nx\n"])
def test_a_file_that_cannot_be_decoded_is_counted_as_such(data: bytes) -> None:
    assert count_source(data, "a.py") == Count(files=1, lines=data.count(b"\n"), unreadable=1)


@pytest.mark.parametrize("data", [b"print 'x'\n", b"x = (\n", b" x\n", b"a\0b\n", b"(" * 5000 + b"\n"])
def test_a_file_that_is_not_python_is_counted_as_such(data: bytes) -> None:
    assert count_source(data, "a.py") == Count(files=1, lines=1, unparsable=1)


def test_the_sum_of_counts_does_not_depend_on_their_order() -> None:
    counts = [Count(1, 2, longest=Longest("f", "b.py", 7)), Count(3, 4, longest=Longest("g", "a.py", 7)), Count()]
    assert add_counts(counts) == add_counts(reversed(counts)) == Count(4, 6, longest=Longest("g", "a.py", 7))


def test_the_table_has_a_row_for_each_large_package_and_one_for_the_rest() -> None:
    report = build_report(
        "3.11", "/lib", [("a", Count(1, 10)), ("b", Count(2, 1000)), ("a", Count(3, 20)), ("c", Count())]
    )
    lines = format_table(report, most=2).splitlines()
    assert [line.split()[:4] for line in lines[2:5]] == [
        ["b", "2", "1,000", "0"],
        ["a", "4", "30", "0"],
        ["1", "more", "0", "0"],
    ]
    assert lines[6].split()[:3] == ["all", "6", "1,030"]


def test_a_narrow_table_leaves_columns_out() -> None:
    report = build_report("3.11", "/lib", [("asyncio", Count(100, 10_000, longest=Longest("f" * 30, "a.py", 7)))])
    wide, narrow = format_table(report, width=140).splitlines(), format_table(report, width=60).splitlines()
    assert wide[0].split()[-2:] == ["longest", "function"]
    assert "f" * 30 in wide[2]
    assert narrow[0].split() == ["package", "files", "lines", "code", "comments", "functions", "classes"]
    assert max(map(len, narrow[:5])) <= 60


# -- the function ------------------------------------------------------------------


@pytest.mark.slow
def test_the_totals_are_those_of_an_independent_count(url: str, client, start_worker) -> None:
    for name in ("one", "two"):
        start_worker("examples.census.flow:app", name=name, concurrency=2, lease_ms=10_000)
    report = Report.model_validate(_send(url, client, [*SOME, MODULES]).result(timeout=100))

    assert [package.package for package in report.packages] == sorted([*SOME, MODULES])
    for package in report.packages:
        assert _facts(package.count) == independent_count(sources(package.package)), package.package
    total = report.total
    assert total.lines == sum(package.count.lines for package in report.packages)
    assert total.longest == max((package.count.longest for package in report.packages), key=lambda one: one.lines)


def test_each_package_is_counted_by_a_run_of_its_own(url: str, client, start_worker) -> None:
    start_worker("examples.census.flow:app")
    run = _send(url, client, ["json", "encodings"])
    run.result(timeout=60)
    broker, partition = Broker(as_role(url, "read-only")), plain_partition(url)
    memos = [read_memo(text) for _, text in broker.execute(read_memos(partition, run.id))]
    children = {memo.id: memo.detail["run_id"] for memo in memos if memo.detail.get("kind") == "invoke"}
    assert set(children) == {"count json", "count encodings"}
    for step_id, child in children.items():
        record = broker.execute(read_run(partition, child))
        assert record is not None
        assert (record.function, record.parent) == ("count-package", run.id)
        assert broker.execute(count_steps(partition, child)) == len(parts_of([step_id.removeprefix("count ")]))


def test_a_package_that_does_not_exist_fails_the_run_and_is_named(url: str, client, start_worker) -> None:
    start_worker("examples.census.flow:app")
    with pytest.raises(RunFailedError, match="has no package no-such-package"):
        _send(url, client, ["json", "no-such-package"]).result(timeout=30)


def _send(url: str, client, packages: list[str]) -> Run:
    app = Stepflow("census", redis_url=url)
    run = app.run(run_id_by_event(app.send("census/requested", {"packages": packages}), census.name))
    until(lambda: client.exists(f"stepflow:run:{run.id}"), what="the run's start")
    return run


# -- the demo ----------------------------------------------------------------------


@pytest.mark.slow
def test_the_demo_gives_the_same_report_when_a_worker_is_killed_half_way(tmp_path: Path) -> None:
    shown = run_demo(tmp_path / "killed.json", "--kill")
    assert re.search(
        r"^worker-[12] was killed \(SIGKILL\) after \d+ of \d+ steps\.\nIt was executing: (?!nothing)", shown, re.M
    )
    assert re.search(r"^Recovery: .* available to the other worker [\d.]+ s after the kill", shown, re.M)

    shown = run_demo(tmp_path / "whole.json")
    shares = re.search(
        r"^(\d+) steps of (\d+) runs in .* s: worker-1 executed (\d+), worker-2 executed (\d+)\.$", shown, re.M
    )
    assert shares is not None
    steps, runs, one, two = map(int, shares.groups())
    assert steps == one + two == len(parts_of(SOME)) + 3
    assert runs == len(SOME) + 1
    assert json.loads((tmp_path / "killed.json").read_text()) == json.loads((tmp_path / "whole.json").read_text())


def parts_of(packages: list[str]) -> list[Part]:
    """The parts that packages are counted in."""
    return [part for package in list_packages(packages) for part in cut_package(package)]


def run_demo(output: Path, *words: str) -> str:
    """Run the demo on a part of the standard library, as a person does; what it prints."""
    command = [sys.executable, "-m", "examples.census.demo", *words, "--output", str(output), *SOME]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    return done.stdout


# -- the independent count ---------------------------------------------------------


def sources(package: str) -> list[Path]:
    """The source files of a package, by another walk."""
    if package == MODULES:
        return [path for path in STDLIB.iterdir() if path.suffix == ".py"]
    return [path for path in (STDLIB / package).rglob("*") if path.suffix == ".py" and not NOT_STDLIB & set(path.parts)]


def independent_count(paths: Iterable[Path]) -> dict[str, int]:
    """The same facts, found in another way: lines as text files have them, code by a pattern and not by tokens."""
    facts: Counter[str] = Counter()
    longest = 0
    for path in paths:
        with path.open(encoding="latin-1") as text:
            facts.update(files=1, lines=sum(1 for _ in text))
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):
            facts.update(failed=1)
            continue
        facts.update(line_kinds(path.read_text("latin-1")))
        facts.update(type(node).__name__ for node in ast.walk(tree) if hasattr(node, "decorator_list"))
        longest = max([longest, *lengths(tree)])
    return {
        "files": facts["files"],
        "lines": facts["lines"],
        "code": facts["code"],
        "comment": facts["comment"],
        "blank": facts["blank"],
        "functions": facts["FunctionDef"] + facts["AsyncFunctionDef"],
        "classes": facts["ClassDef"],
        "failed": facts["failed"],
        "longest": longest,
    }


def line_kinds(text: str) -> Iterator[str]:
    """Of each line, what it is; a line inside a string is code, whatever it looks like."""
    in_string: set[int] = set()
    for found in STRING_OR_COMMENT.finditer(text):
        first = text.count("\n", 0, found.start()) if "\n" in found[0] else 0
        in_string.update(range(first + 1, first + 1 + found[0].count("\n")))
    for number, line in enumerate(re.findall(r"[^\n]*\n|[^\n]+", text)):
        words = line.strip()
        if number in in_string or (words and words[0] != "#"):
            yield "code"
        else:
            yield "comment" if words else "blank"


def lengths(tree: ast.Module) -> Iterator[int]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield (node.end_lineno or 0) - node.lineno + 1


def _facts(count: Count) -> dict[str, int]:
    return {
        "files": count.files,
        "lines": count.lines,
        "code": count.code_lines,
        "comment": count.comment_lines,
        "blank": count.blank_lines,
        "functions": count.functions,
        "classes": count.classes,
        "failed": count.unreadable + count.unparsable,
        "longest": count.longest.lines if count.longest else 0,
    }
