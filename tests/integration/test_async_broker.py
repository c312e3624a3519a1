"""The asyncio broker and a server that refuses or hangs up: what is sent again, when, and in which order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hiredis import Reader

from stepflow_broker.protocol.command import Command, command
from stepflow_broker.redis_client.async_broker import AsyncBroker
from stepflow_engine.errors import BackendUnavailableError

Answer = Callable[[str], bytes]
GREETINGS = {"CLIENT": b"+OK\r\n", "PING": b"+PONG\r\n"}
BUSY = b"-BUSY Redis is busy running a script.\r\n"
OOM = b"-OOM command not allowed when used memory > 'maxmemory'.\r\n"
HANG_UP = b""


class ScriptedServer:
    """Answers ``ECHO`` as it is told to.

    Args:
        answer: makes the reply to a word; HANG_UP closes the connection.

    Attributes:
        heard: the words, in the order in which they came.
        connections: how many there were.
    """

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self.heard: list[str] = []
        self.connections = 0

    @asynccontextmanager
    async def broker(self, **options: Any) -> AsyncIterator[AsyncBroker]:
        """A broker that is connected to it."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        broker = AsyncBroker(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0", **options)
        try:
            yield broker
        finally:
            await broker.close()
            server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        requests = Reader(encoding="utf-8")
        while data := await reader.read(1 << 16):
            requests.feed(data)
            while words := requests.gets():
                reply = GREETINGS.get(words[0]) or self._hear(words[1])
                if reply == HANG_UP:
                    writer.close()
                    return
                writer.write(reply)
        writer.close()

    def _hear(self, word: str) -> bytes:
        self.heard.append(word)
        return self._answer(word)


def echo(word: str) -> Command[str]:
    return command(bytes.decode, "ECHO", word)


def after(refusals: list[bytes]) -> Answer:
    """Gives these replies first, and then an echo to everything."""

    def answer(word: str) -> bytes:
        return refusals.pop(0) if refusals else f"+{word}\r\n".encode()

    return answer


@pytest.mark.parametrize("refusal", [BUSY, OOM])
async def test_what_is_refused_for_a_time_is_sent_again_in_its_order(refusal: bytes) -> None:
    server = ScriptedServer(after([refusal] * 40))
    async with server.broker() as broker:
        words = [str(n) for n in range(20)]
        assert await broker.execute_all([echo(word) for word in words]) == words
    assert server.heard == words * 3


async def test_what_may_not_have_arrived_is_sent_again_in_its_order() -> None:
    server = ScriptedServer(after([HANG_UP]))
    async with server.broker() as broker:
        assert await broker.execute_all([echo(word) for word in "abc"]) == ["a", "b", "c"]
    assert server.heard == ["a", "a", "b", "c"]


@pytest.mark.parametrize("refusal", [BUSY, OOM])
async def test_the_patience_ends_with_an_error_that_says_why(refusal: bytes) -> None:
    server = ScriptedServer(lambda _: refusal)
    async with server.broker(retry_for_s=0.2) as broker:
        with pytest.raises(BackendUnavailableError, match=r"busy|out of memory"):
            await broker.execute(echo("a"))
    assert 2 <= len(server.heard) < 10


async def test_a_server_that_accepts_and_hangs_up_is_not_tried_again_at_once() -> None:
    server = ScriptedServer(lambda _: HANG_UP)
    async with server.broker(retry_for_s=0.5) as broker:
        with pytest.raises(BackendUnavailableError, match="closed the connection"):
            await broker.execute(echo("a"))
        assert 2 <= server.connections < 15
