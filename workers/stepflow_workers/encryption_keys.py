"""The encryption keys of the workers of an app: each must be able to read what the others write.

Each worker shows the ids of its keys in its record in Redis, and compares them with those of the live workers when it
starts. The id of a key reveals nothing about the key. The record ends when the worker stops, or half a minute after it
was killed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from stepflow_broker.protocol import replies
from stepflow_broker.protocol.command import command
from stepflow_broker.protocol.partition import Partition
from stepflow_broker.redis_client.broker import Broker
from stepflow_engine.cipher import Cipher
from stepflow_engine.codec import dumps, loads
from stepflow_engine.errors import ConfigurationError
from stepflow_engine.product import ENCRYPTION_KEYS

__all__ = ["KEY_IDS", "check_keys", "key_ids"]

KEY_IDS = "encryption_keys"
"""The field of the record of a worker."""


def key_ids(ciphers: Mapping[str, Cipher]) -> str:
    """The ids of the keys of each app, as JSON text. The first key of an app encrypts."""
    return dumps({app: list(cipher.key_ids) for app, cipher in ciphers.items()}).decode()


def check_keys(broker: Broker, partition: Partition, ciphers: Mapping[str, Cipher]) -> None:
    """Refuse keys with which this worker and a live worker of the same app could not read each other's data.

    Args:
        ciphers: app → its cipher in this worker.

    Raises:
        ConfigurationError: one of the two encrypts with a key that the other does not have.
    """
    for worker, others in _live_workers(broker, partition):
        for app, cipher in ciphers.items():
            other = others.get(app)
            if other and other[0] not in cipher.key_ids:
                raise ConfigurationError(_text(f"worker {worker}", "this worker", app, other[0]))
            if other and cipher.encrypts and cipher.key_ids[0] not in other:
                raise ConfigurationError(_text("this worker", f"worker {worker}", app, cipher.key_ids[0]))


def _text(writer: str, reader: str, app: str, key_id: str) -> str:
    return (
        f"{writer} encrypts the data of app {app} with key {key_id!r}, which {reader} does not have: give all workers "
        f"of an app the same keys ({ENCRYPTION_KEYS}, or Encryption(keys=[…])); to rotate keys, first add the new key "
        "at the end for all workers"
    )


def _live_workers(broker: Broker, partition: Partition) -> Iterator[tuple[str, dict[str, list[str]]]]:
    """The live workers that have keys, and the ids of their keys by app."""
    names = broker.execute(command(_names, "SMEMBERS", partition.keys("RQ_WORKERS")))
    prefix = partition.keys("RQ_WORKER")
    records = [partition.keys("RQ_WORKER", name.removeprefix(prefix)) for name in names]
    calls = [command(_parse, "HMGET", record, KEY_IDS, "death") for record in records]
    for name, keys in zip(names, broker.execute_all(calls), strict=True):
        if keys:
            yield name.removeprefix(prefix), keys


def _names(reply: Iterable[bytes]) -> list[str]:
    """The names of workers. One that is no text is not that of a worker."""
    return [replies.shown_text(name) for name in reply]


def _parse(reply: Sequence[bytes | None]) -> dict[str, list[str]]:
    """The ids of the keys of a worker that has not stopped. Another program may have written anything."""
    keys, stopped_at = reply
    try:
        value = loads(keys or b"{}") if stopped_at is None else {}
    except ValueError:
        return {}
    if not isinstance(value, dict):
        return {}
    return {app: [str(one) for one in ids] for app, ids in value.items() if isinstance(ids, list) and ids}
