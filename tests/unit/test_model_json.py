"""Models come back equal from JSON, and what has no JSON form is refused: secrets, files, None as a key."""

from __future__ import annotations

import dataclasses
import io
import tempfile
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, Field, SecretBytes, SecretStr, computed_field, field_serializer
from pydantic.alias_generators import to_camel

from stepflow import ConfigurationError, Context, EventError, Stepflow, StepOutputError
from stepflow_engine.codec import (
    adapter_for,
    dumps_event,
    dumps_output,
    loads,
    restore,
)
from stepflow_engine.declared_types import check_value, storable_adapter


class Camel(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel)
    first_name: str


class TwoAliases(BaseModel):
    total: int = Field(validation_alias="totalIn", serialization_alias="totalOut")


class ReadAlias(BaseModel):
    total: int = Field(validation_alias="totalIn")


class WrittenAlias(BaseModel):
    total: int = Field(serialization_alias="total-out")


class Area(BaseModel):
    model_config = ConfigDict(extra="forbid")
    w: int
    h: int

    @computed_field
    def area(self) -> int:
        return self.w * self.h


class Outer(BaseModel):
    parts: list[TwoAliases]
    area: Area | None = None


@dataclasses.dataclass
class Holder:
    one: WrittenAlias
    areas: list[Area]


class Login(BaseModel):
    user: str
    password: SecretStr


class Nested(BaseModel):
    logins: dict[str, list[Login]]


class Revealed(BaseModel):
    password: SecretStr

    @field_serializer("password")
    def reveal(self, value: SecretStr) -> str:
        return value.get_secret_value()


class Base(BaseModel):
    id: int


class Child(Base):
    extra: str


AREA = Area(w=2, h=3)
TWO = TwoAliases(totalIn=3)
EQUAL: list[tuple[Any, Any]] = [
    (Camel, Camel(firstName="a")),
    (TwoAliases, TWO),
    (ReadAlias, ReadAlias(totalIn=3)),
    (WrittenAlias, WrittenAlias(total=3)),
    (Area, AREA),
    (list[Area], [AREA, AREA]),
    (dict[str, TwoAliases], {"a": TWO}),
    (Outer, Outer(parts=[TWO, TWO], area=AREA)),
    (Holder, Holder(WrittenAlias(total=1), [AREA])),
    (Revealed, Revealed(password=SecretStr("hunter2"))),
]


@pytest.mark.parametrize(("annotation", "value"), EQUAL, ids=lambda value: f"{value!r:.30}")
def test_a_model_comes_back_equal(annotation: Any, value: Any) -> None:
    text = dumps_output(value, what="step 's'", limit_bytes=10_000)
    assert restore(adapter_for(annotation), loads(text), what="step 's'") == value
    assert dumps_event(value, limit_bytes=10_000) == text


def test_a_model_that_reads_what_it_writes_is_stored_as_it_writes_itself() -> None:
    class Plain(BaseModel):
        w: int

        @computed_field
        def double(self) -> int:
            return 2 * self.w

    assert loads(dumps_output(Camel(firstName="a"), what="s", limit_bytes=99)) == {"firstName": "a"}
    assert loads(dumps_output(Plain(w=2), what="s", limit_bytes=99)) == {"w": 2, "double": 4}


@dataclasses.dataclass
class Upload:
    file: Any


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "secret": (lambda: SecretStr("x"), "SecretStr would be stored as"),
    "bytes": (lambda: {"a": [SecretBytes(b"x")]}, "SecretBytes would be stored as"),
    "model": (lambda: Login(user="a", password=SecretStr("x")), "SecretStr would be stored as"),
    "nested": (lambda: [Nested(logins={"a": [Login(user="a", password=SecretStr("x"))]})], "would be stored as"),
    "dataclass": (lambda: Upload(SecretStr("x")), "SecretStr would be stored as"),
    "set": (lambda: {SecretStr("x")}, "SecretStr would be stored as"),
    "bytes file": (lambda: io.BytesIO(b"x"), "is an open file or stream: read it"),
    "text file": (lambda: {"f": io.StringIO("x")}, "is an open file or stream"),
    "temporary file": (tempfile.NamedTemporaryFile, "is an open file or stream"),
    "file in a dataclass": (lambda: Upload(io.BytesIO(b"x")), "is an open file or stream"),
    "None key": (lambda: {None: 1}, "None is a key"),
    "inner None key": (lambda: {"a": [{None: 1, "null": 2}]}, "None is a key"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_would_come_back_as_something_else_is_refused(case: str) -> None:
    make, text = REFUSED[case]
    with pytest.raises(StepOutputError, match=text):
        dumps_output(make(), what="step 's'", limit_bytes=10_000)
    with pytest.raises(EventError, match=text):
        dumps_event(make(), limit_bytes=10_000)


@pytest.mark.parametrize("annotation", [SecretStr, Login, list[Login], dict[str, Nested], Login | None])
def test_a_return_type_with_a_secret_is_refused_before_anything_is_executed(annotation: Any) -> None:
    def handler() -> None: ...

    async def function(ctx: Context) -> None: ...

    handler.__annotations__["return"] = function.__annotations__["return"] = annotation
    with pytest.raises(ValueError, match="secret"):
        storable_adapter(handler)
    with pytest.raises(ConfigurationError, match="function 'f': the result has the secret"):
        Stepflow("shop").function("f")(function)


def test_other_return_types_are_accepted() -> None:
    for annotation in (None, str, Revealed, list[Area], "Unknown", {}):

        def handler() -> None: ...

        handler.__annotations__["return"] = annotation
        storable_adapter(handler)


@pytest.mark.parametrize(
    ("annotation", "value"), [(Base, Child(id=1, extra="e")), (list[Base], [Base(id=1), Child(id=2, extra="e")])]
)
def test_a_subclass_whose_fields_would_be_lost_is_refused(annotation: Any, value: Any) -> None:
    data, adapter = loads(dumps_output(value, what="step 's'", limit_bytes=999)), adapter_for(annotation)
    assert adapter is not None
    with pytest.raises(StepOutputError, match=r"step 's': a Child would lose its fields extra as a Base at \$"):
        check_value(adapter, value, data, what="step 's'")
