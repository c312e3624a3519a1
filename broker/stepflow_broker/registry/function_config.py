"""The configuration of a function as Redis stores it, and the rules that it gives each start of a run."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any

from stepflow_broker.protocol.command import Arg
from stepflow_broker.registry.cancellation import CancellationConfig
from stepflow_broker.registry.crons import CronConfig
from stepflow_broker.registry.flow_control import DeclaredLimit, FlowConfig, RateConfig, Rule, known
from stepflow_broker.registry.tags import TagConfig, pack_subjects
from stepflow_engine.cipher import Cipher
from stepflow_engine.codec import dumps, loads
from stepflow_engine.encryption_scopes import open_event, read_event
from stepflow_engine.errors import ConfigurationError, EventError
from stepflow_engine.expression import ExpressionCostError, expression
from stepflow_engine.ids import partition_prefix_for
from stepflow_engine.product import WORKER_LOGGER
from stepflow_engine.run_overrides import RunOverrides

__all__ = ["DEDUPE_MS", "EventConfig", "FunctionConfig", "starts"]

_log = logging.getLogger(WORKER_LOGGER)
_RETENTION_MS = 7 * 24 * 3600 * 1000
DEDUPE_MS = 24 * 3600 * 1000
"""The minimum time for which an event id or a run id prevents a second start: 24 hours."""


@dataclass(frozen=True, slots=True)
class EventConfig:
    """An event that starts a function.

    Attributes:
        name: the name of the event. ``*`` at the end matches any rest.
        condition: a CEL expression on ``event`` that must be true; ``""``: none.
    """

    name: str
    condition: str = ""

    def takes(self, name: str) -> bool:
        """Whether the name of the trigger matches the name of an event."""
        return name.startswith(self.name[:-1]) if self.name.endswith("*") else name == self.name


@dataclass(frozen=True, slots=True)
class FunctionConfig:
    """The registered part of a function: everything but its code.

    Attributes:
        app, id: its name.
        queue: the queue of its jobs.
        events, crons: what starts it.
        retries: attempts after the first.
        flow: its flow control; ``None``: none.
        cancellation: events and times that cancel its runs; ``None``: none.
        retention_ms: how long an ended run is kept, in milliseconds.
        tags: the tags of its runs.
        options: those of one start; see `with_options`. They are not registered.
        pinned: whether a run is executed only by workers of the release that has started it.
        release: of a pinned function, that of the worker which has registered it last; ``""``: it is not registered.
    """

    app: str
    id: str
    queue: str
    events: tuple[EventConfig, ...] = ()
    retries: int = 4
    flow: FlowConfig | None = None
    retention_ms: int = _RETENTION_MS
    crons: tuple[CronConfig, ...] = ()
    cancellation: CancellationConfig | None = None
    tags: tuple[TagConfig, ...] = ()
    options: RunOverrides | None = None
    pinned: bool = False
    release: str = ""

    @property
    def name(self) -> str:
        """``app/id``."""
        return f"{self.app}/{self.id}"

    @property
    def pinned_partition(self) -> str:
        """The partition of all its runs, as the first digits of their ids; ``""``: any partition."""
        return _pinned_prefix(self.flow, self.name, self.app) if self.flow else ""

    @property
    def rate_limit(self) -> RateConfig | None:
        """Its rate limit, if it has one."""
        return self.flow.rate_limit if self.flow else None

    @property
    def triggers(self) -> tuple[str, ...]:
        """Its triggers as text for people."""
        events = (f"{event.name} if {event.condition}" if event.condition else event.name for event in self.events)
        return (*events, *(cron.text for cron in self.crons))

    def to_json(self) -> bytes:
        """The stored form."""
        stored = {**asdict(self), "crons": [cron.to_json() for cron in self.crons]}
        del stored["options"]
        return dumps(stored)

    @classmethod
    def from_json(cls, text: bytes) -> FunctionConfig:
        """Read the stored form. Unknown fields, of a newer stepflow, are ignored."""
        value = loads(text)
        flow, cancellation = value.get("flow"), value.get("cancellation")
        return cls(
            value["app"],
            value["id"],
            value["queue"],
            tuple(known(EventConfig, event) for event in value.get("events", ())),
            value.get("retries", 4),
            FlowConfig.from_json(flow) if flow else None,
            value.get("retention_ms", _RETENTION_MS),
            tuple(known(CronConfig, cron) for cron in value.get("crons", ())),
            CancellationConfig.from_json(cancellation) if cancellation else None,
            tuple(known(TagConfig, tag) for tag in value.get("tags", ())),
            pinned=bool(value.get("pinned", False)),
            release=str(value.get("release", "")),
        )

    def with_options(self, options: RunOverrides | None) -> FunctionConfig:
        """The settings for one start with these options; ``None``: it has none.

        Raises:
            EventError: the function executes batches, whose runs share one queue and one end.
        """
        if options is None:
            return self
        flow, cancellation = self.flow, self.cancellation
        if flow and flow.batch:
            raise EventError(
                f"function {self.name} executes several runs as one batch, so one start has no options of its own: "
                "set them on the function"
            )
        if flow and options.priority_ms is not None:
            flow = replace(flow, priority="")
        if options.start_ms or options.finish_ms:
            known = cancellation or CancellationConfig()
            start_ms, finish_ms = options.start_ms or known.start_ms, options.finish_ms or known.finish_ms
            cancellation = replace(known, start_ms=start_ms, finish_ms=finish_ms)
        return replace(
            self,
            queue=options.queue or self.queue,
            retention_ms=self.retention_ms if options.retention_ms is None else options.retention_ms,
            flow=flow,
            cancellation=cancellation,
            options=options,
        )

    def rules(self, event: bytes, cipher: Cipher, *, repeats: bool = False) -> tuple[Arg, ...]:
        """The rules for the start of a run by an event, as a script reads them: their number, then `Rule.args` of each.

        Args:
            event: the event as JSON text.
            repeats: whether the run repeats another on purpose, so that its idempotency key does not count.

        Raises:
            EventError: the event has no value for a key, or a value that a tag cannot have.
            DecryptionError: the event's data is needed, and cannot be decrypted.
        """
        if not self._has_rules:
            return (0,)
        opened = open_event(cipher, read_event(event))
        rules = [*self._rules(event, opened), *self._tags(opened)]
        return self._rule_args(rule for rule in rules if not (repeats and rule.kind == "idempotency"))

    def rules_or_skip(self, event: bytes, cipher: Cipher) -> tuple[Arg, ...]:
        """As `rules`, for events without a caller to report errors to.

        A run whose rules fail is skipped. A tag whose value is invalid is left out.
        """
        return self._rules_or_skip(event, cipher)

    def rules_of_event(self, event: bytes, cipher: Cipher) -> tuple[Arg, ...]:
        """As `rules_or_skip`, for an event that can be set aside.

        Raises:
            ExpressionCostError: the event makes a key too expensive to evaluate.
        """
        return self._rules_or_skip(event, cipher, passed=ExpressionCostError)

    def _rules_or_skip(
        self, event: bytes, cipher: Cipher, *, passed: type[Exception] | tuple[()] = ()
    ) -> tuple[Arg, ...]:
        """As `rules_or_skip`; ``passed`` is the kind of error that it raises."""
        if not self._has_rules:
            return (0,)
        opened = open_event(cipher, read_event(event))
        tags = self._tags(opened, log=True)
        try:
            return self._rule_args([*self._rules(event, opened), *tags])
        except passed:
            raise
        except (EventError, ConfigurationError) as error:
            return self._rule_args([Rule("skip", str(error)), *tags])

    def declared_limits(self) -> list[DeclaredLimit]:
        """Its limits that can be changed by hand."""
        return list(self.flow.declared_limits(self.name, self.app)) if self.flow else []

    def limit_names(self, event: dict[str, Any]) -> list[str]:
        """The names of the concurrency limits of a run by an event."""
        return [name for _, name in self.flow.limits(self.name, self.app, event)] if self.flow else []

    @property
    def _has_rules(self) -> bool:
        return self._keeps_retention or bool(self.tags) or self.pinned

    @property
    def _keeps_retention(self) -> bool:
        """Whether its runs store how long they are kept."""
        return self.flow is not None or self.cancellation is not None or self.options is not None

    def _rules(self, stored: bytes, event: dict[str, Any]) -> Iterator[Rule]:
        if self.flow:
            yield from self.flow.rules(self.name, self.app, event, retention_ms=self.retention_ms)
        if self.cancellation:
            yield from self.cancellation.rules(event, stored)
        if self.pinned:
            yield Rule.of("field", "pinned", value=1)
        if self.options:
            yield Rule.of("field", "options", value=self.options.to_json())
            if self.options.priority_ms is not None:
                yield Rule.of("field", "priority_ms", value=self.options.priority_ms)

    def _tags(self, event: dict[str, Any], *, log: bool = False) -> list[Rule]:
        """The rule for the tags of a run; empty: it has none.

        Raises:
            EventError: a tag cannot have its value, and ``log`` is false.
        """
        subjects = []
        for tag in self.tags:
            try:
                subject = tag.subject(event)
            except (ValueError, EventError, ConfigurationError) as error:
                if not log:
                    raise EventError(f"function {self.name}: {error}: send another value, or declare no tag") from None
                _log.warning("tag_left_out", extra={"function": self.name, "tag": tag.name, "error": str(error)})
            else:
                subjects += [subject] if subject else []
        return [Rule.of("tags", pack_subjects(subjects))] if subjects else []

    def _rule_args(self, rules: Iterable[Rule]) -> tuple[Arg, ...]:
        found = list(rules)
        if self._keeps_retention:
            found.append(Rule.of("field", "retention_ms", value=self.retention_ms))
        return (len(found), *[arg for rule in found for arg in rule.args])


@lru_cache
def _pinned_prefix(flow: FlowConfig, name: str, app: str) -> str:
    pinned = flow.pinned_partition(name, app)
    return partition_prefix_for(pinned) if pinned else ""


def starts(config: FunctionConfig, event: dict[str, Any]) -> bool:
    """Whether an event starts a function: a trigger matches its name, and the condition of the trigger is true.

    Raises:
        ExpressionCostError: the event makes a condition too expensive to evaluate.
    """
    return any(trigger.takes(event["name"]) and _holds(config, trigger, event) for trigger in config.events)


def _holds(config: FunctionConfig, trigger: EventConfig, event: dict[str, Any]) -> bool:
    try:
        return not trigger.condition or expression(trigger.condition).holds(event=event)
    except ConfigurationError as error:  # written by another version of stepflow
        _log.error("trigger_not_readable", extra={"function": config.name, "error": str(error)})
        return False
