"""Names of functions: from what a caller passes to an app id and a function id, and to the registered settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stepflow.functions.function import Function
from stepflow.options.app_id import checked_app_id
from stepflow_broker.registry.function_config import FunctionConfig
from stepflow_engine.errors import ConfigurationError, FunctionNotFoundError
from stepflow_engine.failure import Failure
from stepflow_engine.limits import Limits, check_id

__all__ = ["DeclaredFunctions", "local_config", "parse_name", "require_config", "split_name"]


@dataclass(frozen=True, slots=True)
class DeclaredFunctions:
    """The functions that a process has declared for an app, and the limits of the app."""

    app_id: str
    functions: Mapping[str, Function[Any, Any]]
    limits: Limits

    def find(self, app_id: str, function: str) -> Function[Any, Any] | None:
        """A function, if this process has declared it."""
        return self.functions.get(function) if app_id == self.app_id else None


def parse_name(function: Any, app_id: str) -> tuple[str, str]:
    """The app id and the function id of a function, an id of this app, or ``"app/function"``. Ids are not checked.

    Raises:
        ConfigurationError: ``function`` is neither a function nor text.
    """
    if isinstance(function, Function):
        return function.app_id, function.id
    if not isinstance(function, str):
        raise ConfigurationError(f"function must be a function or an id, got {type(function).__name__}")
    app, slash, name = function.partition("/")
    return (app, name) if slash else (app_id, function)


def split_name(function: Any, app_id: str) -> tuple[str, str]:
    """As `parse_name`, with ids that a function can have.

    Raises:
        ConfigurationError: ``function`` is neither a function nor text.
        FunctionNotFoundError: no function can have this id.
    """
    app, name = parse_name(function, app_id)
    try:
        return checked_app_id(app), check_id(name, "function id")
    except ValueError as error:
        raise _not_found(str(function), str(error)) from None


def local_config(function: Any, app_id: str, functions: Mapping[str, Function[Any, Any]]) -> FunctionConfig | None:
    """The settings of a function that this process has declared; ``None``: only the registry can know it."""
    if isinstance(function, Function):
        return function.config
    app, name = split_name(function, app_id)
    return functions[name].config if app == app_id and name in functions else None


def require_config(function: str, config: FunctionConfig | None) -> FunctionConfig:
    """The settings that the registry has returned.

    Raises:
        FunctionNotFoundError: the registry has no such function.
    """
    if config is None:
        raise _not_found(function, "no worker has registered it; start its worker first")
    return config


def _not_found(function: str, why: str) -> FunctionNotFoundError:
    failure = Failure("FunctionNotFoundError", f"could not find function with ID: {function}: {why}")
    return FunctionNotFoundError("", failure, function_id=function)
