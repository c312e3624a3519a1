"""A Redis Cluster of local processes, and what happens to one: slots that move, primaries that are killed."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import socket
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.retry import Retry

from stepflow_broker.embedded_server import EmbeddedServer
from tests.support.processes import until

__all__ = ["SLOTS", "ClusterNode", "LocalCluster", "slot_of"]

SLOTS = 16_384
_BUS = 10_000
"""A node speaks with other nodes at a port so far above its own. Redis 6 and 5 know no other."""
_PORTS = range(12_000, 22_000)
"""Neither these nor those of the bus are given to outgoing connections: a killed node can have its port again."""
_SHARES = 8
"""Each process of the tests takes its own ports: one of two that look at the same time would not get what it saw."""
_BATCH = 50
_AGREED_S = 60.0


def slot_of(key: str) -> int:
    """The slot of a key."""
    return int(key_slot(key.encode()))


class ClusterNode(EmbeddedServer):
    """One server of a cluster, by turns primary and replica.

    Attributes:
        client: speaks to this node alone, and decodes replies.
    """

    def __init__(self, folder: Path, port: int, **options: str) -> None:
        quick = {"repl_diskless_sync_delay": "0", "repl_ping_replica_period": "1"}
        super().__init__(folder, port=port, cluster_enabled="yes", **quick, **options)
        retry = Retry(NoBackoff(), 1)
        self.client = redis.Redis(port=port, decode_responses=True, socket_timeout=10, retry=retry, protocol=2)

    def cluster(self, *words: object) -> Any:
        """Send a command to it about its cluster."""
        return self.client.execute_command(f"CLUSTER {words[0]}", *words[1:])

    @property
    def id(self) -> str:
        """Its name among the nodes."""
        return str(self.cluster("MYID"))

    @property
    def runs(self) -> bool:
        """Whether its process does."""
        return self.process is not None

    @property
    def is_replica(self) -> bool:
        """Whether it follows another, and has all that the other had when it began to."""
        replication = self.client.info("replication")
        return bool(replication["role"] == "slave" and replication["master_link_status"] == "up")

    def owners(self) -> dict[tuple[int, int], int]:
        """First and last slot of each range → the port of the primary that has it, as this node knows."""
        return {(first, last): primary[1] for first, last, primary, *_ in self.cluster("SLOTS")}

    def epochs(self) -> dict[str, str]:
        """The primaries' names → the epochs of what they say of their slots, as this node knows."""
        nodes = self.cluster("NODES").values()
        return {node["node_id"]: node["epoch"] for node in nodes if "master" in node["flags"] and node["slots"]}

    def followers(self) -> set[int]:
        """The ports of all replicas that have slots, as this node knows."""
        return {replica[1] for _, _, _, *replicas in self.cluster("SLOTS") for replica in replicas}

    def is_well(self, known: int) -> bool:
        """Whether it knows so many nodes, and every slot has a primary that is up."""
        with contextlib.suppress(redis.RedisError):  # a node that starts is LOADING
            info = self.cluster("INFO")
            return info["cluster_state"] == "ok" and int(info["cluster_known_nodes"]) == known
        return False


