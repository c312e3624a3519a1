"""Check what a URL names: a server, or a cluster and each of its primaries."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from stepflow_broker.doctor.findings import Finding, Severity
from stepflow_broker.doctor.node import examine_node, is_in_partition, key_of_nobody
from stepflow_broker.protocol import replies
from stepflow_broker.protocol.command import Command, command
from stepflow_broker.protocol.keys import KEYS, Keys, slot_of
from stepflow_broker.redis_client.blocking_client import BlockingClient
from stepflow_broker.redis_client.broker import Broker
from stepflow_broker.redis_client.url import read_url
from stepflow_engine.errors import BackendUnavailableError, PermissionDeniedError

__all__ = ["examine_server"]

_SLOTS = 16384
_RETRY_FOR_S = 3.0


def examine_server(broker: Broker, keys: Keys) -> list[Finding]:
    """Check a server or a cluster. Each check gives a finding, also if it passes.

    Raises:
        BackendUnavailableError: the server does not answer, or no node of the cluster does.
        ConfigurationError: the server refuses the user.
    """
    refused = list(_refused_of_shared(broker, keys))
    if not read_url(broker.url).is_of_cluster:
        return examine_node(broker, keys.all, refused=refused)
    slots, info = _ask_any(
        broker, keys, [command(replies.raw, "CLUSTER", "SLOTS"), command(replies.server_info, "CLUSTER", "INFO")]
    )
    primaries = _primaries(slots)
    found = [_state(info, primaries), _spread(primaries, keys)]
    return found + [finding for one in primaries for finding in _examine_primary(broker, keys, one, refused)]


def _refused_of_shared(broker: Broker, keys: Keys) -> Iterator[str]:
    """What the user may not do with keys outside partitions, in the words of ``check_permissions``."""
    for key in KEYS:
        if key.type != "channel" and not is_in_partition(keys, key):
            words = ("EXISTS", key_of_nobody(keys, key))
            try:
                broker.execute(command(int, *words))
            except PermissionDeniedError:
                yield " ".join(words)
            except BackendUnavailableError:
                return  # the other checks report it


# -- a cluster -----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Primary:
    """A primary of a cluster.

    Attributes:
        name: its address.
        slots: first and last of each of its ranges.
    """

    name: str
    slots: tuple[tuple[int, int], ...]

    def has(self, keys: Keys) -> bool:
        """Whether a partition is in its slots."""
        slot = slot_of(keys.partition)
        return any(first <= slot <= last for first, last in self.slots)


def _ask_any(broker: Broker, keys: Keys, calls: Sequence[Command[Any]]) -> list[Any]:
    """The answers of the first node with a partition that answers."""
    failures: list[BackendUnavailableError] = []
    for one in keys.all:
        link = BlockingClient(broker.url, retry_for_s=0, slot=slot_of(one.partition))
        try:
            return link.execute_all(calls)
        except BackendUnavailableError as error:
            failures.append(error)
        finally:
            link.close()
    raise failures[-1]


def _primaries(slots: Sequence[Any]) -> list[_Primary]:
    """All primaries, from ``CLUSTER SLOTS``."""
    found: dict[str, list[tuple[int, int]]] = {}
    for first, last, (host, port, *_), *_replicas in slots:
        found.setdefault(f"{(host or b'').decode()}:{port}", []).append((first, last))
    return [_Primary(name, tuple(ranges)) for name, ranges in sorted(found.items())]


def _state(info: dict[str, str], primaries: Sequence[_Primary]) -> Finding:
    """The state of the cluster, as one node reports it."""
    missing = _SLOTS - sum(last - first + 1 for one in primaries for first, last in one.slots)
    if missing:
        text = f"{missing:,} slots of the cluster belong to no primary, so their keys are unavailable: assign the slots"
        return Finding("cluster", Severity.ERROR, "cluster", text)
    if info.get("cluster_state") != "ok" or info.get("cluster_slots_fail", "0") != "0":
        count = info.get("cluster_slots_fail", "some")
        text = f"{count} slots of the cluster are unavailable: a primary is lost, and no replica has taken over yet"
        return Finding("cluster", Severity.ERROR, "cluster", text)
    text = f"the {len(primaries)} primaries of the cluster have all slots"
    return Finding("cluster", Severity.OK, "cluster", text)


def _spread(primaries: Sequence[_Primary], keys: Keys) -> Finding:
    """How the partitions are spread over the primaries."""
    counts = Counter({one.name: sum(one.has(part) for part in keys.all) for one in primaries})
    spread = ", ".join(f"{count} at {name}" for name, count in counts.items())
    text = f"the keys are divided into {len(keys.all)} partitions: {spread}"
    if max(counts.values()) - min(counts.values()) <= 1 and min(counts.values()):
        return Finding("partitions", Severity.OK, "cluster", text)
    advice = "a primary without partitions does no work, and one with many does more: move their slots"
    return Finding("partitions", Severity.WARNING, "cluster", f"{text}; {advice}")


def _examine_primary(broker: Broker, keys: Keys, primary: _Primary, refused: Sequence[str]) -> list[Finding]:
    """Check one primary. Each has its own users, so the rights are tried on each that has a partition."""
    link = BlockingClient(broker.url, retry_for_s=_RETRY_FOR_S, slot=primary.slots[0][0])
    try:
        partitions = [one for one in keys.all if primary.has(one)]
        found = examine_node(link, partitions, refused=refused, in_cluster=True)
    except BackendUnavailableError as error:
        found = [Finding("cluster", Severity.ERROR, "", str(error))]
    finally:
        link.close()
    return [replace(one, subject=primary.name, text=f"{primary.name}: {one.text}") for one in found]
