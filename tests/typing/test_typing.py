"""What mypy and pyright make of programs: the types are those asserted, and errors are where ``# error`` stands."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import ROOT

FILES = sorted(path for path in Path(__file__).parent.glob("*.py") if not path.name.startswith(("test_", "__")))
Scope = tuple[str, int]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_mypy_sees_the_types_and_the_errors() -> None:
    done = run("mypy", "--output", "json", "--no-error-summary")
    assert done.returncode == 1, done.stderr or done.stdout
    found = [json.loads(line) for line in done.stdout.splitlines()]
    compare([((item["file"], item["line"]), item["message"]) for item in found if item["severity"] == "error"])


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_pyright_sees_the_types_and_the_errors() -> None:
    done = run("pyright", "--outputjson", "--pythonpath", sys.executable)
    assert done.returncode == 1, done.stderr or done.stdout
    found = json.loads(done.stdout)["generalDiagnostics"]
    compare(
        [
            ((item["file"], item["range"]["start"]["line"] + 1), item["message"])
            for item in found
            if item["severity"] == "error"
        ]
    )


def run(tool: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Check the files of this folder with the settings of the project."""
    command = [sys.executable, "-m", tool, *options, *map(str, FILES)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)


def compare(found: list[tuple[Scope, str]]) -> None:
    """Hold the errors that a tool found against those that are marked."""
    messages = {(Path(file).name, line): message for (file, line), message in found}
    marked = expected()
    assert marked
    unexpected = {place: messages[place] for place in sorted(messages.keys() - marked)}
    assert not unexpected, "errors where none is marked"
    missing = sorted(marked - messages.keys())
    assert not missing, "no errors where some are marked"


def expected() -> set[Scope]:
    """The lines that are marked."""
    return {
        (path.name, number)
        for path in FILES
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if line.endswith("# error")
    }
