"""The files of PostgreSQL on a member as pure functions of the settings: configuration, logins, systemd unit.

What changes with the role (upstream, synchronous standbys) is not here but in ``role.conf`` beside the data
directory, which only leaderl writes; postgresql.conf includes it last.
"""

from __future__ import annotations

import json
from pathlib import PurePosixPath

from chefha_core.backup import wal
from chefha_core.settings import Settings

FOLDER = "/etc/chefha/postgresql"
SOCKETS = "/run/chefha/postgresql"
PERMIT = "/run/chefha/primary-permit"
#: operating system users who may be PostgreSQL's role postgres on the unix socket
MAP = "chefha"


def quoted(text: str) -> str:
    """A value as postgresql.conf wants it."""
    return "'" + text.replace("\\", "\\\\").replace("'", "''") + "'"


def postgresql_conf(settings: Settings, name: str) -> str:
    """postgresql.conf of the member ``name``."""
    sections = (
        (
            "Written by chefha's states: changes here are lost, use chefha:postgresql:parameters",
            _places(settings, name),
        ),
        ("replication and durability", _replication(settings)),
        ("backups", _backups(settings)),
        ("a dead peer is noticed within seconds", _network()),
        ("TLS", _tls(settings)),
        ("chefha:postgresql:parameters", [f"{key} = {_shown(v)}" for key, v in settings.postgresql.parameters.items()]),
    )
    home = PurePosixPath(settings.postgresql.data_dir).parent
    text = "\n".join("\n".join([f"# {title}", *lines, ""]) for title, lines in sections if lines)
    return text + f"\n# who leads and who follows, written by leaderl alone\ninclude {quoted(f'{home}/role.conf')}\n"


def _places(settings: Settings, name: str) -> list[str]:
    pg = settings.postgresql
    return [
        f"cluster_name = {quoted(name[:63])}",
        "listen_addresses = '*'  # the virtual address comes and goes",
        f"port = {pg.port}",
        f"unix_socket_directories = {quoted(SOCKETS)}",
        f"hba_file = '{FOLDER}/pg_hba.conf'",
        f"ident_file = '{FOLDER}/pg_ident.conf'",
        f"max_connections = {pg.max_connections}",
        "superuser_reserved_connections = 10  # leaderl must get in when clients fill everything",
        f"shared_buffers = {pg.shared_buffers_mb}MB",
        "password_encryption = 'scram-sha-256'",
        "restart_after_crash = on  # a crashed backend is PostgreSQL's own affair, a dead postmaster is leaderl's",
        "update_process_title = on  # leaderl tells clients from others by it when PostgreSQL does not answer",
        "logging_collector = off",
        "log_destination = 'stderr'  # to the journal, which adds the time",
        "log_line_prefix = '[%p] %q%u@%d '",
        "lc_messages = 'C'",
    ]


def _replication(settings: Settings) -> list[str]:
    pg = settings.postgresql
    return [
        "wal_level = replica",
        "fsync = on",
        "full_page_writes = on",
        "synchronous_commit = on",
        "wal_log_hints = on  # for pg_rewind",
        "hot_standby = on",
        f"max_wal_senders = {pg.max_wal_senders}",
        f"max_replication_slots = {pg.max_replication_slots}",
        f"wal_keep_size = {pg.wal_keep_size_mb}MB",
        f"max_slot_wal_keep_size = {pg.max_slot_wal_keep_size_mb}MB",
        "wal_retrieve_retry_interval = 100ms  # also the longest pause before a cut standby replays what is left",
        "wal_receiver_status_interval = 1s",
        "max_standby_streaming_delay = 1s  # queries on a standby must not hold a failover up",
        "max_standby_archive_delay = 1s",
    ]


def _backups(settings: Settings) -> list[str]:
    lines = ["summarize_wal = on"] if settings.backup.incremental else []
    if settings.backup.wal_archive:
        lines += ["archive_mode = on", f"archive_command = {quoted(wal.archive_command())}"]
    return lines


def _network() -> list[str]:
    return [
        "wal_receiver_timeout = 6s",
        "wal_sender_timeout = 6s",
        "tcp_keepalives_idle = 5",
        "tcp_keepalives_interval = 1",
        "tcp_keepalives_count = 4",
        "tcp_user_timeout = 9s",
        "authentication_timeout = 10s",
    ]


