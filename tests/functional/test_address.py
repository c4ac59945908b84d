"""The leased VIP and our ARP in two network namespaces joined by a cable (a veth pair); needs root."""

from __future__ import annotations

import itertools
import math
import os
import shutil
import socket
import stat
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.functional.netns import Host, ip, until

from chefha_core.parts.address import Address, AddressError
from chefha_core.parts.arp import ArpError, announce, who_has

VIP = "192.0.2.9"
_numbers = itertools.count()

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("ip") is None, reason="network namespaces need root and iproute2"
)


@dataclass
class Lan:
    a: Host
    b: Host


@pytest.fixture
def lan() -> Iterator[Lan]:
    number = next(_numbers)
    try:
        a = Host(f"chefha-{os.getpid()}-{number}a")
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no network namespaces here: {error.stderr}")
    b = Host(f"chefha-{os.getpid()}-{number}b")
    try:
        a.ip("link", "add", "name", "lan", "type", "veth", "peer", "name", "lan", "netns", b.name)
        for host, address in ((a, "192.0.2.1/24"), (b, "192.0.2.2/24")):
            host.ip("addr", "add", address, "dev", "lan")
            host.ip("link", "set", "dev", "lan", "up")
        until(lambda: "LOWER_UP" in a.ip("link", "show", "dev", "lan"))
        yield Lan(a, b)
    finally:
        a.close()
        b.close()


# ---- the address


def test_hold_look_drop(lan: Lan) -> None:
    address = Address(VIP, "lan")
    assert not lan.a.run(address.held).present
    start = time.monotonic()
    lan.a.run(address.hold, 10)
    held_after = time.monotonic() - start
    held = lan.a.run(address.held)
    assert held.present
    assert lan.a.run(address.present)
    assert 8 <= held.remaining_seconds <= 10
    assert held.places == (("lan", 32),)
    shown = lan.a.ip("addr", "show", "dev", "lan")
    assert "deprecated" in shown, "it must never be a source address"
    assert "noprefixroute" in shown
    assert VIP not in lan.a.ip("route")
    start = time.monotonic()
    lan.a.run(address.drop)
    print(
        f"\n  measured: hold {held_after * 1000:.1f} ms, drop {(time.monotonic() - start) * 1000:.1f} ms",
        end="",
    )
    assert not lan.a.run(address.held).present
    assert not lan.a.run(address.present)
    lan.a.run(address.drop)
    lan.a.run(address.drop)


def test_presence_is_not_fooled(lan: Lan) -> None:
    """By a kernel that lets any address be bound, by a missing route, by an interface that is down."""
    address = Address(VIP, "lan")
    ip("netns", "exec", lan.a.name, "sysctl", "-qw", "net.ipv4.ip_nonlocal_bind=1")
    assert not lan.a.run(address.present)
    lan.a.run(address.hold, 60)
    assert lan.a.run(address.present)
    lan.a.ip("link", "set", "dev", "lan", "down")
    assert lan.a.run(address.held).present == lan.a.run(address.present)
    lan.a.run(address.drop)
    assert not lan.a.run(address.present)


@pytest.mark.parametrize("lifetime", [1, 3])
def test_the_kernel_ends_it(lan: Lan, lifetime: int) -> None:
    """F06, F15: nobody does anything, and the address goes."""
    address = Address(VIP, "lan")
    start = time.monotonic()
    lan.a.run(address.hold, lifetime)
    until(lambda: not lan.a.run(address.held).present, lifetime + 3)
    took = time.monotonic() - start
    print(f"\n  measured: a lifetime of {lifetime} s ended after {took:.2f} s", end="")
    assert lifetime - 0.1 <= took <= lifetime + 1.1


def test_renewing_extends_it(lan: Lan) -> None:
    address = Address(VIP, "lan")
    start = time.monotonic()
    lan.a.run(address.hold, 2)
    while time.monotonic() < start + 4:
        last = time.monotonic()
        lan.a.run(address.hold, 2)
        assert lan.a.run(address.held).present
        assert lan.a.ip("addr", "show", "dev", "lan").count(VIP) == 1
        time.sleep(0.3)
    until(lambda: not lan.a.run(address.held).present, 5)
    assert 1.9 <= time.monotonic() - last <= 3.1


def test_a_lifetime_must_end(lan: Lan) -> None:
    with pytest.raises(ValueError, match="lifetime"):
        Address(VIP, "lan").hold(0)


