"""The pillar tree ``chefha:`` as checked dataclasses: every setting, its default and its limits, in one place.

``from_pillar`` checks the whole tree and either returns settings or raises one sentence that names the pillar path.
The states write the same tree to ``SETTINGS_FILE``, from where leaderl, the beacon and the verbs read it.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import json
import re
from pathlib import Path
from typing import Any

from chefha_core.checked import SettingsError, build, setting
from chefha_core.parameters import refused_parameter

SETTINGS_FILE = Path("/etc/chefha/settings.json")
#: seconds by which a follower waits longer than the leader counts; covers the renewal's own round trip
GRACE = 0.2
#: seconds by which Linux may remove an address late (kernel net/ipv4/devinet.c checks at most once a second)
KERNEL_LATENESS = 1.0

#: profile -> (life of the leader key, interval, request time-out), seconds
PROFILES: dict[str, tuple[int, float, float]] = {
    "fast": (3, 0.5, 0.8),
    "balanced": (10, 2.0, 2.5),
    "patient": (30, 5.0, 8.0),
}


@dataclasses.dataclass(frozen=True)
class Leaderl:
    """Times and habits of the leaderl service; None takes the profile's value."""

    leader_ttl_seconds: int | None = setting(None, "life of the leader key in seconds", least=3, most=300)
    interval_seconds: float | None = setting(None, "seconds between two renewals", least=0.1, most=60)
    request_timeout_seconds: float | None = setting(
        None, "deadline of one request to etcd, seconds", least=0.1, most=60
    )
    reaction_grace_seconds: float = setting(
        0.3,
        "how long leaderl leaves a take-over to the reactor before it acts itself; 0 acts at once",
        least=0.0,
        most=60,
    )
    restart_in_place: str = setting(
        "auto", "restart a dead PostgreSQL of the leader in place", choices=("auto", "always", "never")
    )
    restart_max_redo_mb: int = setting(256, "auto restarts in place up to this much log to replay, MiB", least=0)
    start_timeout_seconds: float = setting(60.0, "seconds a leader's PostgreSQL may take to start or promote", least=1)
    handover_timeout_seconds: float = setting(15.0, "seconds a planned hand-over may take", least=1)
    max_bytes_behind_leader: int = setting(52428800, "a follower further behind is not eligible, bytes", least=0)
    http_address: str = setting("0.0.0.0", "address on which /leader, /status and /metrics are served")
    http_port: int = setting(7331, "port of the same", least=1, most=65535)


@dataclasses.dataclass(frozen=True)
class Postgresql:
    """PostgreSQL; whatever has no setting of its own goes into ``parameters``."""

    version: int = setting(17, "major version", least=13, most=17)
    port: int = setting(5432, "port on every member and on the VIP", least=1, most=65535)
    data_dir: str = setting("/var/lib/chefha/postgresql/data", "data directory")
    bin_dir: str = setting("", "folder of postgres, pg_ctl, …; empty: Debian's /usr/lib/postgresql/VERSION/bin")
    max_connections: int = setting(350, "", least=10)
    max_replication_slots: int = setting(12, "", least=4)
    max_wal_senders: int = setting(12, "", least=4)
    shared_buffers_mb: int = setting(128, "MiB", least=16)
    wal_keep_size_mb: int = setting(256, "log kept for followers without a slot, MiB", least=0)
    max_slot_wal_keep_size_mb: int = setting(4096, "log kept for an absent follower at most, MiB", least=64)
    client_networks: tuple[str, ...] = setting(("samenet", "samehost"), "networks that may log in")
    replication_user: str = setting("replicator", "role of the followers")
    db_superuser: str = setting("chef_pgsql", "role of the front ends")
    parameters: dict[str, Any] = setting({}, "further postgresql.conf parameters, name: value")


@dataclasses.dataclass(frozen=True)
class Etcd:
    """etcd on each member."""

    client_port: int = setting(2379, "", least=1, most=65535)
    peer_port: int = setting(2380, "", least=1, most=65535)
    heartbeat_interval: int = setting(100, "milliseconds", least=10)
    election_timeout: int = setting(1000, "milliseconds", least=50)
    data_dir: str = setting("/var/lib/chefha/etcd", "data directory")


