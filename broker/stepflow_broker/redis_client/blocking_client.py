"""A link: sends calls to one server, blocking, and waits for their answers."""

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
from stepflow_broker.redis_client.errors import is_permission_error, is_wrong_node, server_error
from stepflow_broker.redis_client.retry import backoff_s, is_retryable

__all__ = ["BlockingClient"]

T = TypeVar("T")


class BlockingClient:
    """Sends calls to one server. May be used from several threads.

    Args:
        url: the server's.
        retry_for_s: how long to try again while the server does not answer or accepts no writes, in seconds.
        slot: of a cluster; the server is the node that has it.
    """

    def __init__(self, url: str, *, retry_for_s: float, slot: int = 0) -> None:
        self.url = url
        self.client: redis.Redis = connect(url, slot=slot)
        self._retry_for_s = retry_for_s

    def execute_all(self, calls: Sequence[Command[T]], *, as_one: bool = False) -> list[T]:
        """Send several calls in one round trip and return their answers.

        Args:
            as_one: the last calls speak for those before them: when one is to be sent again, all are.

        Raises:
            BackendUnavailableError: as `execute`; every call may or may not have been executed, and can be sent again.
        """
        deadline = time.monotonic() + self._retry_for_s
        for tries in itertools.count(1):
            try:
                return self._once(calls, as_one)
            except (exceptions.RedisError, OSError) as error:
                if is_wrong_node(error):
                    self.client.connection_pool.disconnect(inuse_connections=False)
                wait_s = backoff_s(tries)
                if not is_retryable(error) or time.monotonic() + wait_s > deadline:
                    raise server_error(error, self.url) from None
                time.sleep(wait_s)
        raise AssertionError("unreachable")

    def _once(self, calls: Sequence[Command[T]], as_one: bool) -> list[T]:
        replies = self._send(call.args for call in calls)
        unknown = {n for n, reply in enumerate(replies) if isinstance(reply, exceptions.NoScriptError)}
        if unknown:
            again = range(len(calls)) if as_one else sorted(unknown)
            resent = self._send(calls[n].with_source() if n in unknown else calls[n].args for n in again)
            for n, reply in zip(again, resent, strict=True):
                replies[n] = reply
        for call, reply in zip(calls, replies, strict=True):
            if isinstance(reply, Exception):
                raise server_error(reply, self.url, call.action) if is_permission_error(reply) else reply
        return [call.answer(reply) for call, reply in zip(calls, replies, strict=True)]

    def _send(self, commands: Iterable[tuple[Any, ...]]) -> list[Any]:
        """Write all commands, then read all replies as they are; an error reply is an exception in the list."""
        pool = self.client.connection_pool
        connection = pool.get_connection()
        try:
            packed = [pack_command(words) for words in commands]
            connection.send_packed_command([b"".join(packed)])
            return [self._read(connection) for _ in packed]
        except BaseException:
            connection.disconnect()  # replies may be left on it
            raise
        finally:
            pool.release(connection)

    @staticmethod
    def _read(connection: Any) -> Any:
        try:
            return connection.read_response(disable_decoding=True)
        except exceptions.ResponseError as error:
            return error

    def close(self) -> None:
        """Close the connections."""
        self.client.close()
