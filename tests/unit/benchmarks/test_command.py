"""The command line that every system has."""

from __future__ import annotations

import argparse
import sys

import pytest

from benchmarks import command
from benchmarks.command import Case
from benchmarks.sample import Sample
from tests.unit.benchmarks.samples import sample

CASES = (
    Case("seq10", 1, "step", 1_000),
    Case("seq10", 200, "step", 5_000),
    Case("idle", 0, "command", 20, long=True),
    Case("backlog", 200, "step", 100_000, long=True),
)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def run(*options: str) -> list[tuple[str, int, int]]:
        """The cases that are measured with these options."""
        monkeypatch.setattr(sys, "argv", ["bench", *options])
        command.run(
            "A system.",
            CASES,
            lambda case: sample("x", workload=case.workload, in_flight=case.in_flight, count=case.count),
        )
        taken = [Sample.from_json(line) for line in capsys.readouterr().out.splitlines()]
        return [(one.workload, one.in_flight, one.count) for one in taken]

    return run


def test_what_takes_long_is_left_out(run):
    assert run("--repetitions", "1") == [("seq10", 1, 1_000), ("seq10", 200, 5_000)]


def test_what_takes_long_is_measured_when_it_is_asked_for(run):
    long = [("idle", 0, 20), ("backlog", 200, 100_000)]
    assert run("--repetitions", "1", "--long") == long
    assert run("--repetitions", "1", "--workload", "backlog") == long[1:]


def test_repetitions_are_interleaved(run):
    assert [in_flight for _, in_flight, _ in run("--repetitions", "2")] == [1, 200, 1, 200]


def test_a_share_of_the_work_is_done(run):
    assert run("--repetitions", "1", "--scale", "0.1", "--in-flight", "200") == [("seq10", 200, 500)]


def test_nothing_to_measure_is_an_error(run, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit, match="2"):
        run("--workload", "seq10", "--in-flight", "7")
    assert "nothing is measured with --workload seq10 --in-flight 7" in capsys.readouterr().err


def test_samples_that_belong_together_get_a_line_each(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(sys, "argv", ["bench", "--repetitions", "1", "--in-flight", "1"])
    command.run(None, CASES, lambda case: (sample(settings="first"), sample(settings="last")))
    taken = [Sample.from_json(line) for line in capsys.readouterr().out.splitlines()]
    assert [one.settings for one in taken] == ["first", "last"]


def test_a_system_may_have_options_of_its_own(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    own = argparse.ArgumentParser(add_help=False)
    own.add_argument("--sticky", help="of its own")
    monkeypatch.setattr(sys, "argv", ["bench", "--help"])
    with pytest.raises(SystemExit, match="0"):
        command.run("A system.", CASES, lambda case: sample(), more=own)
    assert "of its own" in capsys.readouterr().out
