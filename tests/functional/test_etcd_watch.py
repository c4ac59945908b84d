"""Doorbell against three real members of etcd on loopback, with and without mutual TLS."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from tests.functional.etcd_server import ETCD, EtcdServers
from tests.functional.etcd_tools import member_at, timed, until

from chefha_core.parts.etcd import Compare, EtcdClient, EtcdUnreachable, Put
from chefha_core.parts.etcd_hedge import HOME
from chefha_core.parts.etcd_watch import Doorbell

pytestmark = pytest.mark.skipif(not ETCD, reason="etcd is not installed")


class Ear:
    """Collects what a Doorbell says."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, str, str | None, int, float]] = []
        self.gaps = 0

    def change(self, key: str, kind: str, value: str | None, revision: int, at: float) -> None:
        self.heard.append((key, kind, value, revision, at))

    def gap(self) -> None:
        self.gaps += 1

    @property
    def values(self) -> list[str | None]:
        return [value for _, _, value, _, _ in self.heard]


@contextmanager
def listening(
    client: EtcdClient, *, idle: float = 5.0, opening: float = 1.0, start_revision: int = 0
) -> Iterator[tuple[Doorbell, Ear]]:
    ear = Ear()
    bell = Doorbell(client, ear.change, on_gap=ear.gap, idle=idle, opening=opening, start_revision=start_revision)
    bell.start()
    try:
        assert bell.listening.wait(10)
        yield bell, ear
    finally:
        with timed("the doorbell's end", within=opening + 0.5):  # a TLS handshake cannot be broken off
            bell.stop()
            bell.join(5)
        assert not bell.is_alive()


def test_every_change_rings(client: EtcdClient, servers: EtcdServers) -> None:
    with listening(client) as (_, ear):
        delays = []
        for number in range(50):
            sent = time.monotonic()
            client.put("leader", str(number))
            until(lambda number=number: len(ear.heard) > number)  # type: ignore[misc]
            delays.append(ear.heard[-1][4] - sent)
        client.delete("leader")
        client.txn([], [Put("a", "1"), Put("b", "2")])
        servers.client(prefix="/elsewhere").put("leader", "x")
        until(lambda: len(ear.heard) == 53)
        assert ear.values[:50] == [str(n) for n in range(50)]
        assert ear.heard[50][:3] == ("leader", "delete", None)
        assert {h[0] for h in ear.heard[51:]} == {"a", "b"}
        assert ear.heard[51][3] == ear.heard[52][3]
        print(f"\n  measured: from sending a put to the bell {statistics.median(delays) * 1000:.2f} ms", end="")


def test_a_start_revision_hears_the_past(client: EtcdClient) -> None:
    revision = client.put("a", "0")
    for number in range(1, 2500):
        client.put("a", str(number))
    with listening(client, start_revision=revision) as (_, ear):
        until(lambda: len(ear.heard) >= 2500)
        client.put("a", "2500")
        until(lambda: len(ear.heard) == 2501)
        assert ear.values == [str(n) for n in range(2501)]


class Writer(threading.Thread):
    """Writes 0, 1, 2, … until stopped; each exactly once as far as etcd is concerned."""

    def __init__(self, client: EtcdClient) -> None:
        super().__init__(daemon=True)
        self.client = client
        self.written: list[str] = []
        self.ended = threading.Event()

    def run(self) -> None:
        number = 0
        while not self.ended.is_set():
            try:
                self.client.txn([Compare.absent(f"n/{number}")], [Put(f"n/{number}", str(number))], timeout=3.0)
            except EtcdUnreachable:
                continue
            self.written.append(str(number))
            number += 1
            self.ended.wait(0.002)

    def stop(self) -> None:
        self.ended.set()
        self.join(10)