@dataclasses.dataclass(frozen=True)
class Secrets:
    """Passwords; ``chef-backend-ctl gen-secrets`` prints a fresh set in pillar form."""

    superuser_password: str = setting(help="password of postgresql:db_superuser", secret=True, filled=True)
    replication_password: str = setting(help="password of postgresql:replication_user", secret=True, filled=True)
    token: str = setting(help="a random text that signs what the members ask each other", secret=True, filled=True)

    def __repr__(self) -> str:
        return "Secrets(…)"


@dataclasses.dataclass(frozen=True)
class Tls:
    """One certificate for the cluster, naming all members and the VIP; PEM texts."""

    enabled: bool = setting(True, "TLS for etcd and PostgreSQL between the members and to the clients")
    ca: str = setting("", "certificate of the cluster's authority, PEM")
    certificate: str = setting("", "the cluster's certificate, PEM")
    key: str = setting("", "its private key, PEM", secret=True)
    directory: str = setting("/etc/chefha/tls", "where the states write them")

    def __repr__(self) -> str:
        return f"Tls(enabled={self.enabled}, …)"


@dataclasses.dataclass(frozen=True)
class Settings:
    """The whole pillar tree ``chefha:``."""

    members: dict[str, Any] = setting(help="name: address of the three back ends")
    vip: str = setting(help="the address that follows the leader")
    secrets: Secrets = setting(help="passwords", secret=True)
    cluster: str = setting("chefha", "name of the cluster, and of its prefix in etcd")
    vip_interface: str = setting("eth0", "network interface that gets the VIP")
    profile: str = setting("balanced", "set of times", choices=tuple(PROFILES))
    durability: str = setting(
        "quorum",
        "quorum: a commit waits for a second node and is never lost; async: it does not",
        choices=("quorum", "async"),
    )
    leaderl: Leaderl = setting(Leaderl(), "the leaderl service")
    postgresql: Postgresql = setting(Postgresql(), "PostgreSQL")
    etcd: Etcd = setting(Etcd(), "etcd")
    tls: Tls = setting(Tls(), "certificates", secret=True)
    wheel: str = setting(
        "", "file name of the wheel under salt://chefha/minion/files; empty: chefha is installed already"
    )
    etcd_endpoints: tuple[str, ...] = setting((), "URLs of an etcd of your own; empty: the members run it")

    @property
    def ttl(self) -> float:
        """Life of the leader key in seconds."""
        return float(self.leaderl.leader_ttl_seconds or PROFILES[self.profile][0])

    @property
    def interval(self) -> float:
        """Seconds between two renewals."""
        return self.leaderl.interval_seconds or PROFILES[self.profile][1]

    @property
    def request_timeout(self) -> float:
        """Deadline of one request to etcd in seconds."""
        return self.leaderl.request_timeout_seconds or PROFILES[self.profile][2]

    def endpoints(self, first: str = "") -> tuple[str, ...]:
        """URLs of etcd, the member ``first`` before the others."""
        if self.etcd_endpoints:
            return self.etcd_endpoints
        scheme = "https" if self.tls.enabled else "http"
        names = sorted(self.members, key=lambda name: (name != first, name))
        return tuple(f"{scheme}://{self.members[name]}:{self.etcd.client_port}" for name in names)

    @property
    def pg_bin(self) -> str:
        """Folder of PostgreSQL's programs."""
        return self.postgresql.bin_dir or f"/usr/lib/postgresql/{self.postgresql.version}/bin"

    def to_dict(self) -> dict[str, Any]:
        """The tree with every default filled in, secrets included."""
        return dataclasses.asdict(self)


def from_pillar(pillar: Any) -> Settings:
    """Settings from the pillar's ``chefha`` tree; SettingsError with one sentence if anything is wrong."""
    if not pillar:
        raise SettingsError("pillar chefha is missing; expected at least members, vip and secrets")
    settings = typing_checked(pillar)
    for check in (_names, _addresses, _timing, _postgresql, _ports, _places, _tls):
        if problem := check(settings):
            raise SettingsError(problem)
    return settings