def _tls(settings: Settings) -> list[str]:
    if not settings.tls.enabled:
        return ["ssl = off"]
    folder = settings.tls.directory
    files = (("ssl_ca_file", "ca.crt"), ("ssl_cert_file", "server.crt"), ("ssl_key_file", "server.key"))
    return ["ssl = on", *(f"{parameter} = {quoted(f'{folder}/{file}')}" for parameter, file in files)]


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return quoted(value) if isinstance(value, str) else json.dumps(value)


def pg_hba_conf(settings: Settings) -> str:
    """Who may log in: root and postgres on the socket, members for replication, clients from their networks."""
    host = "hostssl" if settings.tls.enabled else "host"
    pg = settings.postgresql
    replicator, rewinder, monitor = (_name(x) for x in (pg.replication_user, pg.rewind_user, pg.monitoring_user))
    rows = [f"local all postgres peer map={MAP}", f"local replication postgres peer map={MAP}"]
    for address in sorted(set(settings.members.values())):
        rows += [f"{host} replication {replicator} {address}/32 scram-sha-256"]
        rows += [f"{host} postgres {rewinder},{monitor} {address}/32 scram-sha-256"]
    rows += [f"{host} postgres {monitor} {network} scram-sha-256" for network in pg.client_networks]
    rows += [f"host replication,all {replicator},{rewinder},{monitor} all reject", "host all postgres all reject"]
    for network in pg.client_networks:
        rows += [f"{host} all {_name(pg.db_superuser)} {network} scram-sha-256"]
        # Chef's own roles: its services know no SCRAM. md5 lets both kinds of stored passwords in.
        rows += [f"{host} all all {network} {'md5' if settings.frontends else 'scram-sha-256'}"]
    return "# Written by chefha's states: changes here are lost\n" + "\n".join(rows) + "\n"


def _name(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


def pg_ident_conf() -> str:
    """Operating system users root and postgres are the role postgres."""
    return f"# Written by chefha's states: changes here are lost\n{MAP} root postgres\n{MAP} postgres postgres\n"


#: Lets a standby start; a primary only with a permit that has not run out, and only once. Seconds since boot.
#: $$ is systemd's way to write $.
_GATE = """\
up=; until=0; read -r up rest < /proc/uptime; \
if [ -e {permit} ]; then read -r until < {permit}; rm -f {permit}; fi; \
[ -e {data}/standby.signal ] && exit 0; \
[ "$${{up%%%%.*}}" -le "$$until" ] && exit 0; \
echo "PostgreSQL starts as a primary only when leaderl says so; see chef-backend-ctl status"; exit 1"""


def gate(data: str, permit: str = PERMIT) -> str:
    """The unit's one-time check as a line of shell within a systemd unit."""
    return _GATE.format(permit=permit, data=data)


def unit_text(settings: Settings) -> str:
    """chefha-postgresql.service. No [Install] section: nothing but leaderl starts it, not boot, not packages."""
    data = settings.postgresql.data_dir
    gate_line = gate(data).replace('"', '\\"')
    return f"""\
# Written by chefha's states: changes here are lost
[Unit]
Description=PostgreSQL of the chefha cluster {settings.cluster}, started by leaderl alone
After=network.target
StartLimitIntervalSec=0

[Service]
Type=notify
User=postgres
Group=postgres
RuntimeDirectory=chefha/postgresql
RuntimeDirectoryMode=0755
RuntimeDirectoryPreserve=yes
UMask=0077
ExecStartPre=+/bin/sh -c "{gate_line}"
ExecStart={settings.pg_bin}/postgres -D {data} -c config_file={FOLDER}/postgresql.conf
ExecReload=/bin/kill -HUP $MAINPID
KillMode=mixed
KillSignal=SIGINT
Restart=no
# recovery takes as long as it takes, leaderl has its own deadlines
TimeoutStartSec=infinity
TimeoutStopSec=300
# when memory is short a backend must go, never the postmaster
OOMScoreAdjust=-900
Environment=PG_OOM_ADJUST_FILE=/proc/self/oom_score_adj PG_OOM_ADJUST_VALUE=0 LC_ALL=C
LimitNOFILE=65536
"""
