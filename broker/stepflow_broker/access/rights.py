"""Which rights of a role the user of a connection lacks, in the words of an ACL."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from stepflow_broker.access.roles import Role
from stepflow_broker.protocol.command import Command, run_script
from stepflow_broker.protocol.keys import KEYS, Keys

__all__ = ["missing_rights"]

_NOBODY = "nobody"
_KEYLESS = frozenset({"exec", "info", "multi", "ping", "select", "time", "unsubscribe", "wait"})


def missing_rights(keys: Keys, role: Role) -> Command[list[str]]:
    """Ask the server of a partition which rights of a role the user lacks: ``+pexpire``, ``~stepflow:run:*``.

    Redis 6.2 cannot be asked: the answer is empty.
    """
    asked = list(_questions(keys, role))
    words = [word for _, command in asked for word in (str(len(command)), *command)]

    def read(reply: Any) -> list[str]:
        return list(dict.fromkeys(asked[int(number) - 1][0] for number in reply))

    return run_script("check_rights", read, (keys("RUN", _NOBODY),), *words)


def _questions(keys: Keys, role: Role) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Rights, each with a command that needs it."""
    run, ready = keys("RUN", _NOBODY), keys("READY")
    for command in role.commands:
        yield f"+{command}", _sample(command, run, ready)
    for key in KEYS:
        name = keys(key.name, _NOBODY if key.ids else "")
        pattern = keys(key.name, "*" if key.ids else "")
        if key.type == "channel":
            if key.name in role.subscribed:
                yield f"&{pattern}", ("SUBSCRIBE", name)
            continue
        access = role.access(key)
        if "R" in access:
            yield f"~{pattern}", ("EXISTS", name)
        if "W" in access and not role.is_read_only:
            yield f"~{pattern}", ("DEL", name)


def _sample(command: str, key: str, channel: str) -> tuple[str, ...]:
    """A command with the arguments that decide whether a user may call it."""
    words = tuple(command.upper().split("|"))
    match command:
        case "eval" | "evalsha":
            return (*words, "", "0")
        case "xreadgroup":
            return (*words, "GROUP", "group", "consumer", "STREAMS", key, ">")
        case "publish" | "subscribe":
            return (*words, channel, *["message"] * (command == "publish"))
        case _:
            return words if command in _KEYLESS or words[0] == "CLIENT" else (*words, key)
