"""The registered functions: the commands that read and write their stored configuration."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from stepflow_broker.protocol import replies
from stepflow_broker.protocol.command import Command, command, run_script
from stepflow_broker.protocol.keys import Keys
from stepflow_broker.protocol.partition import Partition
from stepflow_broker.protocol.status import ScriptStatus
from stepflow_broker.registry.function_config import FunctionConfig
from stepflow_engine.errors import ConfigurationError

__all__ = [
    "check_scopes",
    "forget_function",
    "parse_function_queues",
    "read_function",
    "read_function_queues",
    "read_functions",
    "register_functions",
    "registry_version",
]


def register_functions(keys: Keys, configs: Sequence[FunctionConfig], *, only_missing: bool = False) -> Command[int]:
    """Store the configs of functions; the result is the registry's version.

    Args:
        keys: those of the partition.
        configs: the configs.
        only_missing: replace no config that is stored. A worker that restores what the server has lost must not
            replace the config of newer code.
    """
    args = [arg for config in configs for arg in (config.name, config.to_json(), config.queue)]
    keyed = (keys("FUNCTIONS"), keys("VERSION"), keys("FUNCTION_QUEUES"))
    return run_script("register_functions", int, keyed, 1 if only_missing else 0, *args)


def forget_function(partition: Partition, name: str, *, who: str = "") -> Command[ScriptStatus]:
    """Delete the registration of a function in one partition. DONE, ALREADY or SERVED."""
    keys = partition.keys
    keyed = (keys("FUNCTIONS"), keys("VERSION"), keys("FUNCTION_QUEUES"), keys("CODES"), keys("CRON"), keys("PAUSED"))
    return run_script("forget_function", ScriptStatus, keyed, partition.clock.script_ms(), name, who)


def read_function_queues(keys: Keys) -> Command[list[tuple[str, str]]]:
    """Read the queues that functions have or had, as pairs of function and queue. Runs keep their queue."""
    return command(parse_function_queues, "SMEMBERS", keys("FUNCTION_QUEUES"))


def parse_function_queues(members: Iterable[bytes]) -> list[tuple[str, str]]:
    """Pairs of function and queue from the members of the set of queues."""
    pairs = [replies.shown_text(member).rpartition("\n") for member in members]
    return sorted((name, queue) for name, _, queue in pairs if name)


def check_scopes(keys: Keys, configs: Iterable[FunctionConfig]) -> None:
    """Refuse functions with limits of scope ``app`` and of scope ``global``, which may need two different partitions.

    Raises:
        ConfigurationError: a function has both.
    """
    for config in configs if len(keys.all) > 1 else ():
        if config.flow and {"app", "global"} <= {one.scope for one in config.flow.concurrency}:
            raise ConfigurationError(
                f"function {config.name} has concurrency of scope 'app' and of scope 'global': on a server whose keys "
                "are divided into partitions one function can have one of them"
            )


def read_functions(keys: Keys) -> Command[list[FunctionConfig]]:
    """Read all registered functions. Corrupt entries are left out: their workers register them again."""

    def read(reply: list[bytes]) -> list[FunctionConfig]:
        found = [config for text in reply if (config := _try_to_read(text)) is not None]
        return sorted(found, key=lambda config: config.name)

    return command(read, "HVALS", keys("FUNCTIONS"))


def _try_to_read(text: bytes) -> FunctionConfig | None:
    try:
        config = FunctionConfig.from_json(text)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return config if all(isinstance(one, str) for one in (config.app, config.id, config.queue)) else None


def read_function(keys: Keys, app: str, function: str) -> Command[FunctionConfig | None]:
    """Read one registered function. Every partition has all functions."""
    return command(
        lambda reply: FunctionConfig.from_json(reply) if reply else None,
        "HGET",
        keys("FUNCTIONS"),
        f"{app}/{function}",
    )


def registry_version(keys: Keys) -> Command[int]:
    """Read the version of the registry. It grows with each change."""
    return command(replies.integer, "GET", keys("VERSION"))
