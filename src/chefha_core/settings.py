"""The pillar tree ``chefha:`` as checked dataclasses: every setting, its default and its limits, in one place.

``from_pillar`` checks the whole tree and either returns settings or raises one sentence that names the pillar path.
The states write the same tree to ``SETTINGS_FILE``, from where leaderl, the beacon and the verbs read it.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from chefha_core.checked import SettingsError, build, setting

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
class HealthCheck:
    """When trouble beside PostgreSQL counts."""

    max_search_failures: int = setting(5, "failures in a row before search counts as offline", least=1)
    search_fatal: bool = setting(False, "a member whose search is offline must not lead PostgreSQL")
    disk_interval_seconds: float = setting(
        5.0, "seconds between two test writes on the file systems of PostgreSQL's data and log", least=0.5, most=300
    )
    disk_deadline_seconds: float = setting(
        10.0, "seconds within which a test write must be on disk, or it counts as failed", least=1, most=300
    )
    max_disk_failures: int = setting(
        3, "failures in a row before storage counts as bad; after twice as many good ones it is well again", least=1
    )
    least_free_mb: int = setting(
        64, "MiB; less is a full disk, twice as much makes it well again; 0: never", least=0, most=1 << 20
    )


@dataclasses.dataclass(frozen=True)
class Leaderl:
    """Times and habits of the leaderl service; None takes the profile's value."""

    leader_ttl_seconds: int | None = setting(
        None, "life of the leader key, seconds; none: profile's", least=3, most=300
    )
    interval_seconds: float | None = setting(None, "seconds between two renewals; none: profile's", least=0.1, most=60)
    request_timeout_seconds: float | None = setting(
        None, "deadline of one request to etcd, seconds; none: profile's", least=0.1, most=60
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
    http_networks: tuple[str, ...] = setting(
        (), "networks besides the members that may read /leader, /status and /metrics"
    )
    health_check: HealthCheck = setting(HealthCheck(), "when trouble beside PostgreSQL counts")


@dataclasses.dataclass(frozen=True)
class Postgresql:
    """PostgreSQL; whatever has no setting of its own goes into ``parameters``."""

    version: int = setting(None, "major version; none: 13 where there are front ends, else 17", least=13, most=17)
    port: int = setting(5432, "port on every member and on the VIP", least=1, most=65535)
    data_dir: str = setting(
        "/var/lib/chefha/postgresql/data", "data directory; the folder around it is PostgreSQL's alone"
    )
    bin_dir: str = setting("", "folder of postgres, pg_ctl, …; empty: Debian's /usr/lib/postgresql/VERSION/bin")
    max_connections: int = setting(350, "sessions of clients at most", least=10)
    max_replication_slots: int = setting(12, "one for each other member, the rest for you", least=4)
    max_wal_senders: int = setting(12, "streams to followers, base backups and tools at most", least=4)
    shared_buffers_mb: int = setting(128, "memory that PostgreSQL caches pages in, MiB", least=16)
    wal_keep_size_mb: int = setting(256, "log kept for followers without a slot, MiB", least=0)
    max_slot_wal_keep_size_mb: int = setting(4096, "log kept for an absent follower at most, MiB", least=64)
    client_networks: tuple[str, ...] = setting(("samenet", "samehost"), "networks that may log in")
    replication_user: str = setting("replicator", "role of the followers")
    rewind_user: str = setting("rewinder", "role by which pg_rewind reads the leader's files")
    monitoring_user: str = setting("chefha_monitor", "role that sees replication and statistics, and no data")
    db_superuser: str = setting("chef_pgsql", "role of the front ends")
    parameters: dict[str, Any] = setting({}, "further postgresql.conf parameters, name: value")


@dataclasses.dataclass(frozen=True)
class Etcd:
    """etcd on each member."""

    client_port: int = setting(2379, "port for leaderl, the beacon and the verbs", least=1, most=65535)
    peer_port: int = setting(2380, "port of the members among themselves", least=1, most=65535)
    heartbeat_interval: int = setting(100, "milliseconds between two heartbeats of etcd's leader", least=10)
    election_timeout: int = setting(1000, "milliseconds without a heartbeat before etcd elects a new leader", least=50)
    data_dir: str = setting("/var/lib/chefha/etcd", "data directory")


@dataclasses.dataclass(frozen=True)
class SearchSource:
    """Where the search engine comes from: an archive, or a Debian package."""

    archive: str = setting("", "tar.gz or zip of the maker's distribution: https://…, salt://…, or a path")
    checksum: str = setting("", "of the archive, such as sha256=0123…; checked before it is unpacked")
    package: str = setting("", "name of a Debian package instead of an archive, such as opensearch")
    repository: str = setting("", "line for sources.list that has the package; empty: already configured")
    repository_key: str = setting("", "OpenPGP key of the repository, armoured text", lines=True)


@dataclasses.dataclass(frozen=True)
class Search:
    """OpenSearch or Elasticsearch on each member; whatever has no setting of its own goes into ``parameters``."""

    flavor: str = setting(
        None,
        "none: opensearch where there are front ends, else no search",
        choices=("opensearch", "elasticsearch", "none"),
    )
    version: str = setting(None, "none: 1.3.20 where there are front ends, else 3.7.0; Elasticsearch 7.17.9")
    source: SearchSource = setting(SearchSource(), "where it comes from")
    port: int = setting(9200, "HTTP, on every member and on the VIP", least=1, most=65535)
    transport_port: int = setting(9300, "between the members", least=1, most=65535)
    heap_mb: int | None = setting(None, "MiB; none: a third of the memory, at most 31 GiB", least=128)
    data_dir: str = setting("/var/lib/chefha/search", "data directory")
    log_dir: str = setting("/var/log/chefha-search", "log directory")
    java_home: str = setting("", "a Java of your own; empty: java_package")
    java_package: str = setting("openjdk-21-jre-headless", "Debian package with Java; empty: the engine brings its own")
    java_opts: tuple[str, ...] = setting((), "further options for Java")
    parameters: dict[str, Any] = setting({}, "further lines of opensearch.yml or elasticsearch.yml, name: value")


@dataclasses.dataclass(frozen=True)
class Frontend:
    """The Chef Infra Servers that use the back end."""

    chef_server_version: str = setting(
        "15.10.117", "decides the form of chef-server.rb, what is accepted, and the package from a repository"
    )
    package: str = setting("chef-server-core", "name of the Debian package")
    source: str = setting("", "file of the package: https://…, salt://…, or a path; empty: from repository")
    checksum: str = setting("", "of the file, such as sha256=0123…")
    repository: str = setting("", "line for sources.list that has the package; empty: already configured")
    repository_key: str = setting("", "OpenPGP key of the repository, armoured text", lines=True)
    way: str = setting(
        "vip",
        "vip: through the virtual address; members: each front end's own HAProxy asks the members (use_chef_backend)",
        choices=("vip", "members"),
    )
    fqdns: dict[str, Any] = setting({}, "front end: its host name; without one it is its minion id")
    check_versions: bool = setting(True, "refuse PostgreSQL and search that this Chef Infra Server does not accept")
    accept_license: bool = setting(False, "you accept the licence that Chef Infra Server 13 and later ask about")
    search_username: str = setting("chefha", "what chef-server.rb says where the search asks for no user")
    settings: dict[str, Any] = setting({}, "further lines of chef-server.rb, such as nginx['ssl_port']: 443")


@dataclasses.dataclass(frozen=True)
class Firewall:
    """nftables on back and front ends: closed but for what is listed."""

    enabled: bool = setting(True, "whether chefha closes the ports that nobody needs")
    clients: tuple[str, ...] = setting((), "networks besides the front ends that reach PostgreSQL and search")
    open_ports: tuple[str, ...] = setting(("22",), "TCP ports open to everybody on back ends")
    frontend_ports: tuple[str, ...] = setting(("22", "80", "443"), "TCP ports open to everybody on front ends")
    salt_ports: tuple[str, ...] = setting(
        ("4505", "4506"), "TCP ports open to everybody where a salt-master runs as well"
    )


@dataclasses.dataclass(frozen=True)
class S3:
    """A bucket of Amazon's S3 or of a store that speaks like it; needs boto3 in Salt's Python."""

    bucket: str = setting("", "name of the bucket, which must be there; empty: backups go to backup:directory")
    prefix: str = setting("", "what the names of all objects begin with, such as chef/production")
    endpoint: str = setting("", "URL of the store; empty: Amazon's")
    region: str = setting("us-east-1", "region of the bucket")
    access_key: str = setting("", "who writes there; empty: the machine's own role or boto3's configuration")
    secret_key: str = setting("", "the secret that belongs to access_key", secret=True)


@dataclasses.dataclass(frozen=True)
class Backup:
    """What `backup` makes, and where it goes."""

    directory: str = setting("/var/opt/chef-backup", "folder for archives, and for the archived log")
    compression: str = setting("zstd", "zstd or gzip, of which zstd is much faster", choices=("zstd", "gzip"))
    keep: int = setting(0, "so many of the newest archives stay, with what they need; 0: all, and all log", least=0)
    incremental: bool = setting(False, "PostgreSQL 17 notes what changes (summarize_wal), for backup --incremental")
    wal_archive: bool = setting(False, "PostgreSQL archives its log there, for a restore to any point in time")
    s3: S3 = setting(S3(), "a bucket instead of the folder")


#: who needs which of the secrets; a front end gets no others
SECRETS_OF: dict[str, tuple[str, ...]] = {
    "backend": (
        "superuser_password",
        "replication_password",
        "rewind_password",
        "monitoring_password",
        "etcd_root_password",
        "etcd_password",
        "token",
    ),
    "frontend": ("superuser_password", "monitoring_password"),
    "anybody": (),
}
Role = Literal["backend", "frontend", "anybody"]


@dataclasses.dataclass(frozen=True)
class Secrets:
    """Passwords: `salt-run chefha.secrets` makes them on the master, or they stand in the pillar."""

    superuser_password: str = setting("", "password of postgresql:db_superuser", secret=True)
    replication_password: str = setting("", "password of postgresql:replication_user", secret=True)
    rewind_password: str = setting("", "password of postgresql:rewind_user", secret=True)
    monitoring_password: str = setting("", "password of postgresql:monitoring_user", secret=True)
    etcd_root_password: str = setting("", "password of etcd's root, which only changes members and users", secret=True)
    etcd_password: str = setting("", "password by which the members use their keys in etcd", secret=True)
    token: str = setting("", "a random text that signs what the members ask each other", secret=True)
    previous_token: str = setting("", "the one before, still understood while the members change over", secret=True)

    @property
    def tokens(self) -> tuple[str, ...]:
        """The token, and the one before as long as it is still understood."""
        return tuple(token for token in (self.token, self.previous_token) if token)

    def __repr__(self) -> str:
        return "Secrets(…)"


@dataclasses.dataclass(frozen=True)
class Tls:
    """Certificates, PEM texts: from the master one for each member, or in the pillar one for all of them."""

    enabled: bool = setting(True, "TLS for etcd and PostgreSQL between the members and to the clients")
    ca: str = setting("", "certificate of the cluster's authority, PEM", lines=True)
    certificate: str = setting("", "this member's certificate, or one for all members, PEM", lines=True)
    key: str = setting("", "its private key, PEM", secret=True, lines=True)
    directory: str = setting("/etc/chefha/tls", "where the states write them")

    def __repr__(self) -> str:
        return f"Tls(enabled={self.enabled}, …)"


@dataclasses.dataclass(frozen=True)
class Settings:
    """The whole pillar tree ``chefha:``."""

    members: dict[str, Any] = setting(help="name: address of the three back ends")
    vip: str = setting(help="the address that follows the leader")
    frontends: dict[str, Any] = setting({}, "name: address of the Chef Infra Servers that use the back end")
    secrets: Secrets = setting(Secrets(), "passwords", secret=True)
    cluster: str = setting("chefha", "name of the cluster, and of its prefix in etcd")
    vip_interface: str = setting("eth0", "network interface that gets the VIP")
    profile: str = setting("balanced", "set of times, as in docs/timing.md", choices=tuple(PROFILES))
    durability: str = setting(
        "quorum",
        "quorum: a commit waits for a second node and is never lost; async: it does not",
        choices=("quorum", "async"),
    )
    leaderl: Leaderl = setting(Leaderl(), "the leaderl service")
    postgresql: Postgresql = setting(Postgresql(), "PostgreSQL")
    etcd: Etcd = setting(Etcd(), "etcd")
    search: Search = setting(Search(), "OpenSearch or Elasticsearch")
    frontend: Frontend = setting(Frontend(), "what the front ends have in common")
    firewall: Firewall = setting(Firewall(), "nftables")
    tls: Tls = setting(Tls(), "certificates", secret=True)
    backup: Backup = setting(Backup(), "backups and the archived log")
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
    def report_life(self) -> int:
        """Life of a member's report in etcd in seconds, counted from its last renewal."""
        return int(max(5, 2 * self.ttl))

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


def from_pillar(pillar: Any, role: Role = "backend") -> Settings:
    """Settings from the pillar's ``chefha`` tree, as a ``role`` needs them; SettingsError with one sentence."""
    from chefha_core.settings_checks import CHECKS, missing_secret  # which needs the classes above

    if not pillar:
        raise SettingsError("pillar chefha is missing or empty; expected at least members, vip and secrets")
    if not isinstance(pillar, Mapping):  # what it is instead is not shown: secrets may stand in it
        kind = "a text" if isinstance(pillar, str) else f"a {type(pillar).__name__}"
        raise SettingsError(f"pillar chefha is {kind}; expected a mapping with at least members, vip and secrets")
    settings = _resolved(build(Settings, pillar, "chefha"))
    for check in CHECKS:
        if problem := check(settings):
            raise SettingsError(problem)
    if problem := missing_secret(settings, role):
        raise SettingsError(problem)
    return settings


def _resolved(settings: Settings) -> Settings:
    """What depends on whether there are front ends: they accept only older parts."""
    chef = bool(settings.frontends)
    flavor = settings.search.flavor or ("opensearch" if chef else "none")
    newest = {"elasticsearch": "7.17.9", "opensearch": "1.3.20" if chef else "3.7.0"}.get(flavor, "")
    search = dataclasses.replace(settings.search, flavor=flavor, version=settings.search.version or newest)
    version = settings.postgresql.version or (13 if chef else 17)
    return dataclasses.replace(
        settings, search=search, postgresql=dataclasses.replace(settings.postgresql, version=version)
    )


def load(path: Path = SETTINGS_FILE) -> Settings:
    """Settings of this node as the states wrote them."""
    try:
        return from_pillar(json.loads(path.read_text(encoding="utf-8")), role="anybody")
    except FileNotFoundError:
        raise SettingsError(f"{path} is not there: this node is in no cluster yet; apply its states first") from None
    except PermissionError:
        raise SettingsError(f"{path} holds secrets and only root may read it: run this as root") from None
    except (OSError, json.JSONDecodeError) as error:
        raise SettingsError(f"{path} cannot be read ({error}): apply this node's states again") from None
