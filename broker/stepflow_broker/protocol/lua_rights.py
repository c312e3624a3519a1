"""The check of rights that each script begins with: a script that may not do all that it may have to do, does nothing.

Redis checks the rights of a user at each command of a script, and rolls nothing back. Rights may be taken away while
workers work. A script that met a missing right at its tenth command would leave a run half-changed. So it first asks
the server about all of its commands, and about the channels that it publishes to. The server has one thread for
commands, so nobody changes rights while the script runs. A check costs about a tenth of a command.

Redis 6.2 cannot be asked (``redis.acl_check_cmd`` is new in Redis 7.0). There, a script may stop half-way.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from stepflow_broker.protocol.keys import KEYS

__all__ = ["called_commands", "lua_rights"]

_CALL = re.compile(r"redis\.p?call\(([^,)]*)")
_WORD = re.compile(r"'([A-Z]+)'")
_SUBCOMMAND = re.compile(r"redis\.p?call\('(XGROUP|XINFO)', '([A-Z]+)'")
_KEYLESS = frozenset({"TIME"})
_CHANNELS = frozenset(key.name for key in KEYS if key.type == "channel")
_PUBLISH = "PUBLISH"


def called_commands(code: str) -> list[str]:
    """The commands that Lua code calls, in capitals, each once; ``A|B`` is a subcommand."""
    subcommands = _SUBCOMMAND.findall(code)
    containers = {container for container, _ in subcommands}
    words = (word for call in _CALL.findall(code) for word in _WORD.findall(call) if word not in containers)
    return list(dict.fromkeys((*words, *map("|".join, subcommands))))


def lua_rights(sections: Sequence[str], checked: Iterable[str] | None = None) -> list[str]:
    """Lua code for each section of a script, which returns an error if the user lacks a right that the section needs.

    What an earlier section has checked is not checked again.

    Args:
        sections: the code. A section ends the script, or has written nothing.
        checked: the commands to check, in capitals; ``None``: all. Those that a script always calls before it writes
            can be left out.
    """
    if len(called_commands("".join(sections))) < 2:
        return [""] * len(sections)  # it is refused as a whole
    known, rights = set[str](), list[str]()
    for code in sections:
        named = set(re.findall(r"\b[A-Z_]{3,}\b", code))
        commands = [name for name in checked or called_commands(code) if name not in known]
        channels = sorted((_CHANNELS & named) - known)
        rights.append(_check(commands, channels, "RUN" if "RUN" in named else "KEYS[1]"))
        known |= {*commands, *channels}
    return rights


def _check(commands: Iterable[str], channels: Iterable[str], key: str) -> str:
    """Lua code that returns an error if the user may not call all of some commands, or publish to all of some channels.

    The error has the form of Redis' own. All commands of the scripts have their first key in the first argument.
    Without a key, Redis 7.0 crashes.
    """
    checks = [(_question(name), f"\"run the '{name.lower()}' command\"") for name in commands if name != _PUBLISH]
    publishing = "\"run the 'publish' command on channel \""
    checks += [(f"'{_PUBLISH}', {name}, ''", f"{publishing} .. {name}") for name in channels]
    if not checks:
        return ""
    lacking = "\n    or ".join(f"not may({arguments}) and {what}" for arguments, what in checks)
    return (
        "do\n  local may, key = redis.acl_check_cmd, " + key + "\n"
        f"  local lacking = may and ({lacking})\n"
        '  if lacking then return redis.error_reply("NOPERM this user has no permissions to " .. lacking) end\n'
        "end\n"
    )


def _question(command: str) -> str:
    """The arguments with which the server is asked about a command."""
    quoted = ", ".join(f"'{word}'" for word in command.split("|"))
    return quoted if command in _KEYLESS else f"{quoted}, key"
