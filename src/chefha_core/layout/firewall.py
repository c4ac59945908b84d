"""nftables on a back or front end: who may reach which port, as one table, and the file that tells the kernel."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from chefha_core.layout.wish import (
    CONFIG,
    UNITS,
    Wish,
    absent,
    folder,
    reloaded,
    stopped,
    text_file,
    unit_file,
    units_known,
)
from chefha_core.masters import masters as masters_of
from chefha_core.settings import Settings

UNIT = "chefha-firewall.service"
TABLE = "inet chefha"
FILE = f"{CONFIG}/firewall.nft"
#: what `systemctl enable` makes of the unit's [Install]
ENABLED = f"{UNITS}/sysinit.target.wants/{UNIT}"

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
EVERYBODY = "everybody"
#: who a rule can name -> their addresses and networks in the settings; everybody has no list
NETWORKS: dict[str, Callable[[Settings], Iterable[str]]] = {
    "members": lambda settings: settings.members.values(),
    "frontends": lambda settings: settings.frontends.values(),
    "clients": lambda settings: settings.firewall.clients,
    "http_networks": lambda settings: settings.leaderl.http_networks,
}


def _always(settings: Settings) -> bool:
    return True


def _own_etcd(settings: Settings) -> bool:
    return not settings.etcd_endpoints


def _search(settings: Settings) -> bool:
    return settings.search.flavor != "none"


def _members_way(settings: Settings) -> bool:
    return settings.frontend.way == "members"


@dataclass(frozen=True)
class Opening:
    """Who reaches which TCP port of whom.

    ``on``: backend, frontend, or master, which is either of them where a salt-master runs as well. ``port``: pillar
    path of one port or of a list. ``refused``: they are told no at once, instead of waiting for an answer.
    """

    on: str
    port: str
    who: tuple[str, ...]
    why: str
    when: Callable[[Settings], bool] = _always
    refused: bool = False


#: the whole policy; what is not here is closed
RULES: tuple[Opening, ...] = (
    Opening("backend", "postgresql:port", ("members", "frontends", "clients"), "PostgreSQL, also on the VIP"),
    Opening("backend", "search:port", ("members", "frontends", "clients"), "search, also on the VIP", _search),
    Opening("backend", "search:transport_port", ("members",), "the search nodes among themselves", _search),
    Opening("backend", "etcd:client_port", ("members",), "etcd's clients: leaderl, the beacon, the verbs", _own_etcd),
    Opening("backend", "etcd:peer_port", ("members",), "the etcd members among themselves", _own_etcd),
    Opening("backend", "leaderl:http_port", ("members", "http_networks"), "leaderl: who leads, status, metrics"),
    Opening("backend", "leaderl:http_port", ("frontends",), "their HAProxy asks who leads", _members_way),
    # Chef Infra Server asks etcd for the members first. Without an answer each reconfigure waits minutes per member.
    Opening("backend", "etcd:client_port", ("frontends",), "they use the members of the pillar", _members_way, True),
    Opening("backend", "firewall:open_ports", (EVERYBODY,), "ssh, and what the pillar adds"),
    Opening("frontend", "firewall:frontend_ports", (EVERYBODY,), "ssh, Chef Infra Server, and what the pillar adds"),
    Opening("master", "firewall:salt_ports", (EVERYBODY,), "minions reach the salt-master"),
)

# Established connections come first, so laying this out never cuts the run that does it. What is not a table entry:
# - A connection from here that is older than the table is unknown to the kernel until this machine says something, and
#   a minion listens to its master in silence for minutes: replies to Linux's own port range pass unless they open.
# - Nothing drops `ct state invalid`: when the VIP has moved, packets of connections that this machine has never seen
#   reach the open port, and the kernel's RST tells the client at once.
# - DHCPv6 answers come from another address than was asked.
FILE_TEXT = """\
# Laid out by chefha. This one table is replaced in one step; tables of others stay as they are.
table {table} {{
}}
delete table {table}
table {table} {{
{sets}	chain input {{
		type filter hook input priority filter; policy drop;
		iifname "lo" accept
		ct state established,related accept
		tcp dport 32768-60999 tcp flags & (syn | ack) == ack accept comment "replies to older connections from here"
		meta l4proto {{ icmp, ipv6-icmp }} accept
		ip6 saddr fe80::/10 udp dport 546 accept comment "DHCPv6"
{rules}		counter comment "dropped"
	}}
}}
"""
SET_TEXT = """\
	set {name} {{
		type {kind}
		flags interval
{elements}	}}
"""

# Before the network, and without default dependencies, as Debian's nftables.service, whose start and reload flush
# everybody's tables: this one comes back after it. Nothing stops it at shutdown: closed to the end.
UNIT_TEXT = f"""\
[Unit]
Description=firewall of chefha
DefaultDependencies=no
Wants=network-pre.target
Before=network-pre.target
After=nftables.service
PartOf=nftables.service
ReloadPropagatedFrom=nftables.service

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/sbin/nft -f {FILE}
ExecReload=/usr/sbin/nft -f {FILE}
ExecStop=-/usr/sbin/nft delete table {TABLE}

