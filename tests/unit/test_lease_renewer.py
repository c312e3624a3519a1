"""The lease renewer, without a server: what it does while the event loop does not run."""

from __future__ import annotations

import logging
import time
import traceback
from types import SimpleNamespace

import pytest

from stepflow_broker.protocol.keys import Keys
from stepflow_broker.protocol.partition import Partition
from stepflow_engine.cipher import NO_ENCRYPTION
from stepflow_workers.liveness import lease_renewer
from stepflow_workers.liveness.lease_renewer import LeaseRenewer, blocking_line
from stepflow_workers.liveness.lease_table import BLOCKED_LIMIT_S, LeaseTable


class Renewer(LeaseRenewer):
    """A renewer that counts what it would extend."""

    def __init__(self) -> None:
        self.renewed: list[float] = []
        self.executing: dict[str, tuple[str, str, int]] = {}
        table = SimpleNamespace(renewed=self.renewed.append)
        super().__init__(
            "redis://127.0.0.1:1/0",
            Partition.first_of(Keys(), NO_ENCRYPTION),
            {"job": SimpleNamespace(job="job", fence=1)},  # type: ignore[arg-type]
            executing=self.executing,
            lease_sidecar=SimpleNamespace(table=table),  # type: ignore[arg-type]
            lease_ms=10_000,
            heartbeat=lambda: None,
            lost=lambda jobs: None,
            call_in_loop=lambda call: None,
        )
        self.extended = 0
        self.reports: list[str] = []

    def _extend_part(self, partition: Partition, leases: list[tuple[str, int]]) -> None:
        self.extended += len(leases)
        self.reports += [self._report_on(job) for job, _ in leases]

    def tick(self) -> list[str]:
        """One tick without an extension that is due: the reports that it sends."""
        self.reports.clear()
        self._see_steps()
        self._report_steps()
        return list(self.reports)


@pytest.fixture
def renewer() -> Renewer:
    return Renewer()


def test_leases_are_extended_while_the_loop_is_blocked_for_less_than_the_limit(renewer: Renewer) -> None:
    renewer._blocked_since = time.monotonic() - BLOCKED_LIMIT_S + 5
    renewer._extend()
    assert renewer.extended == 1


def test_leases_are_given_up_after_the_limit_and_the_sidecar_does_not_take_over(
    renewer: Renewer, caplog: pytest.LogCaptureFixture
) -> None:
    renewer._blocked_since = time.monotonic() - BLOCKED_LIMIT_S - 5
    with caplog.at_level(logging.ERROR, lease_renewer.__name__):
        renewer._extend()
        renewer._extend()
    assert renewer.extended == 0
    assert len(renewer.renewed) == 2
    assert [record.message for record in caplog.records] == ["leases_given_up"]


def test_a_loop_that_runs_again_has_its_leases_extended(renewer: Renewer) -> None:
    renewer._blocked_since = time.monotonic() - BLOCKED_LIMIT_S - 5
    renewer._extend()
    renewer.loop_alive()
    renewer._extend()
    assert renewer.extended == 1


def test_a_blocked_loop_is_reported_at_the_line_of_the_user() -> None:
    def line(file: str) -> traceback.FrameSummary:
        return traceback.FrameSummary(file, 1, "f", lookup_line=False, line="x")

    library, ours = line(traceback.__file__), line(lease_renewer.__file__)
    users, installed = line("/srv/shop/flows.py"), line(pytest.__file__)
    frozen = line("<frozen importlib._bootstrap>")
    assert blocking_line([library, ours, users, ours, installed, library, frozen]) == (users, frozen)
    assert blocking_line([library, users]) == (users, users)
    assert blocking_line([library, installed]) == (installed, installed)


# -- steps that execute --------------------------------------------------------------


def test_a_step_is_reported_once_out_of_turn_and_then_with_each_extension(renewer: Renewer) -> None:
    renewer.executing["job"] = ("key", "charge", 17)
    assert [renewer.tick() for _ in range(5)] == [[], [], ["17 key charge"], [], []]
    renewer.reports.clear()
    renewer._extend()
    assert renewer.reports == ["17 key charge"]


def test_short_steps_are_never_reported(renewer: Renewer) -> None:
    for number in range(10):
        renewer.executing["job"] = ("key", f"step {number}", 17)
        assert [renewer.tick() for _ in range(2)] == [[], []]
    renewer._extend()
    assert renewer.reports == [""]


def test_a_step_of_a_lease_that_is_lost_is_not_reported(renewer: Renewer) -> None:
    renewer.executing["other"] = ("key", "charge", 17)
    assert [renewer.tick() for _ in range(4)] == [[], [], [], []]
    assert renewer.extended == 0


def test_leases_that_are_given_up_are_not_extended_by_a_report(renewer: Renewer) -> None:
    renewer._blocked_since = time.monotonic() - BLOCKED_LIMIT_S - 5
    renewer.executing["job"] = ("key", "charge", 17)
    assert [renewer.tick() for _ in range(4)] == [[], [], [], []]
    assert renewer.extended == 0


def test_the_sidecar_reads_a_half_written_job_as_one_that_does_not_exist() -> None:
    table = LeaseTable(LeaseTable.make_file())
    table.put("job", 7)
    table._memory[128 + 9] = 0xFF
    [(job, fence)] = table.leases()
    assert (job, fence) == ("\ufffdob", 7)
    table.close()
