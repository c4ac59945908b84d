"""docs/ports.md: who may reach which port, from the table of policy, and what was found when machines tried."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from chefha_core.layout.firewall import EVERYBODY, NETWORKS, RULES, Opening, ports
from chefha_core.settings import from_pillar

PORTS = Path(__file__).resolve().parents[1] / "docs/ports.md"
#: a pillar without more than it needs, for the default numbers
PLAIN = {"members": {"be1": "192.0.2.1", "be2": "192.0.2.2", "be3": "192.0.2.3"}, "vip": "192.0.2.9"}
WHO = {
    "members": "back ends",
    "frontends": "front ends",
    "clients": "`firewall:clients`",
    "http_networks": "`leaderl:http_networks`",
    EVERYBODY: "everybody",
}
ON = {"backend": "A back end", "frontend": "A front end", "master": "Either, where a salt-master runs as well"}
WHEN = {
    "_always": "",
    "_own_etcd": "not with `etcd_endpoints`",
    "_search": "not with `search:flavor: none`",
    "_members_way": "only with `frontend:way: members`",
}
#: (who tried, IP version) -> port -> what was found
Found = Mapping[tuple[str, int], Mapping[int, str]]


def with_section(text: str, name: str, body: str) -> str:
    """A page with this section of it replaced, or added at its end."""
    block = f"<!-- {name}: made by a test -->\n{body}<!-- end of {name} -->\n"
    pattern = rf"<!-- {name}: made by a test -->\n.*?<!-- end of {name} -->\n"
    if re.search(pattern, text, re.DOTALL):
        return re.sub(pattern, lambda _: block, text, count=1, flags=re.DOTALL)
    return f"{text.rstrip()}\n\n{block}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def policy() -> str:
    """Every rule, by the machine that it opens."""
    parts = []
    for on, words in ON.items():
        rows = [_row(rule) for rule in RULES if rule.on == on]
        head = ("TCP port", "setting", "for whom", "why", "")
        parts.append(f"### {words}\n\n{table(head, rows)}")
    return "\n".join(parts)


def _row(rule: Opening) -> tuple[str, ...]:
    assert set(rule.who) <= {EVERYBODY, *NETWORKS}
    numbers = ", ".join(map(str, ports(from_pillar(PLAIN, "anybody"), rule)))
    why = f"refused at once, not left without an answer: {rule.why}" if rule.refused else rule.why
    return numbers, f"`{rule.port}`", ", ".join(WHO[who] for who in rule.who), why, WHEN[rule.when.__name__]


def tried(what: str, columns: Sequence[str], found: Found, services: Mapping[int, str]) -> str:
    """One machine as the others saw it, in nmap's words, IPv4 and IPv6."""
    rows = []
    for port, service in services.items():
        cells = [f"{found[who, 4][port]} / {found[who, 6][port]}" for who in columns]
        rows.append([f"{port}/tcp", service, *cells])
    return f"### {what}\n\n{table(['port', 'service', *(f'from {who}' for who in columns)], rows)}"
