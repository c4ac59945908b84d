"""What must hold between the settings of the pillar: each check is "" or one sentence that names the pillar path.

The docstrings of the CHECKS are a list in docs/pillar.md.
"""

from __future__ import annotations

import ipaddress
import re

from chefha_core import chef_accepts
from chefha_core.folder_checks import folders
from chefha_core.parameters import refused_parameter
from chefha_core.search_checks import search_problem
from chefha_core.settings import SECRETS_OF, Role, Settings

#: seconds that a disk may be slow whatever the settings say, and MiB of two segments of PostgreSQL's log
SLOW_DISK = 5.0
SEGMENTS_MB = 32
#: names that PostgreSQL takes for a role, and those that it or pg_hba.conf understands otherwise
ROLE = re.compile(r"(?!pg_)[A-Za-z_][A-Za-z0-9_-]{0,62}")
NO_ROLES = ("public", "none", "all")
#: the kernel takes any 15 characters but blanks, '/' and ':'; these are what people and programs use
INTERFACE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,14}")


def _names(settings: Settings) -> str:
    """`cluster` and the names in `members` and `frontends` are lower-case letters, digits, `-`, `_` and `.`;
    members differ in more than `-`, `.` and `_`.
    """
    for path, name in [
        ("cluster", settings.cluster),
        *(("members", name) for name in settings.members),
        *(("frontends", name) for name in settings.frontends),
    ]:
        if not re.fullmatch(r"[a-z0-9][a-z0-9_.-]{0,62}", str(name)):
            return f"pillar chefha:{path} has the name {name!r}; expected lower-case letters, digits, '-', '_' or '.'"
    if len({re.sub(r"[^a-z0-9_]", "_", name) for name in settings.members}) < len(settings.members):
        return (
            "pillar chefha:members has names that differ only in '-', '.' and '_', and replication slots know only "
            "'_'; expected others"
        )
    return ""


def _addresses(settings: Settings) -> str:
    """`members` has exactly three, and all addresses, those of `frontends` and `vip` too, are IPv4 addresses of
    their own.
    """
    members = settings.members
    if len(members) != 3:
        return f"pillar chefha:members has {len(members)} members; expected exactly 3, each as name: address"
    front = settings.frontends
    named = [(f"members:{name}", text) for name, text in members.items()]
    named += [(f"frontends:{name}", text) for name, text in front.items()]
    for path, text in [("vip", settings.vip), *named]:
        if not _is_address(text):
            return f"pillar chefha:{path} is {text!r}; expected an IPv4 address"
    if len(set(members.values())) != 3:
        return "pillar chefha:members gives one address to two members; expected three different ones"
    for name, address in members.items():
        if address == settings.vip:
            return (
                f"pillar chefha:vip {settings.vip} is the address of the member {name}; expected an address of its own"
            )
    taken = {address: f"chefha:members:{name}" for name, address in members.items()} | {settings.vip: "chefha:vip"}
    for name, address in front.items():
        if name in members:
            return f"pillar chefha:frontends has {name}, which is a member; a front end is a machine of its own"
        if address in taken:
            return f"pillar chefha:frontends:{name} is {address}, and so is {taken[address]}; expected one of its own"
        taken[address] = f"chefha:frontends:{name}"
    return ""


def _is_address(text: object) -> bool:
    """A text: Python takes whole numbers for addresses too."""
    try:
        return isinstance(text, str) and bool(ipaddress.IPv4Address(text))
    except ValueError:
        return False


