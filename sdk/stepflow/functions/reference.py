"""References to functions whose code is not imported."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, overload

from typing_extensions import TypeVar

from stepflow.functions.invocable import Invocable
from stepflow.options.app_id import checked_app_id
from stepflow_engine.codec import Restore, adapter_for
from stepflow_engine.declared_types import refuse_unreadable_type
from stepflow_engine.errors import StepUsageError
from stepflow_engine.limits import check_id

__all__ = ["FunctionReference", "reference_function"]

I = TypeVar("I", default=Any)  # noqa: E741  input
O = TypeVar("O", default=Any)  # noqa: E741  output


@dataclass(frozen=True, slots=True, eq=False)
class FunctionReference(Invocable[I, O]):
    """A function of this or another app, identified by name; made by `reference_function`.

    Attributes:
        id: the function's id.
        app_id: the id of its app; ``None``: the app that uses the reference.
        output: the adapter that restores the result to the declared type; ``None``: plain JSON data.

    Example::

        pi = await ctx.step.invoke("pi", reference_function("compute-pi", app_id="maths"), data={"digits": 10})
    """

    id: str
    app_id: str | None
    output: Restore | None


@overload
def reference_function(
    function_id: str, *, app_id: str | None = None, input: type[I], output: type[O]
) -> FunctionReference[I, O]: ...
@overload
def reference_function(
    function_id: str, *, app_id: str | None = None, output: type[O]
) -> FunctionReference[Any, O]: ...
@overload
def reference_function(function_id: str, *, app_id: str | None = None, input: type[I]) -> FunctionReference[I, Any]: ...
@overload
def reference_function(function_id: str, *, app_id: str | None = None) -> FunctionReference[Any, Any]: ...
def reference_function(
    function_id: str, *, app_id: str | None = None, input: Any = None, output: Any = None
) -> FunctionReference[Any, Any]:
    """Refer to a function by its id, to invoke it without importing its code.

    Nothing is checked against the server until the function is invoked.

    Args:
        function_id: the function's id.
        app_id: the id of its app; ``None``: the app that invokes it.
        input: the type of its event's data; used by type checkers only.
        output: the type of its result; an invoke returns this type.

    Raises:
        StepUsageError: an id is one that no function can have, or the output has a type that does not come back.

    Example::

        compute_pi = reference_function("compute-pi", app_id="maths", input=Number, output=str)
    """
    del input  # known to type checkers only
    try:
        check_id(function_id, "reference_function: function_id")
        if app_id is not None:
            checked_app_id(app_id, "reference_function: app_id")
    except ValueError as error:
        raise StepUsageError(f'{error}: write reference_function("compute-pi", app_id="maths")') from None
    try:
        refuse_unreadable_type(output)
    except ValueError as error:
        raise StepUsageError(f"reference_function: output: {error}") from None
    return FunctionReference(function_id, app_id, adapter_for(output))
