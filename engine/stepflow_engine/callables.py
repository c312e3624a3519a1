"""Callables of the user: the function behind partials, methods, callable objects and decorators."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from types import FunctionType
from typing import Any, TypeGuard

__all__ = ["function_behind", "is_async_callable", "undecorated"]


def function_behind(handler: Callable[..., Any]) -> Callable[..., Any]:
    """The function that a call executes: that of a partial, a bound method, or an object with ``__call__``."""
    while isinstance(handler, functools.partial):
        handler = handler.func
    if not (inspect.isroutine(handler) or inspect.isclass(handler)):
        handler = inspect.getattr_static(type(handler), "__call__", handler)
    function: Callable[..., Any] = getattr(handler, "__func__", handler)
    return function


def undecorated(handler: Callable[..., Any]) -> Callable[..., Any]:
    """The function that decorators with `functools.wraps` have wrapped. Its annotations are those of the handler."""
    if _is_plain(handler) and getattr(handler, "__wrapped__", None) is None:  # nearly all are, and each step asks
        return handler
    function = function_behind(handler)
    try:
        innermost: Callable[..., Any] = inspect.unwrap(function)
    except ValueError:  # it wraps itself
        return function
    return innermost


def is_async_callable(handler: Callable[..., Any]) -> bool:
    """Whether a call of ``handler`` returns a coroutine, as far as its definition says so."""
    if _is_plain(handler) and handler.__code__.co_flags & inspect.CO_COROUTINE:  # nearly all are, and each step asks
        return True
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(function_behind(handler))


def _is_plain(handler: Callable[..., Any]) -> TypeGuard[FunctionType]:
    return type(handler) is FunctionType
