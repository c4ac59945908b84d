"""EtcdClient against three real members of etcd on loopback, with and without mutual TLS."""

from __future__ import annotations

import multiprocessing
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.functional.etcd_server import ETCD, EtcdServers, free_ports
from tests.functional.etcd_tools import LATE, timed, tls_files, until

from chefha_core.parts.etcd import (
    Compare,
    Delete,
    EtcdClient,
    EtcdRefused,
    EtcdUnreachable,
    Put,
    TlsFiles,
)

pytestmark = pytest.mark.skipif(not ETCD, reason="etcd is not installed")

# ---- keys, transactions, leases


def test_keys_are_relative_to_the_prefix(client: EtcdClient, servers: EtcdServers) -> None:
    assert client.get("leader") is None
    revision = client.put("leader", 'é {"a": 1}')
    found = client.get("leader")
    assert found is not None
    assert (found.key, found.value, found.version, found.lease) == ("leader", 'é {"a": 1}', 1, 0)
    assert found.mod_revision == found.create_revision == revision
    client.put("members/b", "")
    servers.client(prefix=client.prefix + "x").put("leader", "another prefix")
    servers.client(prefix=client.prefix.rstrip("/") + "0").put("leader", "a neighbour")
    snapshot = client.range()
    assert set(snapshot.kvs) == {"leader", "members/b", "x/leader"}
    assert snapshot.kvs["members/b"].value == ""
    assert set(client.range("members/").kvs) == {"members/b"}
    assert snapshot.revision == revision + 3
    assert client.delete("leader")
    assert not client.delete("leader")
    assert set(client.range().kvs) == {"members/b", "x/leader"}


def test_compare_and_set_won_and_lost(client: EtcdClient) -> None:
    first = client.txn([Compare.absent("leader"), Compare.mod_revision("leader", 0)], [Put("leader", "a")])
    assert first.succeeded
    assert not client.txn([Compare.mod_revision("leader", 0)], [Put("leader", "b")]).succeeded
    lost = client.txn([Compare.absent("leader")], [Put("leader", "b")], [Put("loser", "b")])
    assert not lost.succeeded
    assert not lost.doubtful
    leader = client.get("leader")
    assert leader is not None
    assert (leader.value, leader.mod_revision) == ("a", first.revision)
    assert client.get("loser") is not None
    renewed = client.txn([Compare.mod_revision("leader", first.revision)], [Put("leader", "a2")])
    assert renewed.succeeded
    assert not client.txn([Compare.mod_revision("leader", first.revision)], [Put("leader", "b")]).succeeded
    both = [Compare.create_revision("leader", first.revision), Compare.value("leader", "a2")]
    assert client.txn(both, [Delete("leader"), Put("history/1", "a")]).succeeded
    assert set(client.range().kvs) == {"loser", "history/1"}


