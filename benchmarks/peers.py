"""Side by side: ``python -m benchmarks.peers [--only rq,celery --rounds 3 --workload jobs]``, or ``make bench-peers``.

Each round measures every system once, in the same order, so that what changes on the machine meets all of them. A
system that cannot be installed or measured is named with its error; the rest goes on, and the exit code is 1. With
``--long`` stepflow's long workloads follow the rounds.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.results import RESULTS, Results
from benchmarks.sample import Sample
from benchmarks.tables import table, target_table
from benchmarks.targets import reached
from benchmarks.topics import OURS, topics
from benchmarks.venvs import ROOT, Environment, InstallError

__all__ = ["SYSTEMS", "System"]

_LIMIT_S = 1200
_USAGE = 2
_MESSAGE_LINES = 30


@dataclass(frozen=True, slots=True)
class System:
    """Something to measure: the module ``benchmarks.<name>``.

    Attributes:
        name: of the system.
        environment: where it is installed; None: where this runs.
    """

    name: str
    environment: Environment | None = None

    @property
    def python(self) -> str:
        """The interpreter."""
        return str(self.environment.python) if self.environment else sys.executable

    @property
    def env(self) -> dict[str, str]:
        """The environment variables."""
        return {**os.environ, "PATH": self.environment.path(os.environ)} if self.environment else dict(os.environ)


def _peer(name: str, *packages: str, npm: Sequence[str] = ()) -> System:
    return System(name, Environment(name, packages, npm))


_REDIS = "redis[hiredis]==8.1.0"
_UVLOOP = "uvloop==0.23.0"
SYSTEMS = (
    System(OURS),
    _peer("rq", "rq==3.0.0", _REDIS),
    _peer("celery", "celery[redis]==5.7.0", _REDIS),
    _peer("dramatiq", "dramatiq[redis]==2.2.1", _REDIS),
    _peer("taskiq", "taskiq[uv]==0.13.0", "taskiq-redis==1.2.4", _REDIS),
    _peer("redflow", "redflow[fast]==0.1.9", _REDIS, _UVLOOP),
    _peer("dbos", "dbos==3.4.0"),
    _peer(
        "restate",
        "restate-sdk==1.3.0",
        "hypercorn==0.18.0",
        "granian==2.8.7",
        _UVLOOP,
        npm=("@restatedev/restate-server@1.7.12",),
    ),
)


class MeasureError(Exception):
    """A system's command failed; the message ends with what it wrote to standard error."""


def measure(system: System, options: Sequence[str]) -> list[Sample]:
    """Run a system's command once; nothing when it has no such workload.

    Raises:
        MeasureError: it failed, took too long, or gave no samples.
    """
    command = [system.python, "-m", f"benchmarks.{system.name}", "--repetitions", "1", *options]
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        code = _run(command, system, output.fileno(), errors.fileno())
        output.seek(0)
        errors.seek(0)
        said = "\n".join(errors.read().splitlines()[-_MESSAGE_LINES:])
        if code == _USAGE and options:
            print(f"{system.name} does not measure that: {said.rpartition(': ')[2]}", file=sys.stderr, flush=True)
            return []
        if code != 0:
            raise MeasureError(f"{shlex.join(command)} {_how(code)}\n{said}")
        try:
            samples = [Sample.from_json(line) for line in output]
        except ValueError as error:
            raise MeasureError(f"{shlex.join(command)}: {error}") from None
    if not samples and not options:
        raise MeasureError(f"{shlex.join(command)} gave no samples\n{said}")
    return samples


def _run(command: Sequence[str], system: System, output: int, errors: int) -> int | None:
    """The exit code; None after too long. Whatever the command has started ends with it."""
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=system.env,
        stdout=output,
        stderr=errors,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        return process.wait(_LIMIT_S)
    except subprocess.TimeoutExpired:
        return None
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _how(code: int | None) -> str:
    return f"took over {_LIMIT_S} s" if code is None else f"ended with {code}"


def _install(systems: Sequence[System], results: Results) -> list[System]:
    """Make the environments; the systems that are there."""
    installed = []
    for system in systems:
        try:
            if system.environment:
                system.environment.make()
            installed.append(system)
        except InstallError as error:
            _fail(results, system, error)
    return installed


def _fail(results: Results, system: System, error: Exception) -> None:
    results.failures[system.name] = message = str(error).replace(str(ROOT), ".")
    print(f"{system.name}: {message}", file=sys.stderr, flush=True)


def _chosen(only: str | None) -> list[System]:
    names = only.split(",") if only else [system.name for system in SYSTEMS]
    unknown = set(names) - {system.name for system in SYSTEMS}
    if unknown:
        known = ", ".join(system.name for system in SYSTEMS)
        raise SystemExit(f"error: there is no system {', '.join(sorted(unknown))}: choose from {known}")
    return [system for system in SYSTEMS if system.name in names]


def _measure_rounds(
    systems: Sequence[System], rounds: int, options: Sequence[str], save_to: Path, *, long: int = 0
) -> Results:
    names = [] if len(systems) == len(SYSTEMS) else ["--only", ",".join(system.name for system in systems)]
    longs = ["--long", str(long)] if long else []
    command = ["python", "-m", "benchmarks.peers", "--rounds", str(rounds), *names, *longs, *options]
    results = Results.begin(shlex.join(command))
    left = _install(systems, results)
    for number in range(rounds):
        for system in list(left):
            print(f"round {number + 1} of {rounds}: {system.name}", file=sys.stderr, flush=True)
            if not _measured(results, system, options, save_to):
                left.remove(system)
    if ours := [system for system in left if long and system.name == OURS]:
        print(f"long workloads: {OURS}", file=sys.stderr, flush=True)
        _measured(results, ours[0], ["--long", "--repetitions", str(long), *options], save_to)
    return results


def _measured(results: Results, system: System, options: Sequence[str], save_to: Path) -> bool:
    """Add what a system's command gives to the results; whether it did not fail."""
    try:
        results.samples += measure(system, options)
    except MeasureError as error:
        _fail(results, system, error)
    results.save(save_to)
    return system.name not in results.failures


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", help="only these systems, with commas between")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workload", help="only this one")
    parser.add_argument("--in-flight", help="only with this many at once")
    parser.add_argument("--scale", help="do this share of the work, to see that it works")
    parser.add_argument(
        "--long", type=int, nargs="?", const=1, default=0, help="stepflow's long workloads too, so many times (once)"
    )
    parser.add_argument("--output", type=Path, default=RESULTS, help="the JSON file of all samples")
    given = parser.parse_args()
    if given.long and given.workload:
        parser.error("--long measures all long workloads; --workload alone measures one of them")
    passed = {"--workload": given.workload, "--in-flight": given.in_flight, "--scale": given.scale}
    options = [word for name, value in passed.items() if value is not None for word in (name, value)]
    results = _measure_rounds(_chosen(given.only), given.rounds, options, given.output, long=given.long)
    for topic in topics(results.spreads()):
        print(f"\n{topic.title}\n\n{table(topic)}")
    print(f"\nTargets\n\n{target_table(reached(spread.median for spread in results.spreads()))}")
    for name, message in results.failures.items():
        print(f"\nnot measured: {name}: {message}")
    sys.exit(1 if results.failures or not results.samples else 0)


if __name__ == "__main__":
    main()
