"""Every port of a back end and of a front end, tried from every kind of machine over IPv4 and IPv6.

What was found is half of docs/ports.md: CHEFHA_WRITE_DOCS=1 writes it, otherwise the page must say the same.
"""

from __future__ import annotations

import ipaddress
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from lab.api import Lab
from lab.topology import BACKENDS, CLIENT, FRONTENDS, MASTER, WATCH, Node
from tests.pages import is_current
from tests.ports_page import PORTS, tried, with_section

from chefha_core.layout.firewall import may_reach, roles_of
from chefha_core.settings import Settings, from_pillar

PROBER = Path(__file__).resolve().parents[2] / "lab/inside/ports.py"
PLACE = "/var/lib/lab-ports.py"
#: kind of machine -> the one that tries; the master is nobody that the pillar names
KINDS = {
    "another back end": BACKENDS[1],
    "a front end": FRONTENDS[1],
    "the client": CLIENT,
    "the watch": WATCH,
    "a stranger": MASTER,
}
#: machine that is tried -> what the page calls it
TRIED = {BACKENDS[0]: "A back end", FRONTENDS[0]: "A front end"}
SERVICES = {
    22: "ssh",
    80: "Chef Infra Server, HTTP",
    443: "Chef Infra Server, HTTPS",
    2379: "etcd, clients",
    2380: "etcd, members",
    4505: "salt-master, publisher",
    4506: "salt-master, requests",
    5432: "PostgreSQL",
    7331: "leaderl",
    8080: "the lab's shop",
    9200: "search, HTTP",
    9300: "search, members",
    33000: "nothing",
}
TIMEOUT = 2.0
Found = dict[tuple[str, int], dict[int, str]]


@pytest.fixture
def settings(lab: Lab) -> Settings:
    """The pillar as a back end has it."""
    if lab.machines.find(FRONTENDS[0]) is None:
        pytest.skip("this stack has no front ends")
    node = BACKENDS[0].name
    shown = lab.salt(node, "chefha.validate_pillar")[node]
    assert isinstance(shown, dict), shown
    return from_pillar(shown, "anybody")


def addresses(node: Node) -> tuple[str, str]:
    """IPv4 and IPv6: the one ends in the digits that the other ends in."""
    return node.address, f"fd00:c4ef:a::{node.address.rpartition('.')[2]}"


def tries(lab: Lab, target: Node, kind: str) -> Found:
    """What one kind of machine finds on the target."""
    node = KINDS[kind]
    lab.machines.write(node, {PLACE: PROBER.read_bytes()})
    job = {"targets": [(address, port) for address in addresses(target) for port in SERVICES], "timeout": TIMEOUT}
    code, text = lab.exec(node.name, ["python3", PLACE, json.dumps(job)])
    assert code == 0, text
    found: Found = {(kind, 4): {}, (kind, 6): {}}
    for address, port, what in json.loads(text):
        found[kind, ipaddress.ip_address(address).version][port] = what
    return found


def everything(lab: Lab, target: Node) -> Found:
    """What all kinds of machines find on the target."""
    found: Found = {}
    with ThreadPoolExecutor(len(KINDS)) as pool:
        for one in pool.map(lambda kind: tries(lab, target, kind), KINDS):
            found |= one
    return found


@pytest.mark.parametrize("target", TRIED, ids=lambda node: node.name)
def test_a_port_lets_in_whom_the_policy_names_and_is_silent_to_all_others(
    lab: Lab, settings: Settings, target: Node
) -> None:
    """Where the policy lets somebody in, something answers: open, or closed where nothing listens."""
    roles = roles_of(settings, target.name)
    wrong = []
    for (kind, version), words in everything(lab, target).items():
        source = addresses(KINDS[kind])[0 if version == 4 else 1]
        for port, what in words.items():
            expected = {"open", "closed"} if may_reach(settings, roles, source, port) else {"filtered"}
            if what not in expected:
                wrong.append(f"{target.name} {port} from {kind} over IPv{version}: {what}, not {expected}")
    assert not wrong, "\n".join(wrong)


def test_whom_chefha_needs_finds_open_ports(lab: Lab, settings: Settings) -> None:
    """Not only let in: something listens there, also on the front ends' way through the VIP."""
    found = everything(lab, BACKENDS[0])
    services = {"another back end": {2379, 2380, 5432, 7331, 9200, 9300}, "a front end": {5432, 9200}}
    services |= {"the client": {5432, 7331, 9200}, "a stranger": set()}
    for kind, ports in services.items():
        assert {port for port, what in found[kind, 4].items() if what == "open"} - {22} == ports, kind
    job = {"targets": [(settings.vip, 5432), (settings.vip, 9200), (settings.vip, 2379)], "timeout": TIMEOUT}
    code, text = lab.exec(FRONTENDS[1].name, ["python3", PLACE, json.dumps(job)])
    assert code == 0 and [what for *_, what in json.loads(text)] == ["open", "open", "filtered"], text


def test_the_page_says_what_was_found(lab: Lab, settings: Settings) -> None:
    parts = [tried(words, list(KINDS), everything(lab, target), SERVICES) for target, words in TRIED.items()]
    head = "## What machines find\n\nEach cell: over IPv4 / over IPv6, in nmap's words. Found in the lab.\n\n"
    text = with_section(PORTS.read_text(encoding="utf-8"), "tried", head + "\n".join(parts))
    is_current(PORTS, text)


def test_switched_off_and_on_again_test_mode_tells_the_truth(lab: Lab, settings: Settings) -> None:
    """On one machine: what is announced is done, nothing of it is left, and a highstate brings it back."""
    node, stranger = BACKENDS[1], MASTER
    off = json.dumps({"chefha": {"firewall": {"enabled": False}}})
    job = json.dumps({"targets": [(node.address, 5432)], "timeout": TIMEOUT})
    lab.machines.write(stranger, {PLACE: PROBER.read_bytes()})

    def sees() -> str:
        code, text = lab.exec(stranger.name, ["python3", PLACE, job])
        assert code == 0, text
        return str(json.loads(text)[0][2])

    def apply(*arguments: str) -> dict[str, object]:
        answer = lab.salt(node.name, "state.sls", "chefha.firewall", *arguments, timeout=120)[node.name]
        assert isinstance(answer, dict), answer
        return next(dict(one["changes"]) for key, one in answer.items() if "_|-chefha_firewall_|-" in key)

    assert sees() == "filtered"
    try:
        announced = apply(f"pillar={off}", "test=True")
        done = apply(f"pillar={off}")
        assert list(announced) == list(done) and done
        assert apply(f"pillar={off}", "test=True") == {}
        assert sees() == "open"
        assert "table inet chefha" not in lab.exec(node.name, ["nft", "list", "tables"])[1].splitlines()
    finally:
        announced = apply("test=True")
        assert list(announced) == list(apply())
    assert apply("test=True") == {}
    assert sees() == "filtered"
