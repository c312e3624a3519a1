"""The documentation: links lead somewhere, examples work, and tables have what the code has."""

from __future__ import annotations

import ast
import importlib.util
import re
import shlex
from pathlib import Path

import click
import pytest

import stepflow
from stepflow_broker.doctor.findings import RULES
from stepflow_broker.protocol.keys import KEYS
from stepflow_cli.commands.worker import worker
from stepflow_cli.main import stepflow as cli
from stepflow_workers.log_events import LOG_EVENTS
from tests.support.pages import ROOT, Block, anchors, blocks, first_column, links, pages

PAGES = pages()
REFERENCE = ROOT / "docs" / "reference"
_TREE = re.compile(r"`((?:engine|broker|sdk|workers|cli|tests|benchmarks|examples|deploy)/[\w./-]+)`")
_LANGUAGES = ("python", "sh", "ini", "yaml", "text", "toml")
_FOREIGN = ("journalctl", "kubectl", "sudo", "systemctl")
_PRODUCT = ("engine", "broker", "sdk", "workers", "cli")


def _of(*languages: str) -> list[Block]:
    return [block for page in PAGES for block in blocks(page) if block.language in languages]


def _sources() -> list[Path]:
    return [path for folder in _PRODUCT for path in sorted((ROOT / folder).rglob("*.py"))]


# -- links -------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_of_the_page_leads_to_a_file_and_a_heading(page: Path) -> None:
    wrong = []
    for link in links(page):
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            wrong.append(link)
    assert wrong == []


def test_every_page_of_docs_is_on_the_map() -> None:
    index = ROOT / "docs" / "index.md"
    on_map = {(index.parent / link.partition("#")[0]).resolve() for link in links(index)}
    decisions = {(page.parent / link).resolve() for page in on_map if page.name == "index.md" for link in links(page)}
    missing = [page for page in PAGES if page.parent != ROOT and page != index and page not in on_map | decisions]
    assert missing == []


def test_every_path_that_a_page_names_exists() -> None:
    named = {(page, path) for page in PAGES for path in _TREE.findall(page.read_text())}
    assert sorted(str(path) for page, path in named if not (ROOT / path).exists()) == []


# -- decisions ---------------------------------------------------------------------

DECISIONS = sorted((ROOT / "docs" / "decisions").glob("0*.md"))


@pytest.mark.parametrize("page", DECISIONS, ids=lambda page: page.stem)
def test_a_decision_has_a_context_a_decision_and_consequences(page: Path) -> None:
    headings = [line for line in page.read_text().splitlines() if line.startswith("#")]
    number, title = re.fullmatch(r"# (\d+)\. (.+)", headings[0]).groups()  # type: ignore[union-attr]
    assert headings[1:4] == ["## Context", "## Decision", "## Consequences"]
    assert page.name.startswith(f"{int(number):04d}-")
    assert f"[{int(number):04d}: {title}]({page.name})" in (page.parent / "index.md").read_text()


# -- examples ----------------------------------------------------------------------


def test_there_is_an_example_beside_most_rules() -> None:
    assert len([block for page in PAGES for block in blocks(page)]) >= 100


