"""The function that a plain ``rq worker`` calls for a step job. It fails, and names the command that can execute it."""

from __future__ import annotations

from stepflow_engine.errors import ConfigurationError
from stepflow_engine.product import NAME, WORKER_PROGRAM

__all__ = ["perform"]


def perform(job: str) -> None:
    """Refuse to execute a job. The job is not lost: a stepflow worker requeues it within a minute.

    Raises:
        ConfigurationError: always.
    """
    raise ConfigurationError(
        f"job {job} is a step of a {NAME} run, which a plain rq worker cannot execute: run {WORKER_PROGRAM} instead"
    )
