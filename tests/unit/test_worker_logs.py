"""The log of a worker, beside what apps configure themselves."""

from __future__ import annotations

import logging
import logging.config
import threading
import time
from collections.abc import Iterator
from unittest.mock import Mock

import pytest

from stepflow_broker.protocol.partition import Partition
from stepflow_broker.redis_client.partitions import partition_for
from stepflow_engine.cipher import NO_ENCRYPTION
from stepflow_engine.product import NAME, WORKER_LOGGER
from stepflow_workers.liveness import lease_renewer
from stepflow_workers.liveness.lease_renewer import LeaseRenewer
from stepflow_workers.logs import configure_logging


@pytest.fixture
def own_logger() -> Iterator[logging.Logger]:
    logger = logging.getLogger(NAME)
    before = (logger.handlers, logger.level, logger.propagate)
    yield logger
    logger.handlers, logger.level, logger.propagate = before
    logger.disabled = logging.getLogger(WORKER_LOGGER).disabled = False


def test_an_app_that_disables_all_loggers_does_not_silence_the_worker(
    own_logger: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in (NAME, WORKER_LOGGER):
        logging.getLogger(name).disabled = True  # as dictConfig does with all that exist
    configure_logging("INFO")
    logging.getLogger(WORKER_LOGGER).info("worker_started")
    assert "worker_started" in capsys.readouterr().err


def test_a_server_that_hangs_does_not_count_as_a_blocked_loop(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(lease_renewer, "_TICK_S", 0.01)
    partition: Partition = partition_for("redis://127.0.0.1:6379/0", NO_ENCRYPTION)
    hung = threading.Event()

    def hang() -> None:
        time.sleep(2.0)
        hung.set()

    renewer = LeaseRenewer(
        "redis://127.0.0.1:6379/0",
        partition,
        Mock(values=list),
        executing={},
        lease_sidecar=Mock(),
        lease_ms=10_000,
        heartbeat=hang,
        lost=Mock(),
        call_in_loop=lambda callback: callback(),
    )
    renewer.start()
    assert hung.wait(10)
    time.sleep(0.2)
    renewer.stop()
    assert "loop_blocked" not in caplog.text
