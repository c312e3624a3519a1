"""Signals and answers while workers are killed: none lost, none received twice, all in order."""

from __future__ import annotations

import threading

import pytest

from stepflow import AnswerError
from tests.integration.apps.listener import app as listener
from tests.support.processes import until

LISTENER = "tests.integration.apps.listener:app"
COUNT, RUNS, KILLS = 40, 4, 4

pytestmark = [pytest.mark.slow, pytest.mark.roles("producer", "operator")]


def test_killed_workers_lose_no_signal_and_one_answer_counts(url: str, start_worker, monkeypatch) -> None:
    monkeypatch.setenv("STEPFLOW_REDIS_URL", url)
    listener.close()
    runs = [listener.start("listen", {"count": COUNT}) for _ in range(RUNS)]
    workers = [start_worker(LISTENER, lease_ms=2_000, sticky=sticky) for sticky in (0, 100)]
    for part in range(KILLS):
        first, last = part * COUNT // KILLS, (part + 1) * COUNT // KILLS
        for run in runs:
            for n in range(first, last):
                run.signal("word", n, id=f"{run.id}-{n}")
        until(lambda: any(run.values().get("received", 0) > first for run in runs), what="some progress")  # noqa: B023
        workers.pop(0).kill()
        for run in runs:  # as a client that did not hear of the first
            assert run.signal("word", first, id=f"{run.id}-{first}") is False
        workers.append(start_worker(LISTENER, lease_ms=2_000))
    until(lambda: len(listener.asks()) == RUNS, seconds=90, what="all asks")
    accepted, refused = list[tuple[str, bool]](), list[tuple[str, bool]]()

    def answer(run_id: str, *, data: bool) -> None:
        try:
            listener.answer(run_id, "done", data, by=str(data))
            accepted.append((run_id, data))
        except AnswerError as error:
            refused.append((run_id, error.answered_by == str(not data)))

    both = [(run.id, data) for run in runs for data in (True, False)]
    threads = [threading.Thread(target=answer, args=[run_id], kwargs={"data": data}) for run_id, data in both]
    for thread in threads:
        thread.start()
    workers.pop(0).kill()
    for thread in threads:
        thread.join()
    assert sorted(run_id for run_id, _ in accepted) == sorted(run.id for run in runs)
    assert sorted(refused) == sorted((run.id, True) for run in runs)
    answers = dict(accepted)
    for run in runs:
        assert run.result(60) == [*range(COUNT), answers[run.id]]
        assert run.values() == {"received": COUNT}
    listener.close()