@pytest.mark.parametrize("how", ["killed", "stopped"])
def test_f32_the_watched_member_goes_away(client: EtcdClient, servers: EtcdServers, how: str) -> None:
    writer = Writer(servers.client(prefix=client.prefix, first=1))
    with listening(client, idle=0.5) as (bell, ear):
        writer.start()
        until(lambda: len(ear.heard) > 50)
        victim = member_at(servers, bell.endpoint)
        victim.kill() if how == "killed" else victim.pause()
        cut = time.monotonic()
        until(lambda: bell.endpoint != victim.client_url and bell.listening.is_set())
        count = len(ear.heard)
        until(lambda: len(ear.heard) > count + 50)
        last = max(e[4] for e in ear.heard if e[4] <= cut + 0.01)
        first = min(e[4] for e in ear.heard if e[4] > cut + 0.01)
        print(
            f"\n  measured: watched member {how}, silence of {(first - last) * 1000:.0f} ms ({bell.problem})",
            end="",
        )
        writer.stop()
        until(lambda: len(ear.heard) >= len(writer.written))
        assert ear.values == writer.written, "events were missed, doubled or out of order"
        assert ear.gaps == 0


def test_f32_watch_and_calls_come_home_to_the_first_member(client: EtcdClient, servers: EtcdServers) -> None:
    """Whoever stays with another machine's member hears nothing when that machine is lost; nothing is missed by it."""
    home = servers.members[0]
    writer = Writer(servers.client(prefix=client.prefix, first=1))
    with listening(client) as (bell, ear):
        writer.start()
        home.kill()
        until(lambda: bell.endpoint != home.client_url and bell.listening.is_set())
        client.get("x")
        home.start()
        until(lambda: bell.endpoint == home.client_url, 3 * HOME)
        writer.stop()
        until(lambda: len(ear.heard) >= len(writer.written))
        assert ear.values == writer.written, "events were missed, doubled or out of order"
    until(lambda: client.get("x") is None and client._transport._current == home.client_url, 3 * HOME)


def test_f24_a_member_without_a_leader_ends_its_watches(client: EtcdClient, servers: EtcdServers) -> None:
    """The watched member lives but is cut off from the others: nothing must wait for the idle time."""
    with listening(client, idle=60) as (bell, _):
        watched = member_at(servers, bell.endpoint)
        for member in servers.members:
            if member is not watched:
                member.pause()
        with timed("cut off member ends its watch", within=10):
            until(lambda: bool(bell.problem))
        print(f" ({bell.problem})", end="")


def test_f35_compaction_during_a_watch(client: EtcdClient, servers: EtcdServers) -> None:
    """The bell sleeps through changes that are compacted away: it says that there is a gap, and hears what is
    left.
    """
    with listening(client, idle=0.4) as (bell, ear):
        client.put("a", "0")
        until(lambda: ear.values == ["0"])
        for member in servers.members:
            member.pause()
        until(lambda: not bell.listening.is_set())
        bell.stop()
        bell.join(5)
        for member in servers.members:
            member.resume()
        servers.wait_healthy()
        resume_at = bell.next_revision
    for number in range(1, 10):
        revision = client.put("a", str(number))
    client.compact(revision - 1, timeout=5)
    with listening(client, idle=5, start_revision=resume_at) as (bell, ear):
        until(lambda: ear.gaps == 1 and ear.values == ["8", "9"])
        client.put("a", "10")
        until(lambda: ear.values == ["8", "9", "10"])


def test_f36_etcd_restored_to_an_older_state(client: EtcdClient) -> None:
    """Revisions went back: the revision the bell waits for means something else now."""
    revision = client.put("a", "0")
    with listening(client, start_revision=revision + 1000) as (_, ear):
        until(lambda: ear.gaps == 1)
        client.put("a", "1")
        until(lambda: ear.values == ["1"])


def test_an_idle_watch_moves_on_and_misses_nothing(client: EtcdClient) -> None:
    with listening(client, idle=0.3) as (bell, ear):
        visited = set()
        client.put("a", "0")

        def seen() -> bool:
            visited.add(bell.endpoint)
            return len(visited) == 3

        until(seen)
        client.put("a", "1")
        until(lambda: ear.values == ["0", "1"])
        assert ear.gaps == 0


def test_a_listener_that_raises_does_not_end_the_watch(client: EtcdClient) -> None:
    heard = []

    def listener(*event: object) -> None:
        heard.append(event)
        raise RuntimeError("a bug elsewhere")

    bell = Doorbell(client, listener)
    bell.start()
    assert bell.listening.wait(10)
    client.put("a", "1")
    client.put("a", "2")
    until(lambda: len(heard) == 2)
    bell.stop()
    bell.join(5)
