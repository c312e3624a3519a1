"""The table of systems, and what a round does."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks import peers
from benchmarks.peers import SYSTEMS, MeasureError, System, measure
from benchmarks.results import Results
from benchmarks.sample import Sample
from benchmarks.venvs import Environment, InstallError
from tests.unit.benchmarks.samples import sample


@pytest.mark.parametrize("system", SYSTEMS, ids=lambda system: system.name)
def test_each_system_has_its_file(system: System):
    assert importlib.util.find_spec(f"benchmarks.{system.name}") is not None


@pytest.mark.parametrize("system", SYSTEMS[1:], ids=lambda system: system.name)
def test_each_peer_is_pinned(system: System):
    assert system.environment is not None
    assert all("==" in package for package in system.environment.packages)
    assert all("@" in package[1:] for package in system.environment.npm)


def test_a_system_that_fails_is_named_with_its_error():
    with pytest.raises(MeasureError, match=r"(?s)ended with 1\n.*No module named benchmarks.missing"):
        measure(System("missing"), [])


def test_rounds_are_interleaved_and_go_on_without_a_system_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    asked = []

    def measured(system: System, options: Sequence[str]) -> list[Sample]:
        asked.append(system.name)
        if system.name == "b":
            raise MeasureError("b ended with 1")
        return [sample(system.name)]

    monkeypatch.setattr(peers, "measure", measured)
    systems = [System("a"), System("b"), System("c")]
    results = peers._measure_rounds(systems, 3, [], tmp_path / "results.json")
    assert asked == ["a", "b", "c", "a", "c", "a", "c"]
    assert results.failures == {"b": "b ended with 1"}
    assert results.command == "python -m benchmarks.peers --rounds 3 --only a,b,c"
    assert Results.load(tmp_path / "results.json").samples == results.samples


def test_a_peer_that_cannot_be_installed_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(environment: Environment) -> None:
        raise InstallError(f"{environment.name} is not there")

    monkeypatch.setattr(Environment, "make", refuse)
    monkeypatch.setattr(peers, "measure", lambda system, options: [sample(system.name)])
    results = peers._measure_rounds([System("a"), System("b", Environment("b", ()))], 1, [], tmp_path / "results.json")
    assert [taken.system for taken in results.samples] == ["a"]
    assert results.failures == {"b": "b is not there"}


def test_an_unknown_system_is_refused():
    with pytest.raises(SystemExit, match="no system redis"):
        peers._chosen("rq,redis")


def test_long_workloads_of_stepflow_follow_the_rounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    asked = []

    def measured(system: System, options: Sequence[str]) -> list[Sample]:
        asked.append((system.name, *options))
        return [sample(system.name)]

    monkeypatch.setattr(peers, "measure", measured)
    systems = [System("stepflow"), System("a")]
    results = peers._measure_rounds(systems, 2, ["--scale", "0.1"], tmp_path / "results.json", long=1)
    short = [("stepflow", "--scale", "0.1"), ("a", "--scale", "0.1")]
    assert asked == [*short, *short, ("stepflow", "--long", "--repetitions", "1", "--scale", "0.1")]
    assert results.command.endswith("--long 1 --scale 0.1")
    assert len(Results.load(tmp_path / "results.json").samples) == 5