class LocalCluster:
    """Primaries, and as many replicas as are wanted of each, on free ports of this machine.

    Args:
        folder: of the nodes' data and logs.
        primaries: how many have slots, each an equal range of them.
        replicas: how many follow each primary.
        node_timeout_ms: after how long a node that does not answer counts as down.
        options: more settings of every node, by their names in its configuration.

    Attributes:
        nodes: all of them, also those that were killed.
        failovers: how many replicas were promoted.
        moves: how many slots were moved.
    """

    def __init__(
        self, folder: Path, *, primaries: int = 3, replicas: int = 1, node_timeout_ms: int = 2_000, **options: str
    ) -> None:
        settings = {"cluster_node_timeout": str(node_timeout_ms), **options}
        ports = _free_ports(primaries * (1 + replicas))
        self.nodes = [ClusterNode(folder / f"node-{n}", port, **settings) for n, port in enumerate(ports)]
        self.failovers = 0
        self.moves = 0
        self._first = self.nodes[:primaries]
        self._errors: Counter[str] = Counter()

    def __enter__(self) -> LocalCluster:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    # -- start and end -----------------------------------------------------------

    def start(self) -> LocalCluster:
        """Start the nodes, make a cluster of them, and wait until it serves every slot with every replica in sync."""
        for node in self.nodes:
            node.start()
        for n, (node, (first, last)) in enumerate(zip(self.nodes, self._ranges(), strict=False)):
            _take_slots(node, first, last)
            node.cluster("SET-CONFIG-EPOCH", n + 1)
        for node in self.nodes[1:]:
            node.cluster("MEET", "127.0.0.1", self.nodes[0].port)
        until(lambda: all(node.is_well(len(self.nodes)) for node in self.nodes), seconds=_AGREED_S, what="the cluster")
        followers = self.nodes[len(self._first) :]
        for n, node in enumerate(followers):
            node.cluster("REPLICATE", self._first[n % len(self._first)].id)
        until(lambda: all(node.is_replica for node in followers), seconds=_AGREED_S, what="the replicas")
        self.await_agreement()
        return self

    def _ranges(self) -> list[tuple[int, int]]:
        edges = [SLOTS * n // len(self._first) for n in range(len(self._first) + 1)]
        return [(first, after - 1) for first, after in itertools.pairwise(edges)]

    def stop(self) -> None:
        """End all nodes."""
        for node in self.nodes:
            node.client.close()
            node.kill()
            node.stop()

    def flush(self) -> None:
        """Empty it."""
        for node in self.primaries():
            node.client.flushall()

    # -- who is who --------------------------------------------------------------

    @property
    def url(self) -> str:
        """The cluster's URL, with all nodes."""
        return "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)

    @property
    def urls(self) -> list[str]:
        """The URL of each node as a server of its own."""
        return [node.url for node in self.nodes]

    @property
    def running(self) -> list[ClusterNode]:
        """The nodes whose processes run."""
        return [node for node in self.nodes if node.runs]

    def client(self) -> redis.RedisCluster:
        """A client of the whole cluster that decodes replies; to be closed by the caller."""
        nodes = [redis.cluster.ClusterNode("127.0.0.1", node.port) for node in self.running]
        return redis.RedisCluster(startup_nodes=nodes, decode_responses=True, protocol=2)

    def primaries(self) -> list[ClusterNode]:
        """The nodes that have slots, in the order of these."""
        owners = self.running[0].owners()
        ports = list(dict.fromkeys(owners[slots] for slots in sorted(owners)))
        return [self._at(port) for port in ports]

    def owner(self, slot: int) -> ClusterNode:
        """The primary that has a slot."""
        owners = self.running[0].owners()
        return self._at(next(port for (first, last), port in owners.items() if first <= slot <= last))

    def _at(self, port: int) -> ClusterNode:
        return next(node for node in self.nodes if node.port == port)

    def await_agreement(self) -> None:
        """Wait until all nodes that run say the same of every slot, know who follows, and find the cluster well.

        They must agree on epochs too: a primary that takes over a slot, and does not know the latest epoch, is told by
        what another said before that it does not have the slot, and deletes the slot's keys.
        """
        until(self._do_agree, seconds=_AGREED_S, what="the nodes' agreement")

    def _do_agree(self) -> bool:
        running = self.running
        if not all(node.is_well(len(self.nodes)) for node in running):
            return False
        views = [node.owners() for node in running]
        primaries = set(views[0].values())
        followers = {node.port for node in running} - primaries
        return (
            all(view == views[0] for view in views)
            and all(node.epochs() == running[0].epochs() for node in running)
            and primaries <= {node.port for node in running}
            and all(followers <= node.followers() for node in running)
            and all(node.is_replica for node in running if node.port in followers)
        )

    # -- what it says ------------------------------------------------------------

    def errors(self) -> Counter[str]:
        """How often nodes have answered with an error, by its code (``MOVED``, ``CROSSSLOT``); of killed ones too."""
        return sum((_errors_of(node) for node in self.running), Counter(self._errors))

    def info(self, section: str = "everything") -> Counter[str]:
        """The sums over the primaries of all that is a number in their ``INFO``."""
        sums: Counter[str] = Counter()
        for node in self.primaries():
            sums.update({name: value for name, value in node.client.info(section).items() if _is_number(value)})
        return sums

    # -- faults ------------------------------------------------------------------

    def kill_primary(self, *, slot: int = 0) -> ClusterNode:
        """Kill the primary that has a slot, as a crash would, and wait until its replica has its slots; the dead."""
        primary = self.owner(slot)
        self._errors += _errors_of(primary)
        primary.kill()
        until(lambda: self.owner(slot).runs, seconds=_AGREED_S, what="the promotion of a replica")
        self.await_agreement()
        self.failovers += 1
        return primary

    def restart(self, node: ClusterNode) -> None:
        """Start a node that was killed, and wait until it has its place: as a replica, if it was replaced."""
        node.start()
        self.await_agreement()

    # -- moves -------------------------------------------------------------------

    def migrate_slot(self, slot: int, to: ClusterNode) -> None:
        """Move a slot to another primary."""
        with self.moving_slot(slot, to):
            pass

    @contextlib.contextmanager
    def moving_slot(self, slot: int, to: ClusterNode) -> Iterator[ClusterNode]:
        """Move a slot to another primary, key by key, as an operator's tool does it.

        What is within the context happens half-way: the slot is on its way, and half of its keys have been moved.

        Returns:
            The primary that it comes from.
        """
        source = self.owner(slot)
        assert source is not to, f"slot {slot} is there already"
        to.cluster("SETSLOT", slot, "IMPORTING", source.id)
        source.cluster("SETSLOT", slot, "MIGRATING", to.id)
        _move_keys(source, slot, to, source.cluster("COUNTKEYSINSLOT", slot) // 2)
        yield source
        while _move_keys(source, slot, to, _BATCH):
            pass
        others = [node for node in self.primaries() if node not in (to, source)]
        for node in (to, source, *others):
            node.cluster("SETSLOT", slot, "NODE", to.id)
        self.await_agreement()
        self.moves += 1


def _move_keys(source: ClusterNode, slot: int, to: ClusterNode, most: int) -> int:
    """Move some of a slot's keys; how many."""
    keys = source.cluster("GETKEYSINSLOT", slot, most) if most else []
    if keys:
        source.client.execute_command("MIGRATE", "127.0.0.1", to.port, "", 0, 10_000, "KEYS", *keys)
    return len(keys)


def _take_slots(node: ClusterNode, first: int, last: int) -> None:
    try:
        node.cluster("ADDSLOTSRANGE", first, last)
    except redis.ResponseError:  # Redis 6
        node.cluster("ADDSLOTS", *range(first, last + 1))


def _errors_of(node: ClusterNode) -> Counter[str]:
    stats = node.client.info("errorstats")
    return Counter({name.removeprefix("errorstat_"): int(stat["count"]) for name, stat in stats.items()})


def _is_number(value: object) -> bool:
    return isinstance(value, int | float)


def _free_ports(count: int) -> list[int]:
    """Ports that are free together with those of their bus."""
    with contextlib.ExitStack() as held:
        return [port for port, _ in zip(_unused(held), range(count), strict=False)]


def _unused(held: contextlib.ExitStack) -> Iterator[int]:
    own = _PORTS[int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % _SHARES :: _SHARES]
    for port in random.SystemRandom().sample(own, len(own)):
        with contextlib.suppress(OSError):
            for number in (port, port + _BUS):
                held.enter_context(socket.socket()).bind(("127.0.0.1", number))
            yield port
