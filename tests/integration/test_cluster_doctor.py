"""``stepflow doctor`` on a real cluster: it looks at each primary, with the rights of its role."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from stepflow import Context, Stepflow
from stepflow_broker.access.acl import rules
from stepflow_broker.access.roles import ROLES
from stepflow_broker.doctor.findings import Finding, Severity
from stepflow_broker.doctor.server import examine_server
from stepflow_broker.protocol.keys import slot_of
from stepflow_broker.redis_client.broker import Broker
from stepflow_broker.redis_client.partitions import keys_for
from stepflow_workers.state.settings import WorkerSettings
from tests.support.cluster import LocalCluster
from tests.support.command_line import call
from tests.support.processes import WorkerThread, until
from tests.support.roles import password_of

pytestmark = [pytest.mark.single_server("a cluster of its own"), pytest.mark.slow]
PRIMARIES = 3
PARTITIONS = 6


def url_of(cluster: LocalCluster, user: str = "") -> str:
    """The URL of the cluster with the rights of a role; ``""``: with all."""
    name = f"stepflow-{user}:{password_of(user)}@" * bool(user)
    return f"{cluster.url.replace('://', f'://{name}')}?partitions={PARTITIONS}"


def looked_at(url: str) -> list[Finding]:
    broker = Broker(url)
    try:
        return examine_server(broker, keys_for(url))
    finally:
        broker.close()


def of(found: list[Finding], code: str) -> list[Finding]:
    return [finding for finding in found if finding.code == code]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """Three primaries without replicas."""
    with LocalCluster(tmp_path_factory.mktemp("cluster"), primaries=PRIMARIES, replicas=0) as running:
        yield running


def test_each_primary_is_looked_at_once_and_the_cluster_as_a_whole(cluster: LocalCluster) -> None:
    found = looked_at(url_of(cluster))
    names = {f"127.0.0.1:{node.port}" for node in cluster.nodes}
    per_node = ("version", "eviction", "persistence", "replicas", "memory", "coverage", "clock", "scripts", "rights")
    assert Counter(one.code for one in found) == {"cluster": 1, "partitions": 1, **dict.fromkeys(per_node, PRIMARIES)}
    for code in per_node:
        assert {one.subject for one in of(found, code)} == names
        assert all(one.text.startswith(f"{one.subject}: ") for one in of(found, code))
    assert [one.severity for one in (*of(found, "cluster"), *of(found, "partitions"))] == [Severity.OK] * 2
    assert all("2 at " in one.text for one in of(found, "partitions"))
    assert {one.code for one in found if one.severity is not Severity.OK} == {"replicas", "coverage"}
    assert call("doctor", "--redis-url", url_of(cluster)).returncode == 0


def test_partitions_that_lie_unevenly_are_a_warning(cluster: LocalCluster) -> None:
    keys, first = keys_for(url_of(cluster)), cluster.nodes[0]
    homes = {one: cluster.owner(slot_of(one.partition)) for one in keys.all}
    moved = [one for one, home in homes.items() if home is not first]
    for one in moved:
        cluster.migrate_slot(slot_of(one.partition), first)
    (found,) = of(looked_at(url_of(cluster)), "partitions")
    assert found.severity is Severity.WARNING
    assert f"6 at 127.0.0.1:{first.port}" in found.text
    assert "move their slots" in found.text
    for one in moved:
        cluster.migrate_slot(slot_of(one.partition), homes[one])
    assert of(looked_at(url_of(cluster)), "partitions")[0].severity is Severity.OK


def test_a_url_that_names_one_node_only_says_what_to_write(cluster: LocalCluster) -> None:
    found = looked_at(f"redis://127.0.0.1:{cluster.nodes[0].port}/0")
    (version,) = [one for one in of(found, "version") if one.severity is Severity.ERROR]
    assert "write redis+cluster://" in version.text


def test_a_primary_that_is_lost_is_named(tmp_path: Path) -> None:
    settings = {"cluster_require_full_coverage": "no"}
    with LocalCluster(tmp_path, primaries=PRIMARIES, replicas=0, node_timeout_ms=500, **settings) as cluster:
        url, lost = url_of(cluster), cluster.nodes[1]
        assert all(one.severity is Severity.OK for one in of(looked_at(url), "coverage"))
        lost.kill()
        until(lambda: of(looked_at(url), "cluster")[0].severity is Severity.ERROR, what="that it is missed")
        found = of(looked_at(url), "cluster")
        assert "unavailable: a primary is lost" in found[0].text
        assert [one.subject for one in found[1:]] == [f"127.0.0.1:{lost.port}"]
        done = call("doctor", "--redis-url", url)
        assert done.returncode == 5
        assert "a primary is lost" in done.stdout


# -- roles -----------------------------------------------------------------------


def test_each_role_does_its_work_on_a_cluster_with_users(cluster: LocalCluster) -> None:
    for node, role in itertools.product(cluster.nodes, ROLES):
        words = ("on", f">{password_of(role.name)}", *rules(role, cluster=True))
        node.client.execute_command("ACL", "SETUSER", role.user, *words)
    app = Stepflow("shop", redis_url=url_of(cluster, "producer"))

    @app.function("pay", event="shop/paid")
    async def pay(ctx: Context) -> str:
        return await ctx.step.run("charge", lambda: "charged")

    worker = WorkerThread(app, WorkerSettings(url_of(cluster, "worker"), lease_ms=3_000))
    try:
        assert [app.start(pay, {"n": n}).result(30) for n in range(12)] == ["charged"] * 12
        for words in (["pause", "queue", "shop"], ["resume", "queue", "shop"]):
            assert call(*words, "--redis-url", url_of(cluster, "operator")).returncode == 0
        for words in (["runs", "list"], ["functions"], ["workers"], ["queues"], ["pauses"]):
            assert call(*words, "--redis-url", url_of(cluster, "read-only")).returncode == 0
        assert refusals(cluster) == []
        for role, more in (("operator", ["--repair"]), ("read-only", [])):
            done = call("doctor", *more, "--redis-url", url_of(cluster, role))
            assert (done.returncode, done.stdout.count(f"this user has the rights of role {role}")) == (0, PRIMARIES)
    finally:
        worker.stop()


def refusals(cluster: LocalCluster) -> list[str]:
    """What users were refused, as the nodes have noted it; but for how a client names its library."""
    found = [f"{entry['username']}: {entry['object']}" for node in cluster.nodes for entry in node.client.acl_log()]
    return [one for one in found if "client|setinfo" not in one]
