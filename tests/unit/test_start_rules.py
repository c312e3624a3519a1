"""The rules for a start have the fields that the script reads."""

from __future__ import annotations

import re

from stepflow_broker.registry.cancellation import CancelConfig, CancellationConfig
from stepflow_broker.registry.flow_control import (
    BatchConfig,
    ConcurrencyConfig,
    DebounceConfig,
    FlowConfig,
    RateConfig,
    Rule,
    SingletonConfig,
    ThrottleConfig,
)
from stepflow_broker.registry.function_config import FunctionConfig
from stepflow_engine.cipher import NO_ENCRYPTION
from stepflow_engine.steps import event_text
from tests.unit.test_lua import LIBRARIES

EVENT = event_text("order/placed", id="e1", ts=1, data=b'{"shop":1}')
FLOW = FlowConfig(
    rate_limit=RateConfig(1, 1_000),
    throttle=ThrottleConfig(1, 1_000),
    debounce=DebounceConfig(1_000),
    singleton=SingletonConfig("skip"),
    concurrency=(ConcurrencyConfig(1),),
    idempotency="event.data.shop",
    priority="1",
    batch=BatchConfig(2, 1_000),
)
CANCELLATION = CancellationConfig((CancelConfig("order/cancelled"),), start_ms=1_000, finish_ms=2_000)


def sent() -> dict[str, set[str]]:
    """The fields of each kind of rule, as Python sends them."""
    event = {"name": "order/placed", "id": "e1", "ts": 1, "data": {"shop": 1}}
    rules = [
        *FLOW.rules("shop/buy", "shop", event, retention_ms=1),
        *CANCELLATION.rules(event, EVENT),
        Rule.of("skip", "why"),
        Rule.of("tags", "12 tag tenant=1"),
    ]
    return {rule.kind: set(rule.fields) for rule in rules}


def read() -> dict[str, set[str]]:
    """The fields of each kind of rule that the script reads."""
    found: dict[str, set[str]] = {}
    source = re.sub(r"--.*", "", LIBRARIES["start_rules"])
    for chunk in re.split(r"^(?=(?:local )?function )", source, flags=re.MULTILINE):
        head = re.match(
            r"(?:local )?function (?:(?:CHECK|APPLY|MEND)\.(\w+)|(?:start|join|find)_(batch)\b|(\w+))", chunk
        )
        fields = set(re.findall(r"\brule\.(\w+)", chunk)) - {"kind", "name"}
        if head and (kind := head[1] or head[2]):
            found[kind] = found.get(kind, set()) | fields
        else:
            assert not fields, f"{head and head[3]} reads {fields}: of which kind of rule?"
    return found


def test_each_kind_of_rule_has_the_fields_that_the_script_reads() -> None:
    assert sent() == read()


def test_rules_are_sent_with_the_names_and_the_number_of_their_fields() -> None:
    assert Rule.of("rate", "shop/buy", limit=3, period_ms=1_000).args == (
        ("rate", "shop/buy", 2, "limit", 3, "period_ms", 1_000)
    )
    config = FunctionConfig("shop", "buy", "shop", flow=FlowConfig(rate_limit=RateConfig(3, 1_000)), retention_ms=7)
    assert config.rules(EVENT, NO_ENCRYPTION) == (
        2,
        *("rate", "shop/buy", 2, "limit", 3, "period_ms", 1_000),
        *("field", "retention_ms", 1, "value", 7),
    )
