"""The firewall as the kernel carries it out: hosts in network namespaces behind one switch; needs root and nft."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import select
import shutil
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lab.inside.ports import tries
from tests.functional.netns import Host, until

from chefha_core.layout import firewall
from chefha_core.settings import Settings, from_pillar

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("ip") is None or shutil.which("nft") is None,
    reason="needs root, iproute2 and nftables",
)
#: who -> last part of its addresses; `reader` is in leaderl:http_networks, `stranger` nowhere
HOSTS = {"be1": "1", "be2": "2", "fe1": "31", "client": "65", "reader": "129", "stranger": "200"}
NET4, NET6 = "192.0.2.", "fd00:c4ef::"
VIP = "192.0.2.9"
WAIT = 0.4
PILLAR: dict[str, Any] = {
    "members": {"be1": "192.0.2.1", "be2": "192.0.2.2", "be3": "192.0.2.3"},
    "vip": VIP,
    "frontends": {"fe1": "192.0.2.31"},
    "search": {"source": {"package": "search-engine"}},
    "firewall": {"clients": ["192.0.2.64/26", "192.0.2.65", "fd00:c4ef::40/122"]},
    "leaderl": {"http_networks": ["192.0.2.129", "fd00:c4ef::129"]},
}
#: nobody has opened these, though something listens; two lie where replies come back
CLOSED = (23, 111, 3389, 7332, 33000, 60999, 61000)
DOCUMENTED = (22, 80, 443, 2379, 2380, 4505, 4506, 5432, 7331, 9200, 9300)
_numbers = itertools.count()
Hosts = dict[str, Host]


def settings(**more: Any) -> Settings:
    return from_pillar({**PILLAR, **more}, "anybody")


@contextlib.contextmanager
def switched(names: list[str]) -> Iterator[Hosts]:
    """Hosts of these names on one switch, each with both kinds of addresses."""
    run = f"chefha-fw-{os.getpid()}-{next(_numbers)}"
    with contextlib.ExitStack() as stack:
        switch = Host(f"{run}-switch")
        stack.callback(switch.close)
        switch.ip("link", "add", "lan", "type", "bridge")
        switch.ip("link", "set", "lan", "up")
        hosts = {}
        for name in names:
            hosts[name] = host = Host(f"{run}-{name}")
            stack.callback(host.close)
            host.ip("link", "add", "lan", "type", "veth", "peer", "name", name, "netns", switch.name)
            switch.ip("link", "set", name, "master", "lan", "up")
            host.ip("addr", "add", f"{NET4}{HOSTS[name]}/24", "dev", "lan")
            host.ip("addr", "add", f"{NET6}{HOSTS[name]}/64", "dev", "lan", "nodad")
            host.ip("link", "set", "lan", "up")
            host.ip("link", "set", "lo", "up")
        for host in hosts.values():
            until(lambda host=host: "state UP" in host.ip("link", "show", "lan"))  # type: ignore[misc]
        yield hosts


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    """All of them; be1 is the one that is tried, and listens on every port of the tests."""
    with switched(list(HOSTS)) as made, contextlib.ExitStack() as stack:
        listening = [stack.enter_context(made["be1"].run(listener, port)) for port in (*DOCUMENTED, *CLOSED)]
        over = threading.Event()
        hanging_up = threading.Thread(target=hang_up, args=(listening, over))
        hanging_up.start()
        try:
            yield made
        finally:
            over.set()
            hanging_up.join()


@pytest.fixture(autouse=True)
def open_again(request: pytest.FixtureRequest) -> Iterator[None]:
    """After each test no firewall is left on the shared host."""
    yield
    if "hosts" in request.fixturenames:
        with contextlib.suppress(subprocess.CalledProcessError):  # it was not there
            unit(request.getfixturevalue("hosts")["be1"], "ExecStop", Path())


def listener(port: int) -> socket.socket:
    return socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)


def hang_up(listening: list[socket.socket], over: threading.Event) -> None:
    """Take every call and end it, so that no queue fills up."""
    while not over.is_set():
        for server in select.select(listening, [], [], 0.1)[0]:
            server.accept()[0].close()


def nft(host: Host, *arguments: str) -> str:
    """What nft answers in a host's namespace."""
    command = ["ip", "netns", "exec", host.name, "nft", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def unit(host: Host, what: str, file: Path) -> None:
    """What systemd runs for the unit."""
    found = re.search(rf"^{what}=-?/usr/sbin/nft (.*)$", firewall.UNIT_TEXT, re.MULTILINE)
    assert found
    nft(host, *found[1].replace(firewall.FILE, str(file)).split())


def close_up(host: Host, folder: Path, wanted: Settings, *roles: str, how: str = "ExecStart") -> None:
    """Lay the firewall out and load it, as the state and the unit do."""
    file = folder / "firewall.nft"
    file.write_text(firewall.ruleset(wanted, roles or ("backend",)))
    nft(host, "-c", "-f", str(file))
    unit(host, how, file)


def everything_seen(hosts: Hosts) -> dict[tuple[str, str], set[int]]:
    """(IP version, who) -> the ports of be1 that are open to it."""
    trying = {}
    for kind, prefix in (("4", NET4), ("6", NET6)):
        targets = [(prefix + HOSTS["be1"], port) for port in (*DOCUMENTED, *CLOSED)]
        trying |= {(kind, who): hosts[who].start(tries, targets, WAIT) for who in HOSTS}
    found = {key: {port: what for _, port, what in tried.result(20)} for key, tried in trying.items()}
    assert {what for words in found.values() for what in words.values()} <= {"open", "closed", "filtered"}, found
    return {key: {port for port, what in words.items() if what == "open"} for key, words in found.items()}


def everything_allowed(wanted: Settings, roles: tuple[str, ...]) -> dict[tuple[str, str], set[int]]:
    """The same, as the table of policy has it; a host reaches all of itself."""
    ports = (*DOCUMENTED, *CLOSED)
    return {
        (kind, who): {
            port for port in ports if who == "be1" or firewall.may_reach(wanted, roles, prefix + last, port)
        }
        for kind, prefix in (("4", NET4), ("6", NET6))
        for who, last in HOSTS.items()
    }  # fmt: skip


def test_without_a_firewall_every_port_of_the_tests_is_open(hosts: Hosts) -> None:
    assert set(map(frozenset, everything_seen(hosts).values())) == {frozenset((*DOCUMENTED, *CLOSED))}


def test_a_back_end_opens_what_each_needs_and_nothing_else(hosts: Hosts, tmp_path: Path) -> None:
    """Written out in full, beside the table of policy that the other tests compare with."""
    wanted = settings()
    close_up(hosts["be1"], tmp_path, wanted)
    found = everything_seen(hosts)
    assert found == everything_allowed(wanted, ("backend",))
    del found["4", "be1"], found["6", "be1"]
    assert found == {
        ("4", "be2"): {22, 2379, 2380, 5432, 7331, 9200, 9300},
        ("4", "fe1"): {22, 5432, 9200},
        ("4", "client"): {22, 5432, 9200},
        ("4", "reader"): {22, 7331},
        ("4", "stranger"): {22},
        ("6", "be2"): {22},
        ("6", "fe1"): {22},
        ("6", "client"): {22, 5432, 9200},
        ("6", "reader"): {22, 7331},
        ("6", "stranger"): {22},
    }


VARIANTS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "a front end": ({}, ("frontend",)),
    "a back end that is a master": ({}, ("backend", "master")),
    "a front end that is a master": ({}, ("frontend", "master")),
    "front ends ask the members": ({"frontend": {"way": "members"}}, ("backend",)),
    "an etcd of one's own": ({"etcd_endpoints": ["http://192.0.2.50:2379"]}, ("backend",)),
    "no search": ({"search": {"flavor": "none"}, "frontend": {"check_versions": False}}, ("backend",)),
    "no front ends": ({"frontends": {}}, ("backend",)),
    "other ports": ({"postgresql": {"port": 3389}, "leaderl": {"http_port": 7332}}, ("backend",)),
    "more ports": ({"firewall": {"open_ports": [22, 111], "frontend_ports": []}}, ("backend",)),
    "no port open to everybody": ({"firewall": {"open_ports": []}}, ("backend",)),
    "everybody is a client": ({"firewall": {"clients": ["0.0.0.0/0", "::/0"]}}, ("backend",)),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_port_from_every_kind_of_host_is_as_the_policy_says(hosts: Hosts, tmp_path: Path, variant: str) -> None:
    more, roles = VARIANTS[variant]
    wanted = settings(**more)
    close_up(hosts["be1"], tmp_path, wanted, *roles)
    assert everything_seen(hosts) == everything_allowed(wanted, roles)


def test_front_ends_that_ask_etcd_for_members_are_refused_at_once(hosts: Hosts, tmp_path: Path) -> None:
    """A Chef Infra Server waits minutes for an answer, member by member, before it takes those of its configuration."""
    close_up(hosts["be1"], tmp_path, settings(frontend={"way": "members"}))
    target = [(NET4 + "1", 2379)]
    assert hosts["fe1"].run(tries, target, WAIT)[0][2] == "closed"
    assert hosts["stranger"].run(tries, target, WAIT)[0][2] == "filtered"


def test_icmp_is_answered_in_both_families(hosts: Hosts, tmp_path: Path) -> None:
    close_up(hosts["be1"], tmp_path, settings())
    assert hosts["stranger"].run(echo, socket.AF_INET, NET4 + "1")
    assert hosts["stranger"].run(echo, socket.AF_INET6, NET6 + "1")


def test_udp_comes_in_only_as_an_answer(hosts: Hosts, tmp_path: Path) -> None:
    close_up(hosts["be1"], tmp_path, settings())
    inside, outside = (hosts[name].run(datagrams, 5300) for name in ("be1", "stranger"))
    with inside, outside:
        outside.sendto(b"unasked", (NET4 + "1", 5300))
        with pytest.raises(TimeoutError):
            inside.recvfrom(100)
        inside.sendto(b"question", (NET4 + "200", 5300))
        outside.sendto(b"answer", outside.recvfrom(100)[1])
        assert inside.recvfrom(100)[0] == b"answer"


def test_a_reload_cuts_nobody_and_never_lets_a_stranger_in(hosts: Hosts, tmp_path: Path) -> None:
    """Twenty reloads with other members each time; a front end talks all along, a stranger tries all along."""
    node = hosts["be1"]
    over = threading.Event()

    def stranger_tries() -> set[str]:
        found = set()
        while not over.is_set():
            found |= {what for *_, what in tries([(NET4 + "1", 5434)], 0.05)}
        return found

    close_up(node, tmp_path, settings(postgresql={"port": 5434}))
    with served(node, 5434) as server:
        talk = hosts["fe1"].run(socket.create_connection, (NET4 + "1", 5434), 2)
        answer, _ = server.accept()
        trying = hosts["stranger"].start(stranger_tries)
        try:
            for number in range(20):
                members = {"be1": "192.0.2.1", "be2": "192.0.2.2", "be3": f"192.0.2.{40 + number}"}
                changed = settings(postgresql={"port": 5434}, members=members)
                close_up(node, tmp_path, changed, how="ExecReload")
                talk.sendall(b"x")
                answer.settimeout(2)
                assert answer.recv(1) == b"x"
        finally:
            over.set()
        assert trying.result(5) == {"filtered"}
        talk.close()
        answer.close()


def test_a_connection_from_here_that_only_listens_outlives_the_first_start(tmp_path: Path) -> None:
    """As a minion's to its master: the kernel has never tracked it, and the next word comes from the other side."""
    with switched(["be1", "stranger"]) as hosts, served(hosts["stranger"], 4505) as server:
        call = hosts["be1"].run(socket.create_connection, (NET4 + "200", 4505), 2)
        answer, _ = server.accept()
        close_up(hosts["be1"], tmp_path, settings())
        answer.sendall(b"job")
        call.settimeout(2)
        assert call.recv(10) == b"job"
        for end in (call, answer):
            end.close()


def test_a_client_whose_vip_has_moved_is_told_at_once(tmp_path: Path) -> None:
    """Its packets belong to a connection that the new holder has never seen: RST, not silence."""
    with switched(["be1", "be2", "fe1"]) as hosts, contextlib.ExitStack() as stack:
        for name in ("be1", "be2"):
            close_up(hosts[name], tmp_path, settings())
        server = stack.enter_context(served(hosts["be1"], 5432))
        stack.enter_context(served(hosts["be2"], 5432))
        hosts["be1"].ip("addr", "add", f"{VIP}/32", "dev", "lan")
        call = stack.enter_context(hosts["fe1"].run(socket.create_connection, (VIP, 5432), 2))
        stack.enter_context(server.accept()[0])
        hosts["be1"].ip("addr", "del", f"{VIP}/32", "dev", "lan")
        hosts["be2"].ip("addr", "add", f"{VIP}/32", "dev", "lan")
        hosts["fe1"].ip("neigh", "replace", VIP, "lladdr", hosts["be2"].mac(), "dev", "lan")
        began = time.monotonic()
        call.sendall(b"x")
        call.settimeout(2)
        with pytest.raises(ConnectionResetError):
            call.recv(1)
        print(f"\n  measured: reset after {(time.monotonic() - began) * 1000:.1f} ms", end="")
        assert time.monotonic() - began < 0.2


OTHERS = """\
table ip nat {
	chain PREROUTING {
		type nat hook prerouting priority dstnat; policy accept;
		tcp dport 81 redirect to :80
	}
}
table inet chefha_neighbour {
	set s {
		type ipv4_addr
	}
}
"""


def test_tables_of_others_stay_when_it_comes_and_when_it_goes(tmp_path: Path) -> None:
    with switched(["be1", "stranger"]) as hosts:
        node = hosts["be1"]
        (tmp_path / "others.nft").write_text(OTHERS)
        nft(node, "-f", str(tmp_path / "others.nft"))
        before = nft(node, "list", "ruleset")
        close_up(node, tmp_path, settings())
        close_up(node, tmp_path, settings(), how="ExecReload")
        assert nft(node, "list", "tables").splitlines() == [
            "table ip nat", "table inet chefha_neighbour", "table inet chefha",
        ]  # fmt: skip
        unit(node, "ExecStop", Path())
        assert nft(node, "list", "ruleset") == before
        with served(node, 5432):
            assert hosts["stranger"].run(tries, [(NET4 + "1", 5432)], WAIT)[0][2] == "open"


def test_loading_it_again_changes_nothing(hosts: Hosts, tmp_path: Path) -> None:
    close_up(hosts["be1"], tmp_path, settings())
    first = nft(hosts["be1"], "--stateless", "list", "ruleset")
    close_up(hosts["be1"], tmp_path, settings(), how="ExecReload")
    assert nft(hosts["be1"], "--stateless", "list", "ruleset") == first
    assert first.count("table ") == 1 and "chain forward" not in first and "hook output" not in first


def test_whoever_is_let_in_can_be_looked_up_by_name(hosts: Hosts, tmp_path: Path) -> None:
    close_up(hosts["be1"], tmp_path, settings())
    for name, words in (("members4", ["192.0.2.1", "192.0.2.2", "192.0.2.3"]), ("clients6", [f"{NET6}40/122"])):
        shown = nft(hosts["be1"], "list", "set", "inet", "chefha", name)
        assert all(word in shown for word in words)


# ---- details


@contextlib.contextmanager
def served(host: Host, port: int) -> Iterator[socket.socket]:
    """A listener in a host."""
    server = host.run(listener, port)
    server.settimeout(2)
    with server:
        yield server


def datagrams(port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("0.0.0.0", port))
    sock.settimeout(WAIT)
    return sock


def echo(family: socket.AddressFamily, address: str) -> bool:
    """Whether an echo request is answered."""
    six = family == socket.AF_INET6
    protocol = socket.IPPROTO_ICMPV6 if six else socket.IPPROTO_ICMP
    ask, answer = (128, 129) if six else (8, 0)
    body = struct.pack("!HHH", 0, 7, 1)  # the kernel fills in ICMPv6's checksum
    total = 0xFFFF & ~((ask << 8) + 7 + 1)
    packet = bytes([ask, 0]) + (body if six else struct.pack("!HHH", total, 7, 1))
    with socket.socket(family, socket.SOCK_RAW, protocol) as sock:
        sock.settimeout(1)
        sock.sendto(packet, (address, 0))
        end = time.monotonic() + 1
        while time.monotonic() < end:
            data = sock.recv(500)[0 if six else 20 :]
            if data[0] == answer:
                return True
    return False
