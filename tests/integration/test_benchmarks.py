"""The benchmarks of stepflow: each of their workloads runs, with a small share of its count."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from benchmarks.stepflow import CASES
from tests.support.processes import ROOT

TAKE_LONG = {"idle", "map100000", "processes", "seq10000"}
WORKLOADS = sorted({case.workload for case in CASES} - TAKE_LONG)


@pytest.mark.slow
@pytest.mark.single_server(reason="each workload starts a server of its own")
@pytest.mark.parametrize("workload", WORKLOADS)
def test_a_workload_gives_samples(workload: str) -> None:
    args = [
        sys.executable,
        "-m",
        "benchmarks.stepflow",
        "--workload",
        workload,
        "--repetitions",
        "1",
        "--scale",
        "0.01",
    ]
    done = subprocess.run(args, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    samples = [json.loads(line) for line in done.stdout.splitlines()]
    assert samples
    assert all(sample["workload"] == workload and sample["per_s"] > 0 for sample in samples)