def typing_checked(pillar: Any) -> Settings:
    """The first half of ``from_pillar``: names and types, one by one."""
    built: Settings = build(Settings, pillar, "chefha")
    return built


def load(path: Path = SETTINGS_FILE) -> Settings:
    """Settings of this node as the states wrote them."""
    try:
        return from_pillar(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise SettingsError(f"{path} is not there: this node is in no cluster yet; apply its states first") from None
    except PermissionError:
        raise SettingsError(f"{path} holds secrets and only root may read it: run this as root") from None
    except (OSError, json.JSONDecodeError) as error:
        raise SettingsError(f"{path} cannot be read ({error}): apply this node's states again") from None


def _names(settings: Settings) -> str:
    for path, name in [("cluster", settings.cluster), *(("members", name) for name in settings.members)]:
        if not re.fullmatch(r"[a-z0-9][a-z0-9_.-]{0,62}", str(name)):
            return f"pillar chefha:{path} has the name {name!r}; expected lower-case letters, digits, '-', '_' or '.'"
    if len({re.sub(r"[^a-z0-9_]", "_", name) for name in settings.members}) < len(settings.members):
        return "pillar chefha:members has names that differ only in '-', '.' and '_'; replication slots know only '_'"
    return ""


def _addresses(settings: Settings) -> str:
    members = settings.members
    if len(members) != 3:
        return f"pillar chefha:members has {len(members)} members; expected exactly 3, each as name: address"
    for path, text in [("vip", settings.vip), *((f"members:{name}", text) for name, text in members.items())]:
        try:
            ipaddress.IPv4Address(text)
        except (ValueError, TypeError):
            return f"pillar chefha:{path} is {text!r}; expected an IPv4 address"
    if len(set(members.values())) != 3:
        return "pillar chefha:members gives one address to two members; expected three different ones"
    for name, address in members.items():
        if address == settings.vip:
            return (
                f"pillar chefha:vip {settings.vip} is the address of the member {name}; expected an address of its own"
            )
    return ""


def _timing(settings: Settings) -> str:
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


def _postgresql(settings: Settings) -> str:
    pg = settings.postgresql
    if len({pg.db_superuser, pg.replication_user, "postgres"}) < 3:
        return (
            f"pillar chefha:postgresql has the roles db_superuser {pg.db_superuser} and replication_user "
            f"{pg.replication_user}; expected two different ones, and not postgres, which is leaderl's own"
        )
    for network in pg.client_networks:
        try:
            if network not in ("samenet", "samehost", "all"):
                ipaddress.ip_network(network)
        except ValueError as error:
            return (
                f"pillar chefha:postgresql:client_networks has {network!r} ({error}); expected samenet, samehost, all, "
                "or a network such as 192.0.2.0/24"
            )
    return refused_parameter(pg.parameters)


def _ports(settings: Settings) -> str:
    used = {
        "postgresql:port": settings.postgresql.port,
        "leaderl:http_port": settings.leaderl.http_port,
        "etcd:client_port": settings.etcd.client_port,
        "etcd:peer_port": settings.etcd.peer_port,
    }
    for path, port in used.items():
        twin = next((other for other, number in used.items() if number == port and other != path), "")
        if twin:
            return f"pillar chefha:{path} is {port}, and so is chefha:{twin}; expected different ports"
    return ""


def _places(settings: Settings) -> str:
    for path, folder in (
        ("postgresql:data_dir", settings.postgresql.data_dir),
        ("etcd:data_dir", settings.etcd.data_dir),
        ("tls:directory", settings.tls.directory),
    ):
        if not re.fullmatch(r"/[^\s'\"\\]+", folder):
            return f"pillar chefha:{path} is {folder!r}; expected an absolute path without blanks or quotes"
    if not re.fullmatch(r"[^\s/]{1,15}", settings.vip_interface):
        return f"pillar chefha:vip_interface is {settings.vip_interface!r}; expected the name of a network interface"
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


def _tls(settings: Settings) -> str:
    if settings.tls.enabled:
        for name in ("ca", "certificate", "key"):
            if "-----BEGIN" not in getattr(settings.tls, name):
                return f"pillar chefha:tls:{name} is not a PEM text; chef-backend-ctl gen-secrets prints a fresh set"
    return ""
