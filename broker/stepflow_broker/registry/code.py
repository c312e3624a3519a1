"""The code of live workers: which functions they have, in which version."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

from stepflow_broker.protocol import replies
from stepflow_broker.protocol.command import Command, command, run_script
from stepflow_broker.protocol.partition import Partition
from stepflow_broker.protocol.status import ScriptStatus

__all__ = ["code_names", "digest_of_code", "read_code", "register_code"]

_CODE_TTL_MS = 90_000


def code_names(functions: Iterable[str], version: str, *, release: str = "") -> list[str]:
    """What the set of a worker contains: the functions (``app/function``) of which it has the code, and its version.

    Args:
        version: identifies the version of the code, without spaces.
        release: what users call the version; ``""``: it has no name.
    """
    return [*functions, "versions", f"version {version}", *([f"release {release}"] if release else [])]


def digest_of_code(names: Iterable[str]) -> str:
    """What identifies a set of names: workers with the same functions in the same version have the same."""
    return hashlib.sha1("\n".join(sorted(names)).encode(), usedforsecurity=False).hexdigest()


def register_code(partition: Partition, names: Sequence[str]) -> Command[ScriptStatus]:
    """Note in one partition that a live worker has this code, for the next 90 seconds; see `code_names`.

    DONE, or ALREADY if that was noted. After DONE the functions may be missing: `forget_function` is refused only while
    their code is noted.
    """
    digest = digest_of_code(names)
    keyed = (partition.keys("CODE", digest), partition.keys("CODES"), partition.keys("CODE_WAITS"))
    return run_script("register_code", ScriptStatus, keyed, partition.clock.script_ms(), digest, _CODE_TTL_MS, *names)


def read_code(partition: Partition, now_ms: int) -> Command[list[str]]:
    """Read the digests of the sets of functions of live workers."""
    return command(replies.texts, "ZRANGEBYSCORE", partition.keys("CODES"), now_ms, "+inf")
