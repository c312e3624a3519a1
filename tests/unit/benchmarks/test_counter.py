"""The job that counts, and the notes it takes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.counter import Plan
from benchmarks.meter import between, read_notes

ROOT = Path(__file__).parents[3]
_THREADS = """
from concurrent.futures import ThreadPoolExecutor
from benchmarks.counter import count_job
with ThreadPoolExecutor(4) as pool:
    for _ in range(100):
        pool.submit(count_job)
"""
_CHILDREN = """
import os
from benchmarks.counter import count_job_of_child
for _ in range(100):
    child = os.fork()
    if not child:
        count_job_of_child()
        os._exit(0)
    os.waitpid(child, 0)
"""


@pytest.mark.parametrize("worker", [_THREADS, _CHILDREN], ids=["threads", "children"])
def test_a_worker_notes_the_end_of_the_warm_up_and_the_last_job(worker: str, tmp_path: Path):
    plan = Plan(str(tmp_path / "notes"), warm_up=20, count=100, server=os.getpid())
    subprocess.run([sys.executable, "-c", worker], cwd=ROOT, env={**os.environ, **plan.to_env()}, check=True)
    first, last = read_notes(tmp_path / "notes")
    assert (first.count, last.count) == (20, 100)
    taken = between(
        first, last, system="x", version="1", workload="jobs", in_flight=1, unit="job", settings="", server=""
    )
    assert taken.count == 80
    assert taken.worker_rss_mb > 0


def test_there_are_no_notes_before_the_first(tmp_path: Path):
    assert read_notes(tmp_path / "notes") == []