[Install]
WantedBy=sysinit.target
"""

_ACTIVE = f"systemctl is-active --quiet {UNIT}"
_THERE = f"nft list table {TABLE} >/dev/null 2>&1"


def firewall(settings: Settings, name: str, master: bool = False, masters: object = None) -> list[Wish]:
    """The firewall of a member or front end, or nothing of it where the pillar switches it off.

    ``master``: a salt-master is enabled here; ``masters``: pillar chefha_masters. SettingsError if that is wrong.
    """
    master = name in masters_of(masters) or master
    if not settings.firewall.enabled:
        return [
            stopped(UNIT),
            Wish("cmd.run", {"name": f"nft delete table {TABLE}"}, only_if=f"! {_ACTIVE} && {_THERE}"),
            absent(ENABLED),
            absent(f"{UNITS}/{UNIT}"),
            absent(FILE),
            units_known(),
        ]
    text = ruleset(settings, roles_of(settings, name, master))
    rules = text_file(FILE, text)
    return [
        # somebody flushed all tables; what changes below is loaded by its own reload
        Wish("cmd.run", {"name": f"systemctl reload {UNIT}"}, only_if=f"{_ACTIVE} && [ -e {FILE} ] && ! {_THERE}"),
        Wish("pkg.installed", {"name": "nftables", "refresh": None, "install_recommends": False}),
        folder(CONFIG),
        replace(rules, arguments={**rules.arguments, "check_cmd": "/usr/sbin/nft -c -f"}),
        unit_file(UNIT, UNIT_TEXT),
        units_known(),
        Wish("service.running", {"name": UNIT, "enable": True}),
        reloaded(UNIT),
    ]


def roles_of(settings: Settings, name: str, master: bool = False) -> tuple[str, ...]:
    """What ``name`` is, in the words of the rules."""
    role = "backend" if name in settings.members else "frontend"
    return (role, "master") if master else (role,)


def openings(settings: Settings, roles: Sequence[str]) -> Iterator[Opening]:
    """The rules that count on a machine of these roles."""
    return (rule for rule in RULES if rule.on in roles and rule.when(settings))


def ports(settings: Settings, rule: Opening) -> tuple[int, ...]:
    """The ports that a rule is about."""
    value: object = settings
    for part in rule.port.split(":"):
        value = getattr(value, part)
    return tuple(int(port) for port in (value if isinstance(value, tuple) else (value,)))


def networks(settings: Settings, who: str) -> list[Network]:
    """Whom a word of the rules means, without what lies in another network of the list: nft wants no overlaps."""
    found = list(dict.fromkeys(ipaddress.ip_network(text) for text in NETWORKS[who](settings)))
    return [one for one in found if not any(_inside(one, other) for other in found if other != one)]


def _inside(one: Network, other: Network) -> bool:
    return one.version == other.version and one.network_address in other and one.prefixlen >= other.prefixlen


def may_reach(settings: Settings, roles: Sequence[str], address: str, port: int) -> str:
    """Why ``address`` reaches this TCP port of a machine of these roles; "" if it does not."""
    source = ipaddress.ip_address(address)
    for rule in openings(settings, roles):
        named = EVERYBODY in rule.who or any(source in n for who in rule.who for n in networks(settings, who))
        if named and not rule.refused and port in ports(settings, rule):
            return rule.why
    return ""


def ruleset(settings: Settings, roles: Sequence[str]) -> str:
    """The file for nft."""
    rules = [line for rule in openings(settings, roles) for line in _lines(settings, rule)]
    named = dict.fromkeys(who for rule in openings(settings, roles) for who in rule.who if who != EVERYBODY)
    sets = "".join(_sets(who, networks(settings, who)) for who in named)
    return FILE_TEXT.format(table=TABLE, sets=sets, rules="".join(f"\t\t{line}\n" for line in rules))


def _sets(who: str, found: Iterable[Network]) -> str:
    """A named set per family: `nft list set inet chefha members4` shows who is meant."""
    text = ""
    for version, kind in ((4, "ipv4_addr"), (6, "ipv6_addr")):
        elements = ", ".join(_shown(network) for network in found if network.version == version)
        line = f"\t\telements = {{ {elements} }}\n" if elements else ""
        text += SET_TEXT.format(name=f"{who}{version}", kind=kind, elements=line)
    return text


def _shown(network: Network) -> str:
    return str(network.network_address if network.num_addresses == 1 else network)


def _lines(settings: Settings, rule: Opening) -> Iterator[str]:
    """nft's rules for one of ours."""
    numbers = ", ".join(map(str, sorted(set(ports(settings, rule)))))
    if not numbers:
        return
    verdict = "reject with tcp reset" if rule.refused else "accept"
    end = f'tcp dport {{ {numbers} }} {verdict} comment "{rule.why}"'
    for who in rule.who:
        if who == EVERYBODY:
            yield end
        else:
            yield f"ip saddr @{who}4 {end}"
            yield f"ip6 saddr @{who}6 {end}"
