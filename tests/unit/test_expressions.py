"""Expressions: the same values as CEL gives, at a cost that grows with the event, and what is refused."""

from __future__ import annotations

import time
from typing import Any

import cel
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepflow import CancelOn, ConfigurationError, EventError, Stepflow
from stepflow_broker.registry.event_filter import EventFilter
from stepflow_broker.registry.function_config import EventConfig, FunctionConfig, starts
from stepflow_broker.transitions.runs.bulk_cancel import RunFilter
from stepflow_engine.cipher import NO_ENCRYPTION
from stepflow_engine.codec import dumps
from stepflow_engine.expression import ON_EVENT_AND_RUN, ExpressionCostError, condition, expression

SAME_OWNER = "event.data.items.all(i, i.owner == event.data.owner)"
LISTED = "event.data.items.all(i, i.owner in event.data.others)"
POISON: dict[str, Any] = {
    "owner": "a",
    "items": [{"owner": "a"}] * 34_000,
    "others": ["b"] * 30_000,
    "text": "x" * 9_999,
}
EXPRESSIONS = [
    SAME_OWNER,
    "event.data.total > 100",
    'event.data.plan == "pro" && has(event.data.email)',
    "has(event.data.a) && event.data.a.b > 1",
    "!has(event.data.a.b)",
    "event.data['k-1'] == 'a' || event.data.total > 5",
    "event.data.items.filter(i, i.price > 5).map(j, j.price).size() > 1",
    "event.data.items[0].owner == event.data.owner",
    "event.data[event.data.owner] == 1",
    'event["data"].owner in ["a", "b"]',
    "run.event.data.id == event.data.id",
    "event.data.items.exists(x, x.price > event.data.total + 1)",
    "event.data.missing == null",
    "{'a': event.data.total}.a > 3",
    "event.data.items.exists(i, event.data.owner == i.owner && has(event.data.email))",
    'event.ts > 5 && event.data.owner != "it\'s . event.data" // event.data.nothing',
    "event == run.event || event.data == {}",
    "event.data.a.all(k, k != event.name)",
    "[event.data.total, event.data.x].exists(v_0, v_0 == 7)",
    "event.data.owner + '-' + event.data.plan == 'a-pro'",
]
DATA = st.fixed_dictionaries(
    {},
    optional={
        "owner": st.sampled_from(["a", "b"]),
        "items": st.lists(
            st.fixed_dictionaries(
                {}, optional={"owner": st.sampled_from("ab"), "price": st.sampled_from([1, 7.5, "z"])}
            )
        ),
        **{
            name: st.sampled_from([1, 7, 200, "pro", "a", None, {"b": 2}, ["a"], True])
            for name in ("a", "email", "id", "k-1", "missing", "plan", "total", "x")
        },
    },
)


def event_of(data: Any) -> dict[str, Any]:
    return {"name": "a", "id": "e", "ts": 9, "data": data}


@pytest.mark.parametrize("text", EXPRESSIONS)
@settings(max_examples=60, deadline=None)
@given(data=DATA, of_run=DATA)
def test_a_bound_expression_has_the_value_that_cel_gives(text: str, data: Any, of_run: Any) -> None:
    given = {"event": event_of(data), "run": {"event": event_of(of_run)}}
    try:
        expected = cel.compile(text).execute(given)
    except (KeyError, TypeError, ValueError, RuntimeError, IndexError):
        expected = None
    assert expression(text, ON_EVENT_AND_RUN).value(**given) == expected


def test_a_macro_that_compares_with_the_event_costs_as_much_as_the_event_is_long() -> None:
    assert expression(SAME_OWNER).holds(event=event_of({"owner": "a", "items": [{"owner": "a"}]}))
    began = time.process_time()
    assert expression(SAME_OWNER).holds(event=event_of(POISON))
    assert time.process_time() - began < 3  # 188 s when each element copied the event


@pytest.mark.parametrize(
    "text",
    [
        LISTED,
        "event.data.items.filter(i, i.owner == 'b').size() > 0",
        "event.data.items.map(i, i.owner).size() > 0",
        "event.data.items.exists(i, event.data.text == i.owner)",
        "event.data.others.exists_one(i, event[i] == 1)",
        "event.data.others.exists(i, i in [" + ", ".join(["1"] * 1_000) + "])",
        "event.data.others.all(i, i != '" + "x" * 4_000 + "')",
        r"event.data.others.all(i, i.matches('\\w{1,100}'))",
        r"event.data.others.all(i, i.matches(r'(?i)\w+@\w+'))",
        "[event.data.text].map(i, i + i).map(i, i + i).map(i, i + i).map(i, i + i).map(i, i + i)"
        ".map(i, i + i).map(i, i + i).map(i, i + i).map(i, i + i).map(i, i + i).size() > 1",
    ],
)
def test_an_expression_that_an_event_makes_too_expensive_is_not_evaluated(text: str) -> None:
    began = time.process_time()
    with pytest.raises(ExpressionCostError, match="of at most 100,000,000"):
        expression(text).value(event=event_of(POISON))
    assert time.process_time() - began < 2


