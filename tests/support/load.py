"""A load: a producer that starts runs and sends events while the server fails, and the account of what came of it."""

from __future__ import annotations

import itertools
import json
import re
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import redis

from stepflow import BackendUnavailableError, Stepflow
from stepflow_broker.protocol.keys import Keys
from stepflow_engine.ids import run_id_by_event, step_key
from tests.chaos.faults_app import FUNCTIONS
from tests.support.invariants import check_invariants
from tests.support.ledgers import EffectLedger, StartLedger
from tests.support.processes import until

__all__ = ["Load"]

_KEYS = Keys()
_STARTED_BY_EVENT = ("faults/ordered", "faults/billed")


class Load:
    """Starts runs of every function of the app from a thread, each by an id, so that what fails is done again.

    Args:
        url: the server as the producer sees it.
        folder: of the ledgers.
        pause_s: between two starts.
        settings: of the app by which it starts them.

    Attributes:
        starts: acknowledged starts.
        effects: executions of handlers.
        refused: how many calls raised `BackendUnavailableError`, by what it says of the server.
        acknowledged_at: run → when, in seconds of `time.monotonic`.
    """

    def __init__(self, url: str, folder: Path, *, pause_s: float = 0.02, **settings: Any) -> None:
        self.starts = StartLedger(folder / "starts")
        self.effects = EffectLedger(folder / "effects")
        self.refused: Counter[str] = Counter()
        self.acknowledged_at: dict[str, float] = {}
        self._app = Stepflow("faults", redis_url=url, **settings)
        self._data = {"ledger": str(self.effects.path)}
        self._pause_s = pause_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.error: BaseException | None = None

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(90)
        self._app.close()
        assert not self._thread.is_alive(), "the producer is stuck"
        if self.error is not None:
            raise self.error

    def _run(self) -> None:
        functions = itertools.cycle((*FUNCTIONS, "order/made"))
        try:
            for n, function in enumerate(functions):
                if self._stop.wait(self._pause_s):
                    return
                self._until_accepted(function, f"n{n}")
        except BaseException as error:  # shown by the thread that leaves the context
            self.error = error

    def _until_accepted(self, function: str, id: str) -> None:
        while True:
            try:
                runs = self._start(function, id)
            except BackendUnavailableError as error:
                self.refused[_what(error)] += 1
                if self._stop.wait(self._pause_s):
                    return
            else:
                self.acknowledged_at.update(dict.fromkeys(runs, time.monotonic()))
                self.starts.acknowledge(*runs)
                return

    def _start(self, function: str, id: str) -> Sequence[str]:
        if "/" not in function:
            return [self._app.start(f"faults/{function}", self._data, id=id).id]
        event = self._app.send(function, self._data, id=id)
        return [run_id_by_event(event, name) for name in _STARTED_BY_EVENT]

    def await_starts(self, count: int) -> None:
        """Wait until so many more starts are acknowledged."""
        wanted = len(self.acknowledged_at) + count
        while (now := len(self.acknowledged_at)) < wanted and self.error is None:
            until(
                lambda now=now: len(self.acknowledged_at) > now or self.error,
                seconds=60,
                what=f"the next start: {self.refused}",
            )

    # -- the account -------------------------------------------------------------

    def __str__(self) -> str:
        executions, repeats = self.effects.count(), self.effects.repeats().total()
        refused = f"; refused: {dict(self.refused)}" if self.refused else ""
        return f"{len(self.starts.runs())} runs, {executions} executions, {repeats} of them repeats{refused}"

    def lost(self, client: redis.Redis) -> list[str]:
        """The acknowledged runs that a settled server does not know."""
        return [run for run, status in self._statuses(client, self.starts.runs()).items() if status is None]

    def settle(self, client: redis.Redis, *, seconds: float = 60.0, all_memos: bool = True) -> None:
        """Wait until every run has ended and the server is quiet; then compare all that is known.

        Args:
            all_memos: false when the server has lost some: who knew them may have completed the run by them.
        """
        deadline = time.monotonic() + seconds
        while client.exists(_KEYS("LIVE")) or client.xlen(_KEYS("EVENTS")):
            assert time.monotonic() < deadline, _describe(client)
            time.sleep(0.05)
        while True:
            try:
                check_invariants(client)
                break
            except AssertionError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
        self._compare(client, all_memos)

    def _compare(self, client: redis.Redis, all_memos: bool) -> None:
        """Each run is completed with what was stored; each memo is what one execution of its step returned."""
        executed: dict[tuple[str, str], set[str]] = {}
        for effect in self.effects.effects():
            executed.setdefault((effect.run_id, step_key(effect.step)), set()).add(effect.note)
        returned = set().union(*executed.values())
        for run in client.scan_iter(f"{_KEYS('RUN')}*", count=1000):
            values, output = self._compare_run(client, run.removeprefix(_KEYS("RUN")), executed)
            if all_memos:
                assert values == output, f"{run} returned other than its memos"
            else:
                assert output <= returned, f"{run} returned what no execution has returned"

    @staticmethod
    def _compare_run(
        client: redis.Redis, run: str, executed: dict[tuple[str, str], set[str]]
    ) -> tuple[set[str], set[str]]:
        truth = client.hgetall(_KEYS("RUN", run))
        memos = {key: json.loads(memo) for key, memo in client.hgetall(_KEYS("MEMOS", run)).items()}
        assert truth["status"] == "completed", f"run {run} of {truth['function']} is {truth['status']}: {truth}"
        for key, memo in memos.items():
            if "kind" not in memo:
                assert memo["data"] in executed[run, key], f"a memo of {run} is what no execution has returned"
        values = {memo["data"] for memo in memos.values()} - {None}
        output = json.loads(truth["output"])
        return values, set(output if isinstance(output, list) else [output])

    @staticmethod
    def _statuses(client: redis.Redis, runs: Sequence[str]) -> dict[str, str | None]:
        return {run: client.hget(_KEYS("RUN", run), "status") for run in runs}


def _describe(client: redis.Redis) -> str:
    live = client.zrange(_KEYS("LIVE"), 0, -1)
    some = {run: client.hgetall(_KEYS("RUN", run)) | client.hgetall(_KEYS("STEPS", run)) for run in live[:5]}
    return f"{len(live)} runs live, {client.xlen(_KEYS('EVENTS'))} events are on the stream; the first runs: {some}"


def _what(error: BackendUnavailableError) -> str:
    """What an error says, without the address."""
    return re.sub(r"redis\S*://\S+|127\.0\.0\.1:\d+", "…", str(error)).partition("):")[0]