def test_one_of_many_wins_a_transaction(client: EtcdClient, servers: EtcdServers) -> None:
    wins: list[str] = []

    def run(name: str) -> None:
        own = servers.client(prefix=client.prefix, first=int(name) % 3)
        if own.txn([Compare.absent("leader")], [Put("leader", name)]).succeeded:
            wins.append(name)

    threads = [threading.Thread(target=run, args=(str(n),)) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    leader = client.get("leader")
    assert leader is not None
    assert wins == [leader.value]


def test_leases(client: EtcdClient) -> None:
    lease = client.lease_grant(30)
    client.put("members/a", "here", lease=lease)
    found = client.get("members/a")
    assert found is not None
    assert found.lease == lease
    assert client.lease_keepalive(lease) == 30
    client.lease_revoke(lease)
    client.lease_revoke(lease)
    assert client.get("members/a") is None
    assert client.lease_keepalive(lease) == 0
    with pytest.raises(EtcdRefused, match="lease not found"):
        client.put("members/a", "here", lease=lease)


def test_refusals_are_sentences_of_etcd(client: EtcdClient) -> None:
    with pytest.raises(EtcdRefused, match="duplicate key"):
        client.txn([], [Put("a", "1"), Put("a", "2")])
    with pytest.raises(EtcdRefused, match="future revision"):
        client.compact(10**9)


def test_times_of_the_usual_calls(client: EtcdClient) -> None:
    client.put("leader", "0")

    def median(call: Callable[[], object]) -> float:
        took = []
        for _ in range(60):
            start = time.monotonic()
            call()
            took.append(time.monotonic() - start)
        return statistics.median(took) * 1000

    revision = client.txn([], [Put("leader", "x")]).revision

    def renew() -> None:
        nonlocal revision
        result = client.txn([Compare.mod_revision("leader", revision)], [Put("leader", "x")])
        assert result.succeeded
        revision = result.revision

    print(
        f"\n  measured: get {median(lambda: client.get('leader')):.2f} ms, range {median(client.range):.2f}"
        f" ms, put {median(lambda: client.put('b', 'x')):.2f} ms, txn {median(renew):.2f} ms",
        end="",
    )


# ---- members


def test_members_status_health_alarms(client: EtcdClient, servers: EtcdServers) -> None:
    members = client.members()
    assert [m.name for m in members] == ["n1", "n2", "n3"]
    assert [m.client_urls for m in members] == [(url,) for url in servers.endpoints]
    statuses = [client.status(endpoint) for endpoint in servers.endpoints]
    assert [s.member_id for s in statuses] == [m.id_hex for m in members]
    assert len({s.leader_id for s in statuses}) == 1
    assert statuses[0].version.startswith("3.")
    assert statuses[0].db_size > 0
    assert client.alarms() == ()
    assert all(h.ok for h in client.healthy_endpoints())


def test_leadership_moves_where_it_is_asked_to(client: EtcdClient, servers: EtcdServers) -> None:
    for member in client.members():
        with timed(f"leadership to {member.name}"):
            client.move_leader(member.id_hex)
        assert servers.leader().name == member.name
    client.move_leader(client.members()[-1].id_hex)  # has it already


# ---- F32, F33, F37: members dead, hung, no quorum


def test_f32_one_member_dead(client: EtcdClient, servers: EtcdServers) -> None:
    client.put("a", "1")
    servers.members[0].kill()
    with timed("first answer after the member in use was killed", within=2.0 + LATE):
        client.get("a", timeout=2.0)
    with timed("second answer", within=0.5):
        client.get("a", timeout=2.0)
    health = client.healthy_endpoints(1.0)
    assert [h.ok for h in health] == [False, True, True]
    assert "refused" in health[0].problem


def test_f32_leader_of_etcd_dead(client: EtcdClient, servers: EtcdServers) -> None:
    servers.leader().kill()
    with timed("first write after etcd's leader was killed (election time-out 0.5 s)", within=5 + LATE):
        client.put("a", "1", timeout=5.0)


@pytest.mark.parametrize("role", ["follower", "leader"])
def test_f37_one_member_hangs(client: EtcdClient, servers: EtcdServers, role: str) -> None:
    leader = servers.leader()
    victim = leader if role == "leader" else next(m for m in servers.members if m is not leader)
    own = servers.client(prefix=client.prefix, first=servers.members.index(victim))
    own.put("a", "1")
    victim.pause()
    seconds = 0.8 if role == "follower" else 4.0  # with the leader hung an election comes first
    with timed(f"read while the member in use, a {role}, is stopped (deadline {seconds:g} s)", within=seconds):
        assert own.get("a", timeout=seconds) is not None
    with timed("next write", within=seconds):
        own.put("a", "2", timeout=seconds)
    health = {h.endpoint: h.ok for h in own.healthy_endpoints(0.5)}
    assert health == {m.client_url: m is not victim for m in servers.members}


def test_f37_lost_answer_is_doubtful_not_wrong(client: EtcdClient, servers: EtcdServers) -> None:
    """A member is stopped with the transaction in its hands, another answers; when it goes on it loses."""
    own = servers.client(prefix=client.prefix)
    revision = own.txn([Compare.absent("leader")], [Put("leader", "0")]).revision
    if servers.leader() is servers.members[0]:
        own.move_leader(own.members()[1].id_hex)
    servers.members[0].pause()
    result = own.txn([Compare.mod_revision("leader", revision)], [Put("leader", "1")], timeout=2.0)
    assert result.succeeded
    servers.members[0].resume()
    servers.wait_healthy()
    leader = own.get("leader")
    assert leader is not None
    assert (leader.value, leader.mod_revision) == ("1", result.revision)


@pytest.mark.parametrize("how", ["killed", "stopped"])
@pytest.mark.parametrize("timeout", [0.5, 1.5])
def test_f33_no_quorum(client: EtcdClient, servers: EtcdServers, how: str, timeout: float) -> None:
    client.put("a", "1")
    for member in servers.members[1:]:
        member.kill() if how == "killed" else member.pause()
    calls: list[Callable[[], object]] = [
        lambda: client.get("a", timeout=timeout),
        lambda: client.range(timeout=timeout),
        lambda: client.txn([Compare.absent("b")], [Put("b", "1")], timeout=timeout),
        lambda: client.lease_grant(10, timeout=timeout),
    ]
    for call in calls:
        with (
            timed(f"no quorum, others {how}, deadline {timeout:g} s", within=timeout + LATE),
            pytest.raises(EtcdUnreachable) as caught,
        ):
            call()
    print(f"\n  {caught.value}", end="")
    assert set(caught.value.reasons) == set(servers.endpoints)
    for member in servers.members[1:]:
        member.resume() if how == "stopped" else member.start()
    with timed("quorum back until the first write", within=15):
        until(lambda: answers(client), 15)


def answers(client: EtcdClient) -> bool:
    try:
        client.put("a", "2", timeout=0.5)
    except EtcdUnreachable:
        return False
    return True


def test_nobody_listens(client: EtcdClient) -> None:
    endpoints = [f"http://127.0.0.1:{port}" for port in free_ports(3)]
    lonely = EtcdClient(endpoints, prefix="/x", timeout=5)
    with (
        timed("three refused connections, deadline 5 s", within=0.5),
        pytest.raises(EtcdUnreachable, match="connection refused"),
    ):
        lonely.get("a")


def _read_in_child(client: EtcdClient, answers: multiprocessing.SimpleQueue[str]) -> None:
    found = client.get("a")
    answers.put(found.value if found else "")


def test_a_forked_child_has_connections_of_its_own(client: EtcdClient) -> None:
    client.put("a", "1")
    context = multiprocessing.get_context("fork")
    results: multiprocessing.SimpleQueue[str] = context.SimpleQueue()
    children = [context.Process(target=_read_in_child, args=(client, results)) for _ in range(4)]
    for child in children:
        child.start()
    for child in children:
        client.get("a")
        child.join(10)
        assert child.exitcode == 0
    assert [results.get() for _ in children] == ["1"] * 4


def test_tls_without_a_certificate_or_with_a_foreign_authority(servers: EtcdServers, tmp_path: Path) -> None:
    """F55."""
    if servers.tls is None:
        with pytest.raises(EtcdUnreachable):
            secure = [endpoint.replace("http:", "https:") for endpoint in servers.endpoints]
            EtcdClient(secure, prefix="/x", timeout=1, tls=tls_files(tmp_path)).get("a")
        return
    foreign = tls_files(tmp_path)
    with pytest.raises(EtcdUnreachable, match=r"(?i)certificate verify failed"):
        EtcdClient(servers.endpoints, prefix="/x", timeout=1, tls=foreign).get("a")
    half = TlsFiles(servers.tls.ca, foreign.certificate, foreign.key)
    with pytest.raises(EtcdUnreachable, match=r"(?i)certificate|reset|pipe"):
        EtcdClient(servers.endpoints, prefix="/x", timeout=1, tls=half).get("a")
    missing = TlsFiles(servers.tls.ca, str(tmp_path / "nothing.pem"), servers.tls.key)
    with pytest.raises(EtcdUnreachable, match="no such file"):
        EtcdClient(servers.endpoints, prefix="/x", timeout=1, tls=missing).get("a")
    plain = [endpoint.replace("https:", "http:") for endpoint in servers.endpoints]
    with pytest.raises(EtcdUnreachable):
        EtcdClient(plain, prefix="/x", timeout=1).get("a")


# ---- a single member with little room


def test_f35_out_of_quota(tmp_path: Path) -> None:
    with EtcdServers(tmp_path, count=1, options=(f"--quota-backend-bytes={2 * 1024 * 1024}",)) as servers:
        client = servers.client()
        with pytest.raises(EtcdRefused, match="database space exceeded") as caught:
            for number in range(200):
                client.put(f"big/{number}", "x" * 100_000)
        assert caught.value.code == 8
        assert [alarm.kind for alarm in client.alarms()] == ["NOSPACE"]
        assert client.get("big/0") is not None
