"""Both brokers and a server that refuses or hangs up: what is resent, when, and in which order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol

import pytest
from hiredis import Reader

from stepflow_broker.protocol.command import Command, command
from stepflow_broker.redis_client.async_broker import AsyncBroker
from stepflow_broker.redis_client.broker import Broker
from stepflow_engine.errors import BackendUnavailableError

Answer = Callable[[str], bytes]


class Sends(Protocol):
    """What the tests need of a broker."""

    async def execute_all(self, calls: Sequence[Command[str]]) -> list[str]: ...

    async def close(self) -> None: ...


class InThread:
    """A blocking broker, called from a thread, so that the server in the event loop can answer."""

    def __init__(self, url: str, **options: Any) -> None:
        self._broker = Broker(url, **options)

    async def execute_all(self, calls: Sequence[Command[str]]) -> list[str]:
        return await asyncio.to_thread(self._broker.execute_all, calls)

    async def close(self) -> None:
        self._broker.close()


KINDS: dict[str, Callable[..., Sends]] = {"blocking": InThread, "asyncio": AsyncBroker}
GREETINGS = {"CLIENT": b"+OK\r\n", "PING": b"+PONG\r\n"}
BUSY = b"-BUSY Redis is busy running a script.\r\n"
OOM = b"-OOM command not allowed when used memory > 'maxmemory'.\r\n"
READONLY = b"-READONLY You can't write against a read only replica.\r\n"
HANG_UP = b""


class ScriptedServer:
    """Answers ``ECHO`` as it is told to.

    Args:
        kind: which broker connects to it.
        answer: makes the reply to a word; HANG_UP closes the connection.

    Attributes:
        heard: the words, in the order in which they came.
        connections: how many there were.
    """

    def __init__(self, kind: str, answer: Answer) -> None:
        self._kind = kind
        self._answer = answer
        self.heard: list[str] = []
        self.connections = 0

    @asynccontextmanager
    async def broker(self, **options: Any) -> AsyncIterator[Sends]:
        """A broker that is connected to it."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        broker = KINDS[self._kind](f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0", **options)
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


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("refusal", [BUSY, OOM])
async def test_what_is_refused_for_a_time_is_sent_again_in_its_order(kind: str, refusal: bytes) -> None:
    server = ScriptedServer(kind, after([refusal] * 40))
    async with server.broker() as broker:
        words = [str(n) for n in range(20)]
        assert await broker.execute_all([echo(word) for word in words]) == words
    assert server.heard == words * 3


async def test_what_may_not_have_arrived_is_sent_again_in_its_order(kind: str) -> None:
    server = ScriptedServer(kind, after([HANG_UP]))
    async with server.broker() as broker:
        assert await broker.execute_all([echo(word) for word in "abc"]) == ["a", "b", "c"]
    assert server.heard == ["a", "a", "b", "c"]


async def test_a_server_that_is_no_primary_is_left_before_the_request_is_sent_again(kind: str) -> None:
    server = ScriptedServer(kind, after([READONLY]))
    async with server.broker() as broker:
        assert await broker.execute_all([echo("a")]) == ["a"]
        assert server.connections == 2
    assert server.heard == ["a", "a"]


@pytest.mark.parametrize("refusal", [BUSY, OOM])
async def test_the_patience_ends_with_an_error_that_says_why(kind: str, refusal: bytes) -> None:
    server = ScriptedServer(kind, lambda _: refusal)
    async with server.broker(retry_for_s=0.2) as broker:
        with pytest.raises(BackendUnavailableError, match=r"busy|out of memory"):
            await broker.execute_all([echo("a")])
    assert 2 <= len(server.heard) < 10


async def test_a_server_that_accepts_and_hangs_up_is_not_tried_again_at_once(kind: str) -> None:
    server = ScriptedServer(kind, lambda _: HANG_UP)
    async with server.broker(retry_for_s=0.5) as broker:
        with pytest.raises(BackendUnavailableError, match=r"does not answer \(.*closed"):
            await broker.execute_all([echo("a")])
        assert 2 <= server.connections < 15
