"""What a plain ``rq worker`` calls when it takes a step job: it cannot execute one, and says what can."""

from __future__ import annotations

from stepflow_engine.errors import ConfigurationError

__all__ = ["perform"]


def perform(job: str) -> None:
    """Refuse to execute a job. Nothing is lost: a stepflow worker puts it back within a minute.

    Raises:
        ConfigurationError: always.
    """
    raise ConfigurationError(
        f"job {job} is a step of a stepflow run, which a plain rq worker cannot execute: run stepflow-worker instead"
    )
