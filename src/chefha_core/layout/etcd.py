"""etcd on a member: configuration, unit, data folder."""

from __future__ import annotations

from chefha_core.layout.wish import CONFIG, Wish, folder, masked, running, stopped, text_file, unit_file
from chefha_core.settings import Settings

UNIT = "chefha-etcd.service"
CONFIG_FILE = f"{CONFIG}/etcd.yaml"

# Type=simple: with Type=notify `systemctl start` returns only once the other members are there, and each would
# wait for the others in its own highstate.
UNIT_TEXT = f"""\
[Unit]
Description=etcd of the chefha cluster
After=network-online.target
Wants=network-online.target
StartLimitIntervalSec=0

[Service]
Type=simple
User=etcd
ExecStart=/usr/bin/etcd --config-file {CONFIG_FILE}
Restart=always
RestartSec=1
LimitNOFILE=40000
OOMScoreAdjust=-900
CPUWeight=800
IOWeight=800
Nice=-10

[Install]
WantedBy=multi-user.target
"""


def etcd_member(settings: Settings, name: str) -> list[Wish]:
    """etcd of the member ``name``, running; it may still be waiting for the others."""
    if settings.etcd_endpoints:
        return []
    return [
        masked("etcd.service"),
        stopped("etcd.service"),
        folder(settings.etcd.data_dir, "etcd", "0700"),
        text_file(CONFIG_FILE, config_text(settings, name), "etcd", "0600"),
        unit_file(UNIT, UNIT_TEXT),
        running(UNIT),
    ]


def config_text(settings: Settings, name: str) -> str:
    """etcd's configuration file."""
    etcd, scheme = settings.etcd, "https" if settings.tls.enabled else "http"
    peers = ",".join(f"{n}={scheme}://{a}:{etcd.peer_port}" for n, a in sorted(settings.members.items()))
    address = settings.members[name]
    rows = {
        "name": name,
        "data-dir": etcd.data_dir,
        "listen-peer-urls": f"{scheme}://{address}:{etcd.peer_port}",
        "initial-advertise-peer-urls": f"{scheme}://{address}:{etcd.peer_port}",
        "listen-client-urls": f"{scheme}://{address}:{etcd.client_port}",
        "advertise-client-urls": f"{scheme}://{address}:{etcd.client_port}",
        "initial-cluster": peers,
        "initial-cluster-token": settings.cluster,
        "initial-cluster-state": "new",
        "heartbeat-interval": etcd.heartbeat_interval,
        "election-timeout": etcd.election_timeout,
        "auto-compaction-mode": "periodic",
        "auto-compaction-retention": "1h",
        "quota-backend-bytes": 1 << 30,
        "strict-reconfig-check": "true",
        "enable-grpc-gateway": "true",
        "metrics": "basic",
        "logger": "zap",
        "log-level": "warn",
    }
    return "".join(f"{key}: {value}\n" for key, value in rows.items()) + _tls(settings)


def _tls(settings: Settings) -> str:
    if not settings.tls.enabled:
        return ""
    folder_ = settings.tls.directory
    block = f"""\
  cert-file: {folder_}/server.crt
  key-file: {folder_}/etcd.key
  trusted-ca-file: {folder_}/ca.crt
  client-cert-auth: true
"""
    return f"client-transport-security:\n{block}peer-transport-security:\n{block}"