@pytest.mark.parametrize("block", _of("python"), ids=str)
def test_the_python_compiles(block: Block) -> None:
    """As a file that a reader saves: only a fragment may await outside of a function."""
    compile(block.text, str(block), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT if block.mark == "fragment" else 0)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_python_of_the_page_is_executed(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All but what needs a server; tests/integration/test_docs.py executes that."""
    monkeypatch.setenv("STEPFLOW_REDIS_URL", "redis://127.0.0.1:1/0")
    load_page(page)


def load_page(page: Path) -> dict[str, object]:
    """The names that the page's blocks of Python declare."""
    names: dict[str, object] = {"__name__": "page"}
    for block in blocks(page):
        if block.language == "python" and (not block.mark or _has_library(block)):
            exec(compile("\n" * (block.line - 1) + block.text, str(block), "exec"), names)
    return names


def _has_library(block: Block) -> bool:
    action, _, name = block.mark.partition(" ")
    return action == "needs" and importlib.util.find_spec(name) is not None


@pytest.mark.parametrize("block", [block for block in _of(*_LANGUAGES) if block.mark.startswith("same ")], ids=str)
def test_the_block_is_the_file_of_the_tree(block: Block) -> None:
    assert (ROOT / block.mark.removeprefix("same ")).read_text() == block.text


@pytest.mark.parametrize("block", [block for block in _of("sh") if block.mark == "run"], ids=str)
def test_a_tutorial_does_not_bind_its_terminal_to_one_server(block: Block) -> None:
    """The exported address comes before the server of a folder: the next tutorial would ask a server that is gone."""
    assert re.search(r"^\s*export STEPFLOW_", block.text, re.MULTILINE) is None


def test_every_mark_of_a_block_is_known() -> None:
    known = {"server", "compile", "fragment", "needs", "same", "file", "run", "background", "output"}
    marks = {(str(block), block.mark.partition(" ")[0]) for page in PAGES for block in blocks(page) if block.mark}
    assert [(where, mark) for where, mark in sorted(marks) if mark not in known] == []


# -- the command line --------------------------------------------------------------


def _commands(block: Block) -> list[list[str]]:
    """The commands of stepflow in a block for a shell."""
    text = re.sub(r"\\\n\s*", " ", block.text)
    lines = [shlex.split(line, comments=True) for line in text.splitlines()]
    found = []
    for words in lines:
        if words[:1] and words[0] in _FOREIGN:  # what follows is the name of a service, up to a `--`
            words = words[words.index("--") + 1 :] if "--" in words else []
        starts = [at for at, word in enumerate(words) if word in ("stepflow", "stepflow-worker")]
        end = next((at for at, word in enumerate(words) if word in ("|", "&&", ">", "||")), len(words))
        found += [words[starts[0] : end]] if starts and starts[0] < end else []
    return found


@pytest.mark.parametrize("block", [block for block in _of("sh") if _commands(block)], ids=str)
def test_the_commands_of_the_shell_exist_with_their_options(block: Block, monkeypatch: pytest.MonkeyPatch) -> None:
    for program, *words in _commands(block):
        command: click.Command = worker if program == "stepflow-worker" else cli
        while isinstance(command, click.Group) and words and not words[0].startswith("-"):
            found = command.commands.get(words[0])
            assert found is not None, f"{block}: there is no command {words[0]!r}"
            command, words = found, words[1:]
        known = {option for one in command.params for option in (*one.opts, *one.secondary_opts)} | {"--help", "-h"}
        used = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}
        assert used - known == set(), f"{block}: {program} {command.name}"


def _variables() -> set[str]:
    """The variables that options of commands are."""
    found = {"STEPFLOW_ENCRYPTION_KEYS", "STEPFLOW_REDIS_URL", "STEPFLOW_OUTPUT", "STEPFLOW_DEBUG", "STEPFLOW_VERSION"}
    found.add("STEPFLOW_TEST_REDIS_URL")
    left: list[tuple[str, click.Command]] = [("STEPFLOW", cli)]
    while left:
        prefix, command = left.pop()
        found |= {str(one.envvar or f"{prefix}_{str(one.name).upper()}") for one in command.params}
        if isinstance(command, click.Group):
            left += [(f"{prefix}_{name.upper().replace('-', '_')}", one) for name, one in command.commands.items()]
    return found


def test_every_variable_that_a_page_names_exists() -> None:
    named = {name for page in PAGES for name in re.findall(r"\bSTEPFLOW_[A-Z_]*[A-Z]\b", page.read_text())}
    assert named - _variables() == set()


def test_every_module_that_a_command_runs_exists() -> None:
    named = {
        name
        for block in _of("sh")
        for name in re.findall(r"python3? -m ((?:stepflow|examples|benchmarks)[\w.]*)", block.text)
    }
    assert [name for name in sorted(named) if importlib.util.find_spec(name) is None] == []


# -- names -----------------------------------------------------------------------


def test_the_new_names_of_the_next_release_exist() -> None:
    """The second columns of the changelog's tables, under "Unreleased"."""
    text = (ROOT / "CHANGELOG.md").read_text().partition("## Unreleased")[2].partition("\n## ")[0]
    rows = re.findall(r"^ *\| `[\w:<>]+` \| `([\w:<>-]+)` \|$", text, re.MULTILINE)
    known = {*stepflow.__all__, *RULES, *LOG_EVENTS, *(key.text for key in KEYS)}
    kinds = {name.partition("<")[0] for name in known}
    assert rows
    assert [name for name in rows if name.partition("<")[0] not in kinds] == []


def test_the_page_on_reasons_has_all_kinds() -> None:
    tree = ast.parse((ROOT / "broker/stepflow_broker/views/explain.py").read_text())
    made = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == "Reason"]
    kinds = {str(node.args[0].value) for node in made if isinstance(node.args[0], ast.Constant)}
    assert kinds - set(first_column(ROOT / "docs/how-to/inspect-runs.md")) == set()


# -- tables ------------------------------------------------------------------------


def test_the_table_of_errors_has_all_public_errors() -> None:
    public = {name for name in stepflow.__all__ if name.endswith("Error")}
    assert {name for name in first_column(REFERENCE / "errors.md") if name.endswith("Error")} == public


def test_the_overview_of_the_api_has_all_public_names() -> None:
    assert (
        set(stepflow.__all__) - set(first_column(REFERENCE / "api.md")) - set(first_column(REFERENCE / "errors.md"))
        == set()
    )
