"""The client: all that a program does with an app that it does not execute."""

from __future__ import annotations

from stepflow.client.bulk_controller import BulkController
from stepflow.client.run_controller import RunController
from stepflow.client.run_finder import RunFinder
from stepflow.client.run_starter import RunStarter

__all__ = ["Client"]


class Client(RunStarter, RunFinder, RunController, BulkController):
    """What a program does with an app that it does not execute. `Stepflow` is a client that also declares functions.

    Each method has an asyncio twin with an ``a`` before its name. The blocking methods may be called from several
    threads.

    Attributes:
        id: the app's id.
        functions: the functions that this process has declared, by id.
        limits: the limits of the app's runs.
        backend: the connections to the server.
    """
