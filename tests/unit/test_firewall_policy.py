"""The table of policy and what is made of it, without a kernel: tests/functional has one."""

from __future__ import annotations

from typing import Any

import pytest

from chefha_core.layout import firewall
from chefha_core.settings import from_pillar

PILLAR: dict[str, Any] = {
    "members": {"be1": "192.0.2.1", "be2": "192.0.2.2", "be3": "192.0.2.3"},
    "vip": "192.0.2.9",
    "frontends": {"fe1": "192.0.2.31"},
    "search": {"source": {"package": "search-engine"}},
}


def networks(*clients: Any) -> list[str]:
    settings = from_pillar({**PILLAR, "firewall": {"clients": clients}}, "anybody")
    return [str(network) for network in firewall.networks(settings, "clients")]


def test_networks_within_others_are_left_out() -> None:
    assert networks("10.0.0.0/8", "10.1.0.0/16", "10.0.0.0/8", "fd00::/8", "fd00::1") == ["10.0.0.0/8", "fd00::/8"]
    assert networks("10.0.0.1", "10.0.0.2", "::/0") == ["10.0.0.1/32", "10.0.0.2/32", "::/0"]


@pytest.mark.parametrize("rule", firewall.RULES, ids=lambda rule: f"{rule.on}-{rule.port}-{'-'.join(rule.who)}")
def test_every_rule_names_known_people_and_ports(rule: firewall.Opening) -> None:
    assert rule.on in ("backend", "frontend", "master")
    assert set(rule.who) <= {firewall.EVERYBODY, *firewall.NETWORKS}
    assert firewall.ports(from_pillar(PILLAR, "anybody"), rule)
    assert rule.why and '"' not in rule.why and len(rule.why) < 120, "it is a comment of nft"


def test_front_ends_reach_postgresql_and_search_and_nothing_else_but_ssh() -> None:
    settings = from_pillar(PILLAR, "anybody")
    reached = [port for port in range(1, 10000) if firewall.may_reach(settings, ("backend",), "192.0.2.31", port)]
    assert reached == [22, 5432, 9200]


def test_switched_off_nothing_is_installed_or_written() -> None:
    settings = from_pillar({**PILLAR, "firewall": {"enabled": False}}, "anybody")
    states = {wish.state for wish in firewall.firewall(settings, "be1")}
    assert states == {"service.dead", "cmd.run", "file.absent"}


@pytest.mark.parametrize(
    ("named", "opened"), [("be1", True), (["be1"], True), ("be10", False), (["be10"], False), (None, False)]
)
def test_salts_ports_open_where_the_pillar_names_this_minion_in_full(named: Any, opened: bool) -> None:
    wishes = firewall.firewall(from_pillar(PILLAR, "anybody"), "be1", masters=named)
    [rules] = [wish.arguments["contents"] for wish in wishes if wish.arguments["name"] == firewall.FILE]
    assert ("4505" in rules) == opened


def test_no_other_table_is_named() -> None:
    """`flush ruleset` would take a container engine's tables along."""
    text = firewall.ruleset(from_pillar(PILLAR, "anybody"), ("backend",))
    assert "flush" not in text
    assert {line for line in text.splitlines() if "table " in line} == {
        "# Laid out by chefha. This one table is replaced in one step; tables of others stay as they are.",
        "table inet chefha {",
        "delete table inet chefha",
    }
