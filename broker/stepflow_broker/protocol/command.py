"""Commands: one request to the server as a value, together with the reader of its reply.

Each transition is one function that returns a command. `Broker` sends a command and blocks; `AsyncBroker` sends it and
awaits the reply. Nothing else differs between the two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, TypeVar

from stepflow_broker.protocol.keys import MOVING, routing_key_of
from stepflow_broker.protocol.scripts import Script, script
from stepflow_engine.errors import CorruptDataError, StepflowError
from stepflow_engine.value_class import value_class

__all__ = ["Arg", "Command", "command", "in_chunks", "run_script"]

T = TypeVar("T")
Arg = str | bytes | int | float
Word = str | bytes
"""An argument as it is sent. Numbers are made text here: the packer of hiredis converts them itself, and crashes the
process if a signal handler raises an exception meanwhile."""
_CONTAINERS = frozenset({"CLIENT", "CLUSTER", "CONFIG", "SCRIPT", "XGROUP", "XINFO"})
_KEYLESS = frozenset({"CLIENT", "CLUSTER", "CONFIG", "INFO", "PING", "SCAN", "SCRIPT", "TIME", "WAIT"})


@value_class
class Command(Generic[T]):
    """One request.

    Attributes:
        args: the command as it is sent.
        read: turns the reply into the typed answer.
        script: the script that the command runs; ``None``: a plain Redis command.
    """

    args: tuple[Word, ...]
    read: Callable[[Any], T]
    script: Script | None = None

    def answer(self, reply: Any) -> T:
        """The typed answer in a reply.

        Raises:
            CorruptDataError: the reply contains data that stepflow does not write.
        """
        try:
            return self.read(reply)
        except StepflowError:
            raise
        except Exception as error:  # whatever a reader raises, its cause is corrupt data
            what = self.script.name if self.script else str(self.args[0])
            raise CorruptDataError(f"what the server answers to {what}", error, is_reply=True) from error

    @property
    def action(self) -> str:
        """The name of the transition, or the command for ACLs: ``info``, ``xgroup|create``, ``hget <key>``."""
        if self.script is not None:
            return self.script.name
        first, second = [*map(str, self.args[:2]), ""][:2]
        if first in _CONTAINERS:
            return f"{first}|{second}".lower()
        return f"{first.lower()} {second}" if second and first not in (*_KEYLESS, "XREADGROUP") else first.lower()

    @property
    def routing_key(self) -> str:
        """The tag or key that determines the node of a cluster: see `routing_key_of`; ``""``: any node."""
        if self.script is not None:
            return routing_key_of(str(self.args[3]))
        first = str(self.args[0])
        if first == "XREADGROUP":
            return routing_key_of(str(self.args[self.args.index("STREAMS") + 1]))
        if first == "SCAN" and "MATCH" in self.args:
            return _tag_of(str(self.args[self.args.index("MATCH") + 1]))
        if first in _KEYLESS:
            return ""
        return routing_key_of(str(self.args[2 if first in _CONTAINERS else 1])) if len(self.args) > 1 else ""

    def with_source(self) -> tuple[Word, ...]:
        """The command with the source of its script, for a server that does not have the script."""
        if self.script is None:
            raise TypeError("this command runs no script")
        return ("EVAL", self.script.text, *self.args[2:])


def _tag_of(pattern: str) -> str:
    """The tag of the partition whose keys a pattern matches; ``""``: it matches the keys of all partitions."""
    routing_key = routing_key_of(pattern)
    return routing_key if routing_key != pattern else ""


def command(read: Callable[[Any], T], *args: Arg) -> Command[T]:
    """A plain Redis command."""
    return Command(_words(args), read)


def in_chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """The items in parts of at most ``size``, each for one command."""
    return (items[first : first + size] for first in range(0, len(items), size))


def run_script(name: str, read: Callable[[Any], T], keys: tuple[str, ...], *args: Arg) -> Command[T]:
    """A transition. Every script may be sent twice: the second time changes nothing.

    In a partition, the command also declares a key that is never written. While the slot of the partition moves to
    another node of a cluster, the server refuses any command that names a missing key, before it executes anything. So
    the partition stops for that time, and no script fails half-way at a key that it creates.
    """
    source = script(name)
    if keys[0].startswith("{"):
        keys = (*keys, routing_key_of(keys[0]) + MOVING)
    return Command(("EVALSHA", source.sha, str(len(keys)), *keys, *_words(args)), read, source)


def _words(args: Sequence[Arg]) -> tuple[Word, ...]:
    return tuple([arg if type(arg) is str or type(arg) is bytes else _word(arg) for arg in args])


def _word(arg: Arg) -> Word:
    if type(arg) is int or type(arg) is float:
        return str(arg)
    if isinstance(arg, str | bytes):  # of a subclass, such as a `StrEnum`
        return arg
    raise TypeError(f"an argument of a command must be text, bytes or a number, got {type(arg).__name__}")
