"""Producers that are interrupted: exceptions of signal handlers at any moment of a call, and calls in a handler."""

from __future__ import annotations

import subprocess
import sys

from stepflow import Stepflow
from tests.support.command_line import environment, register
from tests.support.partition_merging_client import whole_client

INTERRUPTED = """
import os, random, signal, sys, threading, time
from stepflow import Stepflow
from stepflow_broker.transitions.runs.run_record import read_run

class Alarm(BaseException):
    pass

def ring(*_):
    raise Alarm

app = Stepflow("shop")
interrupts, acknowledged, wrong, errors = 0, [], [], []
stop = threading.Event()

def call(n):
    run = app.start("shop/never", {"n": n})
    acknowledged.append(run.id)
    if app.backend.broker.execute(read_run(app.backend.partition, run.id)).event["data"] != {"n": n}:
        wrong.append(n)

def beside():
    while not stop.is_set():
        call(random.random())

call(0)  # imports what a first call imports: an import that is interrupted cannot be repeated
signal.signal(signal.SIGALRM, ring)
thread = threading.Thread(target=beside, daemon=True)
thread.start()
end_at = time.monotonic() + 2
while time.monotonic() < end_at:
    try:
        signal.setitimer(signal.ITIMER_REAL, random.uniform(0.0003, 0.004))
        while time.monotonic() < end_at:  # an exception in a __del__ is lost
            call(random.random())
    except Alarm:
        interrupts += 1
    except Exception as error:
        signal.setitimer(signal.ITIMER_REAL, 0)
        errors.append(repr(error))
signal.setitimer(signal.ITIMER_REAL, 0)
stop.set()
thread.join()
for run_id in acknowledged:
    print(run_id)
print("interrupted" if interrupts > 50 else interrupts, len(wrong), errors[:3], file=sys.stderr)
"""

REENTRANT = """
import random, signal
from stepflow import Stepflow

app = Stepflow("shop")
sent = []

def send(*_):
    sent.append(app.send("late"))
    app.close()

app.start("shop/never")  # imports what a first call imports
signal.signal(signal.SIGALRM, send)
for _ in range(100):
    signal.setitimer(signal.ITIMER_REAL, random.uniform(0.0001, 0.002))
    app.start("shop/never")
    app.close()
signal.setitimer(signal.ITIMER_REAL, 0)
print("sent" if sent else "no signal came")
"""


def run(program: str, url: str) -> subprocess.CompletedProcess[str]:
    app = Stepflow("shop", redis_url=url)

    @app.function("never")
    async def never(ctx: object) -> None: ...

    register(url, app)
    return subprocess.run(
        [sys.executable, "-c", program],
        env=environment(STEPFLOW_REDIS_URL=url),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def test_an_exception_of_a_signal_handler_at_any_moment_of_a_call_does_no_harm(url: str) -> None:
    done = run(INTERRUPTED, url)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (0, "interrupted 0 []")
    started = done.stdout.split()
    assert started
    with whole_client(url) as whole:
        assert [run_id for run_id in started if not whole.exists(f"stepflow:run:{run_id}")] == []


def test_a_signal_handler_may_call_the_app_that_it_interrupts(url: str) -> None:
    done = run(REENTRANT, url)
    assert (done.returncode, done.stdout, done.stderr) == (0, "sent\n", "")
