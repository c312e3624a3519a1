"""Tags: their names and values, and how a run stores them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepflow import ConfigurationError, Context, EventError, Stepflow
from stepflow_broker.registry.function_config import FunctionConfig
from stepflow_broker.registry.tags import (
    TagConfig,
    check_tag_name,
    error_group_of,
    pack_subjects,
    tag_subject,
    tag_value,
    tags_of,
    unpack_subjects,
)
from stepflow_engine.cipher import NO_ENCRYPTION
from stepflow_engine.codec import dumps


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a b", "a b"),
        (17, "17"),
        (-1, "-1"),
        (True, "true"),
        (False, "false"),
        ("é" * 64, "é" * 64),
        (2**64, str(2**64)),
    ],
)
def test_a_value_is_a_text(value: object, text: str) -> None:
    assert tag_value("tenant", value) == text


@pytest.mark.parametrize(
    "value", ["", "x" * 129, "é" * 65, 1.5, None, [1], {"a": 1}, b"x", "\ud800", 10**100, -(10**100)]
)
def test_other_values_are_refused(value: object) -> None:
    with pytest.raises(ValueError, match="tag tenant: the value must"):
        tag_value("tenant", value)


def test_an_integer_that_cannot_be_shown_is_refused() -> None:
    with pytest.raises(ValueError, match="an integer of at most 100 digits"):
        tag_value("tenant", 10**10_000)


@pytest.mark.parametrize("name", ["", "1a", "a b", "a=b", "ä", "x" * 65, "a\n", None, 7])
def test_other_names_are_refused(name: object) -> None:
    with pytest.raises(ValueError, match="the name of a tag must have 1 to 64 letters"):
        check_tag_name(name)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]))))
def test_subjects_are_read_as_they_were_written(subjects: list[str]) -> None:
    assert unpack_subjects(pack_subjects(subjects).encode()) == subjects


@given(st.binary())
def test_what_is_damaged_raises_nothing(packed: bytes) -> None:
    tags_of(unpack_subjects(packed))


def test_tags_and_the_group_of_an_error_are_told_apart() -> None:
    subjects = [tag_subject("a", "1=2"), "error 0123", tag_subject("b", "error 45")]
    assert tags_of(subjects) == {"a": "1=2", "b": "error 45"}
    assert error_group_of(subjects) == "0123"
    assert error_group_of(subjects[:1]) == ""


def test_a_function_without_tags_sends_no_rule() -> None:
    config = FunctionConfig("shop", "buy", "shop")
    assert config.rules(b"not read", NO_ENCRYPTION) == config.rules_or_skip(b"not read", NO_ENCRYPTION) == (0,)


def test_the_rule_has_the_subjects_of_the_tags_that_the_event_has() -> None:
    named = {"tenant": "event.data.tenant", "big": "event.data.total > 5", "no": "event.no"}
    tags = tuple(TagConfig(name, value) for name, value in named.items())
    config = FunctionConfig("shop", "buy", "shop", tags=tags)
    event = dumps({"name": "e", "id": "1", "ts": 1, "data": {"tenant": "é", "total": 6}})
    assert config.rules(event, NO_ENCRYPTION) == (1, "tags", "13 tag tenant=é12 tag big=true", 0)
    assert FunctionConfig.from_json(config.to_json()) == config


def test_a_value_that_cannot_be_a_tag_is_refused_or_left_out(caplog: pytest.LogCaptureFixture) -> None:
    config = FunctionConfig("shop", "buy", "shop", tags=(TagConfig("a", "event.data"), TagConfig("b", "event.name")))
    event = dumps({"name": "e", "id": "1", "ts": 1, "data": [1]})
    with pytest.raises(EventError, match="function shop/buy: tag a: the value must be text, an integer or a boolean"):
        config.rules(event, NO_ENCRYPTION)
    for lenient in (config.rules_or_skip, config.rules_of_event):
        assert lenient(event, NO_ENCRYPTION) == (1, "tags", "7 tag b=e", 0)
    assert [record.message for record in caplog.records] == ["tag_left_out"] * 2


@pytest.mark.parametrize(
    ("tags", "text"),
    [
        ({f"t{n}": "event.id" for n in range(6)}, "a function may declare at most 5, got 6"),
        ({"a b": "event.id"}, "the name of a tag must have"),
        ({"a": "event.data ="}, "tags: a: expression"),
        ({"a": 7}, "tags: a: expression must be non-empty text"),
        (["tenant"], "tags must be a mapping"),
    ],
)
def test_a_wrong_declaration_is_refused(tags: dict[str, str], text: str) -> None:
    app = Stepflow("shop")
    with pytest.raises(ConfigurationError, match=text):

        @app.function("buy", tags=tags)
        async def buy(ctx: Context) -> None: ...
