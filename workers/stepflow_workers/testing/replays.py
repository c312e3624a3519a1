"""assert_replays: the code of an app fits histories that were exported from real runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from stepflow import Stepflow
from stepflow.replay.history import RunHistory
from stepflow.replay.history_file import read_history_file
from stepflow.replay.replayer import Replayer
from stepflow.replay.verdict import Risk, judge
from stepflow_engine.errors import HistoryFileError
from stepflow_engine.product import NAME

__all__ = ["assert_replays"]


def assert_replays(app: Stepflow, folder: str | Path, *, timeout: float = 5.0) -> None:
    """Check that the code of an app continues all runs whose histories are in a folder, as ``stepflow check`` judges.

    No handler is executed, and no server is needed. Each history is replayed twice, so code that does something else on
    each replay is found.

    Args:
        folder: has ``*.json`` files that ``stepflow export`` has written; or one such file.
        timeout: the longest time of a replay, in seconds.

    Raises:
        AssertionError: the folder has no histories, a file is not a history of a function of this app, or the code
            does not fit one. The message names the file, what differs, and the line of the code.

    Example::

        def test_live_runs_continue() -> None:
            assert_replays(app, "tests/histories")
    """
    __tracebackhide__ = True
    files = _files(Path(folder))
    if not files:
        raise AssertionError(f"there are no histories in {folder}: write some with '{NAME} export RUN --to {folder}'")
    problems: list[str] = []
    with Replayer(timeout_s=timeout) as replayer:
        for file in files:
            problems += _problems(app, file, replayer)
    if problems:
        raise AssertionError(f"{len(problems)} of {len(files)} histories do not fit the code:\n" + "\n".join(problems))


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.json")) if folder.is_dir() else [folder] if folder.exists() else []


def _problems(app: Stepflow, file: Path, replayer: Replayer) -> Iterator[str]:
    """What is wrong with a history, if anything is."""
    try:
        history = read_history_file(file)
    except HistoryFileError as error:
        yield f"  {error}"
        return
    yield from (f"  {file.name}: {text}" for text in _judged(app, history, replayer))


def _judged(app: Stepflow, history: RunHistory, replayer: Replayer) -> Iterator[str]:
    app_id, _, name = history.function.partition("/")
    function = app.functions.get(name) if app_id == app.id else None
    if function is None:
        known = ", ".join(one.name for one in app.functions.values()) or "none"
        yield f"it is of function {history.function}, which app {app.id!r} does not have; its functions: {known}"
        return
    judged = judge(history, replayer.replay(function, history), replayer.replay(function, history))
    if judged.verdict.risk is not Risk.SAFE:
        yield f"{judged.verdict}: {judged.text}" + (f" ({judged.site})" if judged.site else "")
