"""The documentation, executed: tutorials in a fresh folder, and the examples of pages beside a worker."""

from __future__ import annotations

import contextlib
import io
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType
from typing import Any

import pytest

from stepflow import Stepflow
from tests.support.pages import ROOT, Block, blocks, pages
from tests.support.processes import WorkerThread, until
from tests.support.traced_files import PERIODIC

TUTORIALS = [page for page in pages() if any(block.mark in ("run", "output") for block in blocks(page))]
SERVED = [page for page in pages() if any(block.mark == "server" for block in blocks(page))]
_SHOWN = re.compile(r"print\(.*\)  # (.+)$")


def _name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def _marks(page: Path) -> list[pytest.MarkDecorator]:
    return [] if page.stem in ("README", "quickstart") else [pytest.mark.slow]


# -- tutorials ---------------------------------------------------------------------


class Terminal:
    """A fresh folder in which a reader types what a page says: one shell, and one program in the background."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._env = {name: value for name, value in os.environ.items() if not name.startswith("STEPFLOW_")}
        self._env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{self._env['PATH']}"
        self._variables = folder / ".variables"
        self._log = folder / "background.log"
        self._background: subprocess.Popen[bytes] | None = None
        self._saved = 0

    def do(self, block: Block) -> str:
        """Do what a block says, and return what that printed."""
        action, _, name = block.mark.partition(" ")
        match action:
            case "file":
                return self._save(name, block.text)
            case "background":
                return self._start(block.text)
            case "run":
                return self._run(block)
        raise AssertionError(f"{block}: there is no mark {block.mark!r}")

    def close(self) -> None:
        """End the program in the background as Ctrl+C does."""
        if self._background is not None:
            self._background.send_signal(signal.SIGINT)
            self._background.wait(30)
            print(self._log.read_text())

    def _save(self, name: str, text: str) -> str:
        (self._folder / name).write_text(text)
        if self._background is not None:
            self._saved += 1
            self._wait_for_worker()
        return ""

    def _start(self, text: str) -> str:
        with self._log.open("wb") as log:
            self._background = subprocess.Popen(
                text.split(), cwd=self._folder, env=self._env, stdout=log, stderr=log, start_new_session=True
            )
        self._wait_for_worker()
        return ""

    def _wait_for_worker(self) -> None:
        """Until it has started, and started again after each save."""
        until(lambda: self._log.read_text().count("changed ") >= self._saved, what="the code's reading")
        until(lambda: "worker_started" in self._log.read_text().rpartition("changed ")[2], what="the worker's start")

    def _run(self, block: Block) -> str:
        keep = f"export -p > {self._variables}"
        script = f"[ -e {self._variables} ] && . {self._variables}\nset -ae\n{block.text}\n{keep}\n"
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=self._folder,
            env=self._env,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, f"{block}: {done.stdout}{done.stderr}"
        return done.stdout


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    terminal = Terminal(tmp_path)
    yield terminal
    terminal.close()


@pytest.mark.single_server("it starts a server of its own")
@pytest.mark.parametrize("page", [pytest.param(page, marks=_marks(page)) for page in TUTORIALS], ids=_name)
def test_the_tutorial_works_as_it_is_typed(page: Path, terminal: Terminal) -> None:
    printed = ""
    for block in blocks(page):
        if block.mark == "output":
            assert _general(printed) == _general(block.text), str(block)
        elif block.mark:
            printed = terminal.do(block)


def _general(text: str) -> str:
    """A text without what differs each time: ids of events and runs."""
    return re.sub(r"\b[0-9a-f]{32}\b", "<id>", text).strip()


# -- examples beside a worker ------------------------------------------------------


@pytest.mark.single_server("the examples are the same everywhere")
@pytest.mark.roles("producer", "operator", "worker")
@pytest.mark.parametrize("page", SERVED, ids=_name)
def test_the_examples_of_the_page_print_what_it_says(
    page: Path,
    url: str,
    run_worker: Callable[..., WorkerThread],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """The worker and the program have the module of the page each, as two processes have: they share no variables."""
    monkeypatch.setenv("STEPFLOW_REDIS_URL", url)
    monkeypatch.setenv("STEPFLOW_VERSION", "1.0")  # pinned functions need one, and the page is in no repository
    monkeypatch.chdir(tmp_path)
    for app in [value for value in _module(page).values() if isinstance(value, Stepflow) and value.functions]:
        run_worker(app)
    names = _module(page)
    for block in blocks(page):
        if block.language == "python" and block.mark == "server":
            assert _printed(block, names) == _expected(block), str(block)


def _module(page: Path) -> dict[str, Any]:
    """The names that the page's blocks declare, as one module."""
    names: dict[str, Any] = {"__name__": "page"}
    for block in blocks(page):
        if block.language == "python" and not block.mark:
            exec(_code(block), names)
    return names


def _code(block: Block) -> CodeType:
    return compile(
        "\n" * (block.line - 1) + block.text, str(block), "exec", dont_inherit=True
    )  # as without the imports of this file


def _printed(block: Block, names: dict[str, Any]) -> list[str]:
    with contextlib.redirect_stdout(io.StringIO()) as output:
        exec(_code(block), names)
    return output.getvalue().splitlines()


def _expected(block: Block) -> list[str]:
    return [shown[1] for line in block.text.splitlines() if (shown := _SHOWN.search(line))]


# -- the files of a step -----------------------------------------------------------


@pytest.mark.single_server("it starts a server of its own")
def test_the_files_of_one_step_are_those_that_a_run_passes_through(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "concepts" / "architecture.md").read_text()
    listed = re.findall(r"^\d+\. `([\w/]+\.py)`", page, re.MULTILINE)
    command = [sys.executable, "-m", "tests.support.traced_files", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    entered = set(done.stdout.split())
    assert set(listed) - entered == set()
    assert entered - set(listed) <= PERIODIC
    assert f"It enters {len(listed)} Python files" in page