@pytest.mark.parametrize(
    "text",
    [
        "event.data.items.filter(i, i.owner == 'b').size() > 0",
        "event.data.items.map(i, i.owner + '/').size() > 0",
        "event.data.others.all(i, i.matches('^[a-z]+$'))",
        "event.data.items.all(i, i.owner in ['a', 'b', 'c'])",
        LISTED,
    ],
)
def test_a_list_of_a_thousand_elements_is_cheap_enough(text: str) -> None:
    data = {"items": [{"owner": "a"}] * 1_000, "others": ["b"] * 1_000}
    assert expression(text).value(event=event_of(data)) is not None


def test_each_place_that_takes_an_expression_bounds_it() -> None:
    event = event_of(POISON)
    function = FunctionConfig("shop", "f", "shop", (EventConfig("a", LISTED),))
    with pytest.raises(ExpressionCostError):
        starts(function, event)
    assert RunFilter(condition=LISTED).holds(dumps(event), NO_ENCRYPTION) is False
    with pytest.raises(ExpressionCostError):
        EventFilter("", [], LISTED, None).holds(dumps(event), NO_ENCRYPTION)
    app = Stepflow("shop")
    keyed = app.function("keyed", idempotency=f"{LISTED} ? 'a' : 'b'")(lambda ctx: None)
    with pytest.raises(EventError, match="would read or copy"):
        keyed.config.rules(dumps(event), NO_ENCRYPTION)
    assert b"skip" not in keyed.config.rules(dumps(event_of({"items": [], "others": []})), NO_ENCRYPTION)
    assert "skip" in keyed.config.rules_or_skip(dumps(event), NO_ENCRYPTION)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data.total > 100", "uses 'data', which does not exist: write event.data"),
        ("total > 100", "write event.data.total for a value"),
        ("evnt.data.total > 100", "uses 'evnt', which does not exist"),
        ("event.date.total > 100", "an event has no 'date', only name, data, id, ts"),
        ("event.total > 100", "write event.data.total"),
        ("has(event.total)", "an event has no 'total'"),
        ("event.data.items.all(i, j.owner == 1)", "uses 'j'"),
        ("event.data.items.all(i, true) && i == 1", "uses 'i'"),
        ("event.data.items.all(event, event == 1)", "as the variable of a macro"),
        ("run.event.data.id == 1", "only conditions of waits and of cancel_on can use run.event"),
        ("event.data.name.lower() == 'a'", "calls 'lower', which does not exist"),
        ("len(event.data.items) > 1", "calls 'len', which does not exist"),
        ("event.data.split(' ').size() > 1", "calls 'split'"),
        ("event.data.email.matches(event.data.pattern)", "the pattern of 'matches' must be one text"),
        ("event.data.emails.all(i, i.matches(i))", "the pattern of 'matches' must be one text"),
        ("event.data.email.matches('a' + event.data.pattern)", "the pattern of 'matches' must be one text"),
        ("1 > 2", "is never true"),
        ("'event.data.total > 100'", "is never true"),
    ],
)
def test_a_condition_that_can_never_hold_is_refused_where_it_is_written(text: str, message: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        condition(text)
    assert message in str(refused.value)
    app = Stepflow("shop")
    with pytest.raises(ConfigurationError):
        app.function("f", event="a", if_=text)
    if not text.startswith("run."):
        with pytest.raises(ConfigurationError):
            CancelOn("a", if_=text).to_config()
    with pytest.raises(ConfigurationError):
        app.cancel_many(if_=text)


def test_a_condition_of_a_wait_may_use_only_the_event_of_the_run() -> None:
    assert condition("run.event.data.id == event.data.id", ON_EVENT_AND_RUN)
    for text in ("run.id == event.data.run", "run.event.order == 1"):
        with pytest.raises(ConfigurationError, match=r"only run.event|only name, data"):
            condition(text, ON_EVENT_AND_RUN)
