"""The blocking client: sends commands to one server and waits for their answers."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import redis
from hiredis import pack_command
from redis import exceptions

from stepflow_broker.protocol.command import Command
from stepflow_broker.redis_client.connection import connect
from stepflow_broker.redis_client.errors import server_error
from stepflow_broker.redis_client.idle_connections import IdleConnections
from stepflow_broker.redis_client.retry import Attempt, Next, backoff_s, decide

__all__ = ["BlockingClient"]

T = TypeVar("T")


class BlockingClient:
    """Sends commands to one server. Thread-safe.

    Args:
        url: the URL of the server.
        retry_for_s: how long to retry while the server is unreachable or accepts no writes, in seconds.
        slot: a slot of a cluster. The server is the node that owns it.
    """

    def __init__(self, url: str, *, retry_for_s: float, slot: int = 0) -> None:
        self.url = url
        self.client: redis.Redis = connect(url, slot=slot)
        self._retry_for_s = retry_for_s
        self._connections = IdleConnections(self.client)

    def execute_all(
        self, calls: Sequence[Command[T]], *, as_one: bool = False, retry_for_s: float | None = None
    ) -> list[T]:
        """Send several commands in one round trip and return their answers.

        Args:
            as_one: whether the last commands confirm those before them. If one is resent, all are.
            retry_for_s: how long to retry, if it is not as long as always.

        Raises:
            BackendUnavailableError: as `Broker.execute`. Each command may have been executed, and can be sent again.
        """
        give_up_at = time.monotonic() + (self._retry_for_s if retry_for_s is None else retry_for_s)
        for tries in itertools.count(1):
            error: Exception
            try:
                replies = self._exchange(calls, give_up_at, as_one=as_one)
            except (exceptions.RedisError, OSError) as lost:
                error, action = lost, ""
            else:
                refused = next((n for n, reply in enumerate(replies) if isinstance(reply, Exception)), None)
                if refused is None:
                    return [call.answer(reply) for call, reply in zip(calls, replies, strict=True)]
                error, action = replies[refused], calls[refused].action
            pause_s = backoff_s(tries)
            decision = decide(error, Attempt(give_up_at, pause_s, has_source=True), time.monotonic())
            if decision.reconnect:
                self._connections.reset()
            if decision.next is Next.FAIL:
                raise server_error(error, self.url, action) from None
            time.sleep(pause_s)
        raise AssertionError("unreachable")

    def _exchange(self, calls: Sequence[Command[T]], give_up_at: float, *, as_one: bool) -> list[Any]:
        """Send all commands. Send those whose script the server does not know a second time, with the source."""
        replies = self._send(call.args for call in calls)
        errors = [(n, reply) for n, reply in enumerate(replies) if isinstance(reply, Exception)]
        if not errors:
            return replies
        attempt, now = Attempt(give_up_at), time.monotonic()
        unknown = {n for n, error in errors if decide(error, attempt, now).next is Next.RESEND_WITH_SOURCE}
        if unknown:
            again = range(len(calls)) if as_one else sorted(unknown)
            resent = self._send(calls[n].with_source() if n in unknown else calls[n].args for n in again)
            for n, reply in zip(again, resent, strict=True):
                replies[n] = reply
        return replies

    def _send(self, commands: Iterable[tuple[Any, ...]]) -> list[Any]:
        """Write all commands, then read all replies as they are. An error reply is an exception in the list."""
        taken_from = self._connections.current
        connection = self._connections.take()
        try:
            self._connections.prepare(connection)
            packed = [pack_command(args) for args in commands]
            connection.send_packed_command([b"".join(packed)])
            replies = [self._read(connection) for _ in packed]
        except BaseException:
            connection.disconnect()  # it may hold unread replies
            raise
        self._connections.give_back(connection, taken_from)
        return replies

    @staticmethod
    def _read(connection: Any) -> Any:
        try:
            return connection.read_response(disable_decoding=True)
        except exceptions.ResponseError as error:
            return error

    def close(self) -> None:
        """Close the connections; those in use, when their calls end."""
        self._connections.close()
