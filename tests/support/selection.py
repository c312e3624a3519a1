"""Which tests run: all of them, with ``--quick`` those of ``make test``, or with ``--rest`` the others.

``--quick`` leaves out the tests that are marked ``slow``, the folders of fault and fuzz tests, and the tests that need
something which this machine does not have. The last line of the output says how many, and why.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from tests.support.requirements import missing

__all__ = ["Quick", "Requires", "Rest"]

_FOLDERS = {"chaos": "fault tests", "fuzz": "fuzz tests"}
_SLOW = "slow tests"


class Requires:
    """Fails a test that is marked ``needs`` when something is missing."""

    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        if lines := missing(_needs(item)):
            pytest.fail(f"this test cannot run: {'; '.join(lines)}", pytrace=False)


class Rest:
    """Leaves out what ``--quick`` runs."""

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        config.hook.pytest_deselected(items=[item for item in items if not _reason(item)])
        items[:] = [item for item in items if _reason(item)]


class Quick:
    """Leaves tests out, and says so at the end."""

    def __init__(self) -> None:
        self._left_out: Counter[str] = Counter()

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        reasons = [(item, _reason(item)) for item in items]
        self._left_out = Counter(reason for _, reason in reasons if reason)
        config.hook.pytest_deselected(items=[item for item, reason in reasons if reason])
        items[:] = [item for item, reason in reasons if not reason]

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        output = getattr(session.config, "workeroutput", None)
        if output is not None:  # a process of xdist: its parent has collected nothing itself
            output["left_out"] = dict(self._left_out)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        self._left_out = Counter(getattr(node, "workeroutput", {}).get("left_out", {})) or self._left_out

    def pytest_unconfigure(self, config: pytest.Config) -> None:
        """After the line of results: the last one."""
        if hasattr(config, "workerinput"):
            return
        parts = ", ".join(f"{count} {reason}" for reason, count in sorted(self._left_out.items()))
        print(f"Left out: {parts or 'nothing'}. CI runs all of them, as make test-all does.")
        for line in missing():
            print(f"make test-all needs more than this machine has: {line}.")


def _reason(item: pytest.Item) -> str:
    """Why a test is left out; ``""``: it is not."""
    folder = next((name for name in _FOLDERS if name in item.path.parts), "")
    if folder:
        return _FOLDERS[folder]
    if missing(_needs(item)):
        return "tests that need " + " and ".join(_needs(item))
    return _SLOW if item.get_closest_marker("slow") else ""


def _needs(item: pytest.Item) -> tuple[str, ...]:
    return tuple(name for mark in item.iter_markers("needs") for name in mark.args)
