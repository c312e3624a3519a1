"""The client: all that a program does with an app that it does not execute."""

from __future__ import annotations

from functools import cached_property

from stepflow.client.audit_log import AuditLog
from stepflow.client.bulk_controller import BulkController
from stepflow.client.delayed_events import DelayedEvents
from stepflow.client.flow_limits import FlowLimits
from stepflow.client.run_controller import RunController
from stepflow.client.run_finder import RunFinder
from stepflow.client.run_starter import RunStarter
from stepflow.client.schedules import Schedules

__all__ = ["Client"]


class Client(RunStarter, RunFinder, RunController, BulkController, DelayedEvents, AuditLog):
    """What a program does with an app that it does not execute. `Stepflow` is a client that also declares functions.

    Each method has an asyncio twin with an ``a`` before its name. The blocking methods may be called from several
    threads.

    Attributes:
        id: the app's id.
        functions: the functions that this process has declared, by id.
        limits: the limits of the app's runs.
        backend: the connections to the server.
    """

    @cached_property
    def schedules(self) -> Schedules:
        """The schedules that programs create at run time: see `Schedules`.

        Example::

            app.schedules.create("report-4", "report", cron="0 6 * * *", data={"tenant": 4})
        """
        return Schedules(self.id, self.functions, self.backend, self.limits)

    @cached_property
    def flow_limits(self) -> FlowLimits:
        """The limits of flow control, and their changes at run time: see `FlowLimits`.

        Example::

            app.flow_limits.set("sync", concurrency=2, for_="2h")
        """
        return FlowLimits(self.id, self.functions, self.backend)