def test_an_address_set_for_good_is_reported_and_dropped(lan: Lan) -> None:
    """Somebody put the VIP into the network configuration, of another interface at that."""
    lan.a.ip("link", "set", "dev", "lo", "up")
    lan.a.ip("addr", "add", f"{VIP}/24", "dev", "lo")
    address = Address(VIP, "lan")
    held = lan.a.run(address.held)
    assert held.remaining_seconds == math.inf
    assert held.places == (("lo", 24),)
    assert "for good on lo" in lan.a.run(address.interface_problem)
    lan.a.run(address.hold, 10)
    lan.a.run(address.drop)
    assert not lan.a.run(address.held).present


def test_interface_problems(lan: Lan) -> None:
    """F28."""
    address = Address(VIP, "lan")
    assert lan.a.run(address.interface_problem) == ""
    lan.b.ip("link", "set", "dev", "lan", "down")
    until(lambda: lan.a.run(address.interface_problem) != "")
    assert "no carrier" in lan.a.run(address.interface_problem)
    lan.a.ip("link", "set", "dev", "lan", "down")
    assert "switched off" in lan.a.run(address.interface_problem)
    nowhere = Address(VIP, "wlan7")
    assert "does not exist" in lan.a.run(nowhere.interface_problem)
    with pytest.raises(AddressError, match=r"wlan7.*no interface"):
        lan.a.run(nowhere.hold, 5)


def test_a_hung_ip_command_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """F18: the program's own file may be on the disk that hangs."""
    fake = tmp_path / "ip"
    fake.write_text("#!/bin/sh\nexec sleep 30\n")
    fake.chmod(fake.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    address = Address(VIP, "lan", timeout=0.3)
    start = time.monotonic()
    with pytest.raises(AddressError, match=r"did not end within 0\.3 s"):
        address.held()
    assert time.monotonic() - start < 0.5


# ---- ARP


class Sniffer:
    """All ARP frames that arrive at a host's interface: (time, opcode, sender MAC, sender IP, target IP)."""

    def __init__(self, host: Host) -> None:
        self.frames: list[tuple[float, int, str, str, str]] = []
        self.ready = threading.Event()
        self.end = threading.Event()
        self.thread = threading.Thread(target=self._listen, args=(host,), daemon=True)
        self.thread.start()
        assert self.ready.wait(5)

    def _listen(self, host: Host) -> None:
        host.enter()
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0806)) as sock:
            sock.bind(("lan", 0x0806))
            sock.settimeout(0.05)
            self.ready.set()
            while not self.end.is_set():
                try:
                    raw, origin = sock.recvfrom(2048)
                except TimeoutError:
                    continue
                if origin[2] == socket.PACKET_OUTGOING:
                    continue
                at = time.monotonic()
                self.frames.append(
                    (
                        at,
                        raw[21],
                        raw[22:28].hex(":"),
                        socket.inet_ntoa(raw[28:32]),
                        socket.inet_ntoa(raw[38:42]),
                    )
                )

    def of(self, address: str) -> list[tuple[float, int, str, str, str]]:
        return [frame for frame in self.frames if frame[3] == address]

    def stop(self) -> None:
        self.end.set()
        self.thread.join(5)


def test_announcement_is_seen_with_both_opcodes(lan: Lan) -> None:
    sniffer = Sniffer(lan.b)
    lan.a.run(Address(VIP, "lan").hold, 10)
    start = time.monotonic()
    announcement = lan.a.run(announce, VIP, "lan")
    returned = time.monotonic()
    until(lambda: len(sniffer.of(VIP)) == 10, 3)
    frames = sniffer.of(VIP)
    sniffer.stop()
    assert [frame[1] for frame in frames] == [1, 2] * 5
    assert {frame[2:] for frame in frames} == {(lan.a.mac(), VIP, VIP)}
    assert announcement.sent == 5
    gaps = [b[0] - a[0] for a, b in itertools.pairwise(frames[::2])]
    assert all(0.15 < gap < 0.3 for gap in gaps)
    assert frames[1][0] <= returned + 0.02, "the first pair is sent before it returns"
    print(
        f"\n  measured: announce returned after {(returned - start) * 1000:.1f} ms, first frame seen after "
        f"{(frames[0][0] - start) * 1000:.1f} ms, last after {(frames[-1][0] - start) * 1000:.0f} ms",
        end="",
    )


def test_f30_a_stale_neighbour_learns_the_new_place(lan: Lan) -> None:
    """The neighbour knows the VIP at a MAC that is gone."""
    lan.b.ip("neigh", "replace", VIP, "lladdr", "02:00:00:00:00:99", "dev", "lan", "nud", "reachable")
    lan.a.run(Address(VIP, "lan").hold, 10)
    start = time.monotonic()
    lan.a.run(announce, VIP, "lan", times=8)
    until(lambda: lan.a.mac() in lan.b.ip("neigh", "show", VIP), 3)
    print(f"\n  measured: a fresh stale entry was corrected after {time.monotonic() - start:.2f} s", end="")


