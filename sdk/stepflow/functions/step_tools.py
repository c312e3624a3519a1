"""The step tools of ``async def`` functions: ``ctx.step``."""

from __future__ import annotations

from typing import Unpack

from stepflow.functions.steps.child_steps import ChildSteps
from stepflow.functions.steps.event_steps import EventSteps
from stepflow.functions.steps.handler_calls import HandlerCalls
from stepflow.functions.steps.map_steps import MapSteps
from stepflow.functions.steps.wait_steps import WaitSteps
from stepflow.options.step import StepOptions, step_settings

__all__ = ["StepTools"]


class StepTools(MapSteps, ChildSteps, WaitSteps, EventSteps, HandlerCalls):
    """``ctx.step`` of an ``async def`` function. Each call is a step: executed, stored and retried independently.

    The result of a step is stored in Redis as a memo. After a crash, a worker runs the code again from the start, and
    each step that has a memo returns it without being executed.

    Example::

        urls = await ctx.step.run("copy", copy_images, ctx.event.data["urls"])
        await ctx.step.sleep("pause", "1m")
    """

    def with_options(self, **options: Unpack[StepOptions]) -> StepTools:
        """The same step tools with other options for the calls made with them.

        Args:
            options: how the steps are executed: `StepOptions`.

        Raises:
            TypeError: there is no such option.
            ValueError: a value is out of range, a memory limit is set for a handler that is not isolated, or
                ``cache_key`` is set without ``cache``.
            ConfigurationError: a value of the `Retry` is out of range.

        Example::

            await ctx.step.with_options(retries=0, timeout="10s").run("charge", charge, order)
        """
        return StepTools(
            self._execution,
            app_id=self._app_id,
            event=self._event,
            limits=self._limits,
            settings=step_settings(self._settings, options),
        )
