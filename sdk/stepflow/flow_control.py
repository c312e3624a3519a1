"""Flow control: how many runs of a function may start."""

from __future__ import annotations

from dataclasses import dataclass

from stepflow_broker.functions import RateConfig
from stepflow_engine.durations import Duration, duration_ms
from stepflow_engine.errors import ConfigurationError

__all__ = ["RateLimit"]


@dataclass(frozen=True, slots=True)
class RateLimit:
    """At most ``limit`` runs start in any span of ``period``; those over it are skipped.

    A skipped run is kept with its reason; who invoked it gets `InvokeSkippedError`.

    Attributes:
        limit: how many; 1 or more.
        period: the span.
        key: a path into the event, such as ``"event.data.user_id"``: each value has a limit of its own.
    """

    limit: int
    period: Duration
    key: str | None = None

    def to_config(self) -> RateConfig:
        """What the registry is told.

        Raises:
            ConfigurationError: a value is out of range.
        """
        if isinstance(self.limit, bool) or not isinstance(self.limit, int) or self.limit < 1:
            raise ConfigurationError(f"the limit of a RateLimit must be a whole number from 1, not {self.limit!r}")
        if self.key is not None and not self.key.startswith("event."):
            raise ConfigurationError(
                f"the key of a RateLimit must be a path into the event, as event.data.user_id, not {self.key!r}"
            )
        try:
            period_ms = duration_ms(self.period, name="the period of a RateLimit")
        except ValueError as error:
            raise ConfigurationError(str(error)) from None
        if not period_ms:
            raise ConfigurationError("the period of a RateLimit must be longer than 0")
        return RateConfig(self.limit, period_ms, self.key or "")
