"""The version of the code that a worker executes: a variable, a commit, a package, or none."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from stepflow import Context, Stepflow
from stepflow_engine.errors import ConfigurationError
from stepflow_workers import code_version as module
from stepflow_workers.code_version import VERSION, code_version

COMMIT = "0123456789abcdef0123456789abcdef01234567"
OTHER = "f" * 40


@pytest.fixture(autouse=True)
def _no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VERSION, raising=False)


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Stepflow]:
    """An app whose code is in a folder of its own, which is in no repository yet."""
    yield from made(tmp_path / "src" / "shop_flows" / "flows.py")


def made(file: Path) -> Iterator[Stepflow]:
    app = Stepflow("shop")

    async def order(ctx: Context) -> None: ...

    order.__module__ = "shop_flows.flows"
    app.function("order")(order)
    code = ModuleType("shop_flows.flows")
    code.__file__ = str(file)
    file.parent.mkdir(parents=True)
    sys.modules[code.__name__] = code
    yield app
    del sys.modules[code.__name__]


def make_repository(git: Path, head: str = "ref: refs/heads/main", **files: str) -> None:
    (git / "refs" / "heads").mkdir(parents=True)
    (git / "HEAD").write_text(f"{head}\n")
    for name, text in files.items():
        (git / name.replace("_", "-")).write_text(text)


def test_the_variable_comes_first(app: Stepflow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_repository(tmp_path / ".git", COMMIT)
    monkeypatch.setenv(VERSION, " 1.4.0 ")
    assert code_version([app]) == "1.4.0"


@pytest.mark.parametrize("bad", ["x" * 65, "1.4\x1b[2J", "1\n2"])
def test_a_variable_that_cannot_be_shown_is_refused(app: Stepflow, bad: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VERSION, bad)
    with pytest.raises(ConfigurationError, match=f"{VERSION} must have at most 64 printable characters"):
        code_version([app])


def test_the_commit_of_a_branch(app: Stepflow, tmp_path: Path) -> None:
    make_repository(tmp_path / ".git", packed_refs=f"{OTHER} refs/heads/main\n")
    (tmp_path / ".git" / "refs" / "heads" / "main").write_text(f"{COMMIT}\n")
    assert code_version([app]) == COMMIT[:12]


def test_the_commit_of_a_branch_that_is_packed(app: Stepflow, tmp_path: Path) -> None:
    packed = f"# pack-refs with: peeled fully-peeled sorted\n{OTHER} refs/heads/a\n^{OTHER}\n{COMMIT} refs/heads/main\n"
    make_repository(tmp_path / ".git", packed_refs=packed)
    assert code_version([app]) == COMMIT[:12]


def test_a_commit_without_a_branch(app: Stepflow, tmp_path: Path) -> None:
    make_repository(tmp_path / ".git", COMMIT)
    assert code_version([app]) == COMMIT[:12]


def test_the_commit_of_a_worktree(app: Stepflow, tmp_path: Path) -> None:
    main = tmp_path / "elsewhere" / ".git"
    make_repository(main)
    make_repository(main / "worktrees" / "one", "ref: refs/heads/topic", commondir="../..\n")
    (main / "refs" / "heads" / "topic").write_text(COMMIT)
    (tmp_path / ".git").write_text(f"gitdir: {main / 'worktrees' / 'one'}\n")
    assert code_version([app]) == COMMIT[:12]


@pytest.mark.parametrize("head", ["", "ref: refs/heads/none", "not a reference", "ref: ../../../../etc/passwd"])
def test_a_repository_that_cannot_be_read_gives_no_version(app: Stepflow, tmp_path: Path, head: str) -> None:
    make_repository(tmp_path / ".git", head)
    assert code_version([app]) == ""


def test_a_package_has_its_version_and_not_the_commit_of_the_folder_where_it_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_repository(tmp_path / ".git", COMMIT)
    monkeypatch.setattr(module, "_distributions", lambda _path: {"shop_flows": ["shop-flows"]})
    monkeypatch.setattr(module.metadata, "version", {"shop-flows": "2.1"}.__getitem__)
    for app in made(tmp_path / ".venv" / "site-packages" / "shop_flows" / "flows.py"):
        assert code_version([app]) == "2.1"


def test_code_without_a_file_and_a_package_has_no_version(app: Stepflow) -> None:
    assert code_version([app]) == ""
    del sys.modules["shop_flows.flows"].__file__
    assert code_version([app]) == ""
    assert code_version([]) == ""