def _timing(settings: Settings) -> str:
    """`leaderl:leader_ttl_seconds` > `interval_seconds` + 2 x `request_timeout_seconds`, and >
    `etcd:election_timeout`, which is >= 5 x `heartbeat_interval`.
    """
    ttl, interval, timeout = settings.ttl, settings.interval, settings.request_timeout
    if ttl <= interval + 2 * timeout:
        return (
            f"pillar chefha:leaderl breaks the timing rule: leader_ttl_seconds ({ttl:g}) must be more than "
            f"interval_seconds ({interval:g}) + 2 x request_timeout_seconds ({timeout:g}), or one slow request costs "
            "the leadership"
        )
    if settings.etcd.election_timeout < 5 * settings.etcd.heartbeat_interval:
        return (
            f"pillar chefha:etcd:election_timeout ({settings.etcd.election_timeout} ms) must be at least 5 x "
            f"heartbeat_interval ({settings.etcd.heartbeat_interval} ms)"
        )
    if settings.etcd.election_timeout / 1000 >= ttl:
        return (
            f"pillar chefha:etcd:election_timeout ({settings.etcd.election_timeout} ms) must be shorter than "
            f"chefha:leaderl:leader_ttl_seconds ({ttl:g} s), or every election of etcd costs the leadership"
        )
    return ""


def _storage(settings: Settings) -> str:
    """`leaderl:health_check:disk_deadline_seconds` x `max_disk_failures` >= 5 s, and `least_free_mb` is 0 or >= 32."""
    health = settings.leaderl.health_check
    seconds = health.disk_deadline_seconds * health.max_disk_failures
    if seconds < SLOW_DISK:
        return (
            f"pillar chefha:leaderl:health_check has disk_deadline_seconds ({health.disk_deadline_seconds:g}) x "
            f"max_disk_failures ({health.max_disk_failures}), which is {seconds:g} s; expected at least {SLOW_DISK:g} "
            "s, or a disk that is only slow costs the leadership"
        )
    if 0 < health.least_free_mb < SEGMENTS_MB:
        return (
            f"pillar chefha:leaderl:health_check:least_free_mb is {health.least_free_mb}; expected 0 (room is not "
            f"looked at) or at least {SEGMENTS_MB}, two segments of PostgreSQL's log"
        )
    return ""


def _postgresql(settings: Settings) -> str:
    """the four roles of `postgresql` are plain names and differ, `client_networks` are networks, `parameters` has
    nothing that failover or another setting owns.
    """
    pg = settings.postgresql
    roles = ("db_superuser", "replication_user", "rewind_user", "monitoring_user")
    for role in roles:
        name = getattr(pg, role)
        if not ROLE.fullmatch(name) or name in NO_ROLES:
            return (
                f"pillar chefha:postgresql:{role} is {name!r}; expected letters, digits, '_' or '-', and no name that "
                "PostgreSQL keeps for itself"
            )
    if len({"postgres", *(getattr(pg, role) for role in roles)}) <= len(roles):
        named = ", ".join(f"{role} {getattr(pg, role)}" for role in roles)
        return (
            f"pillar chefha:postgresql has the roles {named}; expected {len(roles)} different ones, and not postgres, "
            "which is leaderl's own"
        )
    return _network("postgresql:client_networks", pg.client_networks, ("samenet", "samehost", "all")) or (
        refused_parameter(pg.parameters)
    )


def _networks(settings: Settings) -> str:
    """`firewall:clients` and `leaderl:http_networks` are networks or addresses, IPv4 or IPv6."""
    return _network("firewall:clients", settings.firewall.clients) or _network(
        "leaderl:http_networks", settings.leaderl.http_networks
    )


def _network(path: str, networks: tuple[str, ...], words: tuple[str, ...] = ()) -> str:
    for network in networks:
        try:
            if network not in words:
                ipaddress.ip_network(network)
        except ValueError as error:
            expected = ", ".join([*words, "or a network such as 192.0.2.0/24"]) if words else "192.0.2.0/24 or the like"
            return f"pillar chefha:{path} has {network!r} ({error}); expected {expected}"
    return ""


def _ports(settings: Settings) -> str:
    """the ports of PostgreSQL, leaderl, etcd and search differ."""
    used = {
        "postgresql:port": settings.postgresql.port,
        "leaderl:http_port": settings.leaderl.http_port,
        "etcd:client_port": settings.etcd.client_port,
        "etcd:peer_port": settings.etcd.peer_port,
        "search:port": settings.search.port,
        "search:transport_port": settings.search.transport_port,
    }
    for path, port in used.items():
        twin = next((other for other, number in used.items() if number == port and other != path), "")
        if twin:
            return f"pillar chefha:{path} is {port}, and so is chefha:{twin}; expected different ports"
    return ""