def test_an_announcement_ends_when_the_address_is_given_up(lan: Lan) -> None:
    sniffer = Sniffer(lan.b)
    announcement = lan.a.run(announce, VIP, "lan", 5, 0.1)
    announcement.stop()
    answers = iter([True, False])
    other = lan.a.run(announce, "192.0.2.10", "lan", 5, 0.1, still=lambda: next(answers))
    until(lambda: other.sent == 2)
    marker = lan.a.run(announce, "192.0.2.11", "lan", 4, 0.1)
    until(lambda: marker.sent == 4 and len(sniffer.of("192.0.2.11")) == 8)
    sniffer.stop()
    assert len(sniffer.of(VIP)) == 2
    assert len(sniffer.of("192.0.2.10")) == 4


def test_f06_a_late_repetition_is_not_sent(lan: Lan, monkeypatch: pytest.MonkeyPatch) -> None:
    """This process was stopped between two repetitions: the VIP may be elsewhere by now."""
    sniffer = Sniffer(lan.b)
    real, jump = time.clock_gettime, [0.0]
    monkeypatch.setattr("chefha_core.parts.arp.time.clock_gettime", lambda clock: real(clock) + jump[0])
    announcement = lan.a.run(announce, VIP, "lan", 5, 0.5)
    jump[0] = 5.0
    # the first repetition is due half a second after the first pair; the clock jumps well before
    until(lambda: not any(t.name == "chefha-announce" for t in threading.enumerate()))
    sniffer.stop()
    assert announcement.sent == 1
    assert len(sniffer.of(VIP)) == 2


def test_f31_a_stranger_holds_the_vip(lan: Lan) -> None:
    start = time.monotonic()
    assert lan.a.run(who_has, VIP, "lan") is None
    nobody = time.monotonic() - start
    lan.b.run(Address(VIP, "lan").hold, 20)
    start = time.monotonic()
    assert lan.a.run(who_has, VIP, "lan") == lan.b.mac()
    print(
        f"\n  measured: nobody has it {nobody * 1000:.0f} ms, "
        f"a stranger has it {(time.monotonic() - start) * 1000:.1f} ms",
        end="",
    )
    assert nobody < 0.15
    lan.b.run(Address(VIP, "lan").drop)
    assert lan.a.run(who_has, VIP, "lan") is None


def test_our_own_address_is_no_stranger(lan: Lan) -> None:
    """Also with a second interface of ours in the same network, which answers for the address too."""
    lan.b.ip("link", "add", "name", "bridge", "type", "bridge")
    lan.a.ip("link", "add", "name", "lan2", "type", "veth", "peer", "name", "port2", "netns", lan.b.name)
    for port in ("lan", "port2"):
        lan.b.ip("link", "set", "dev", port, "master", "bridge", "up")
    lan.b.ip("link", "set", "dev", "bridge", "up")
    lan.a.ip("link", "set", "dev", "lan2", "up")
    until(lambda: "state forwarding" in lan.b.ip("-d", "link", "show", "dev", "port2"), 40)
    until(lambda: "state forwarding" in lan.b.ip("-d", "link", "show", "dev", "lan"), 40)
    lan.a.run(Address(VIP, "lan").hold, 60)
    assert lan.a.run(who_has, VIP, "lan", 0.3) is None
    assert lan.a.run(who_has, VIP, "lan2", 0.3) is None


def test_asking_changes_no_neighbours_cache(lan: Lan) -> None:
    lan.b.ip("neigh", "flush", "dev", "lan")
    lan.a.run(who_has, VIP, "lan")
    assert lan.a.mac() not in lan.b.ip("neigh", "show", "dev", "lan")


def test_arp_errors_are_sentences(lan: Lan) -> None:
    with pytest.raises(ArpError, match="wlan7: No such device"):
        lan.a.run(announce, VIP, "wlan7")
    with pytest.raises(ArpError, match="lo is no Ethernet"):
        lan.a.run(who_has, VIP, "lo")
    lan.a.ip("link", "set", "dev", "lan", "down")
    with pytest.raises(ArpError, match="could not be announced on lan: Network is down"):
        lan.a.run(announce, VIP, "lan")
    with pytest.raises(ArpError, match="Network is down"):
        lan.a.run(who_has, VIP, "lan")
