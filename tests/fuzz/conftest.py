"""How many cases, and what is told of them at the end: ``pytest tests/fuzz --cases 1000000 --seed 7``."""

from __future__ import annotations

import pytest

from tests.fuzz.cases import TALLY


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--cases", type=int, default=4_000, help="how many cases to fuzz in all: make fuzz")
    parser.addoption("--around", type=int, default=4, help="how many cases are made of one that Hypothesis finds")
    parser.addoption("--seed", type=int, default=0, help="where to begin: another number, other cases")


def pytest_configure(config: pytest.Config) -> None:
    for name in ("cases", "around", "seed"):  # without these options when all tests are run
        setattr(TALLY, name, config.getoption(f"--{name}", getattr(TALLY, name)))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    terminalreporter.write_line(f"fuzz: {TALLY.done:,} cases, seed {TALLY.seed}")