def _places(settings: Settings) -> str:
    """`vip_interface` is an interface, `etcd_endpoints` are URLs, `leaderl:http_address` is one that others can ask,
    `wheel` is the name of a wheel.
    """
    if not INTERFACE.fullmatch(settings.vip_interface):
        return (
            f"pillar chefha:vip_interface is {settings.vip_interface!r}; expected the name of a network interface, at "
            "most 15 letters, digits, '_', '.' or '-'"
        )
    if settings.wheel and not re.fullmatch(r"[\w.+-]+\.whl", settings.wheel):
        return f"pillar chefha:wheel is {settings.wheel!r}; expected a file's name, as chefha-0.1.0-py3-none-any.whl"
    for url in settings.etcd_endpoints:
        if not re.fullmatch(r"https?://[^/\s]+:\d+/?", url):
            return f"pillar chefha:etcd_endpoints has {url!r}; expected URLs such as https://192.0.2.21:2379"
    try:
        address = ipaddress.IPv4Address(settings.leaderl.http_address)
    except ValueError:
        return f"pillar chefha:leaderl:http_address is {settings.leaderl.http_address!r}; expected an IPv4 address"
    if address.is_loopback:
        return f"pillar chefha:leaderl:http_address is {address}, where the other members cannot ask; expected another"
    return ""


def _port_lists(settings: Settings) -> str:
    """`firewall:open_ports`, `frontend_ports` and `salt_ports` are numbers of TCP ports."""
    for path in ("open_ports", "frontend_ports", "salt_ports"):
        for port in getattr(settings.firewall, path):
            if not (port.isdigit() and 0 < int(port) < 65536):
                return f"pillar chefha:firewall:{path} has {port!r}; expected numbers of TCP ports, 1 to 65535"
    return ""


def _backup(settings: Settings) -> str:
    """`backup:incremental` needs PostgreSQL 17, `backup:s3:access_key` its `secret_key`, and with `backup:wal_archive`
    `postgresql:parameters` sets nothing of the archive.
    """
    wanted = settings.backup
    for parameter in settings.postgresql.parameters:
        if wanted.wal_archive and str(parameter).lower() in ("archive_mode", "archive_command", "archive_library"):
            return f"pillar chefha:postgresql:parameters sets {parameter}, and so does backup:wal_archive; remove one"
    if wanted.incremental and settings.postgresql.version < 17:
        return (
            f"pillar chefha:backup:incremental is true, and postgresql:version is {settings.postgresql.version}; "
            "PostgreSQL makes incremental backups since 17"
        )
    if bool(wanted.s3.access_key) != bool(wanted.s3.secret_key):
        return "pillar chefha:backup:s3 has one of access_key and secret_key; expected both or neither"
    return ""


CHECKS = (
    _names,
    _addresses,
    _timing,
    _storage,
    _postgresql,
    _networks,
    _ports,
    _port_lists,
    folders,
    _places,
    _backup,
    search_problem,
    *chef_accepts.CHECKS,
)


def missing_secret(settings: Settings, role: Role) -> str:
    """Which password or PEM text a machine of this role lacks, one sentence; "" if none."""
    for name in SECRETS_OF[role]:
        if not getattr(settings.secrets, name):
            return (
                f"pillar chefha:secrets:{name} is missing or empty; salt-run chefha.secrets makes all of them on the "
                "master, chef-backend-ctl gen-secrets prints them for the pillar"
            )
    needed = {"backend": ("ca", "certificate", "key"), "frontend": ("ca",), "anybody": ()}[role]
    if settings.tls.enabled:
        for name in needed:
            if "-----BEGIN" not in getattr(settings.tls, name):
                return (
                    f"pillar chefha:tls:{name} is not a PEM text; salt-run chefha.secrets makes a set on the master, "
                    "chef-backend-ctl gen-secrets prints one for the pillar"
                )
    return ""
