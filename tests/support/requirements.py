"""What some tests need beside Python and a Redis server: how to find it, and how to install it.

A test names what it needs: ``@pytest.mark.needs("libfaketime")``. ``make test`` leaves it out where that is missing and
says so; everywhere else the test fails. ``python -m tests.support.requirements`` lists what is missing.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

__all__ = ["REQUIREMENTS", "Requirement", "libfaketime", "missing"]

_FOLDERS = ("/usr/lib", "/usr/lib64", "/usr/local/lib", "/opt/homebrew/lib")


@dataclass(frozen=True, slots=True)
class Requirement:
    """Something that tests need.

    Attributes:
        is_there: whether this machine has it.
        install: how to get it.
    """

    is_there: Callable[[], bool]
    install: str


def libfaketime() -> Path | None:
    """The library that gives a process a wrong clock."""
    found = (path for folder in _FOLDERS for path in sorted(Path(folder).glob("**/libfaketimeMT.*")))
    return next(found, None)


REQUIREMENTS = {
    "libfaketime": Requirement(lambda: libfaketime() is not None, "on Debian: apt-get install faketime"),
}


def missing(names: tuple[str, ...] = tuple(REQUIREMENTS)) -> list[str]:
    """A sentence for each of these that this machine does not have."""
    absent = [name for name in names if not REQUIREMENTS[name].is_there()]
    return [f"{name} is not installed ({REQUIREMENTS[name].install})" for name in absent]


def main() -> int:
    """List what is missing; the exit code is 1 if anything is."""
    lines = missing()
    for line in lines:
        print(f"error: {line}; all tests need it, and make test does without", file=sys.stderr)
    return 1 if lines else 0


if __name__ == "__main__":
    raise SystemExit(main())
