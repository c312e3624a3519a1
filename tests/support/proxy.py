"""A proxy between clients and the server, in a thread, that has the faults of a network.

All faults can be set and taken back while connections are open; each is counted, so that a test can assert that it
happened.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from collections.abc import Callable, Iterator

__all__ = ["Proxy"]

_CHUNK = 1 << 16
_GREETINGS = (b"*1\r\n$4\r\nPING", *[b"*%d\r\n$6\r\nCLIENT" % words for words in range(2, 8)])
"""How the first commands of a connection begin."""


class Proxy:
    """Passes bytes between its clients and a server on 127.0.0.1.

    Args:
        target_port: the server's.
        seed: of the chances.

    Attributes:
        cut_chance: how likely what the server says next is dropped, and its connection cut. The server has executed
            what it answers, and the client does not know.
        delay_s: the least and the most by which what the server says is late, in seconds.
        cuts, delays: how many replies were lost or late.
        silenced, refused: how many connections were never answered, or closed when they were used.
    """

    def __init__(self, target_port: int, *, seed: int) -> None:
        self._target_port = target_port
        self._chance = random.Random(seed)
        self.cut_chance = 0.0
        self.delay_s = (0.0, 0.0)
        self.cuts = self.delays = self.silenced = self.refused = 0
        self._silent = self._closing = False
        self._passing = asyncio.Event()
        self._passing.set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._stopped = asyncio.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),), daemon=True)
        self.port = 0

    @property
    def url(self) -> str:
        """Where clients find the server through this proxy."""
        return f"redis://127.0.0.1:{self.port}/0"

    # -- faults that last --------------------------------------------------------

    @contextlib.contextmanager
    def silent(self) -> Iterator[None]:
        """New connections are accepted and never answered, neither now nor when this is over (half-open)."""
        self._silent = True
        try:
            yield
        finally:
            self._silent = False

    @contextlib.contextmanager
    def closing(self) -> Iterator[None]:
        """Connections are accepted, greeted, and closed when anything is asked on them."""
        self._closing = True
        try:
            yield
        finally:
            self._closing = False

    @contextlib.contextmanager
    def blackhole(self) -> Iterator[None]:
        """Nothing passes in either direction, and nobody is told; what is on its way arrives when this is over."""
        self._call(self._passing.clear)
        try:
            yield
        finally:
            self._call(self._passing.set)

    def cut_all(self) -> None:
        """Cut every connection."""
        self._call(self._cancel_all)

    # -- its life ----------------------------------------------------------------

    def __enter__(self) -> Proxy:
        self._thread.start()
        assert self._ready.wait(5), "the proxy did not start"
        return self

    def __exit__(self, *_: object) -> None:
        self._call(self._stopped.set)
        self._thread.join(5)

    def _call(self, function: Callable[[], None]) -> None:
        """Have it done in the proxy's thread, and wait until it is done."""
        done = threading.Event()
        self._loop.call_soon_threadsafe(lambda: (function(), done.set()))
        assert done.wait(5), "the proxy's thread is stuck"

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stopped.wait()
        server.close()
        self._cancel_all()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _cancel_all(self) -> None:
        for task in self._tasks:
            task.cancel()

    # -- a connection ------------------------------------------------------------

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            if self._silent:
                self.silenced += 1
                await asyncio.Event().wait()
            else:
                await self._connect(reader, writer)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.transport.abort()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        its_reader, its_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
        pumps = [
            asyncio.create_task(self._ask(reader, its_writer)),
            asyncio.create_task(self._answer(its_reader, writer)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            its_writer.transport.abort()

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(_CHUNK):
            await self._passing.wait()
            if self._closing and not data.startswith(_GREETINGS):
                self.refused += 1
                return
            writer.write(data)
            await writer.drain()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(_CHUNK):
            await self._passing.wait()
            if self._chance.random() < self.cut_chance:
                self.cuts += 1
                return
            if self.delay_s[1]:
                self.delays += 1
                await asyncio.sleep(self._chance.uniform(*self.delay_s))
            writer.write(data)
            await writer.drain()
