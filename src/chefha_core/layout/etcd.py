"""etcd on a member: configuration, unit, data folder. How it begins without data: etcd_formation.py."""

from __future__ import annotations

import hashlib
import hmac
import sys
from pathlib import Path

from chefha_core.layout.wish import CONFIG, Wish, folder, masked, running, stopped, text_file, unit_file
from chefha_core.settings import Settings

UNIT = "chefha-etcd.service"
CONFIG_FILE = f"{CONFIG}/etcd.yaml"
#: what etcd reads: the same, and how it begins, written before each start; /run is empty after a boot
RUN_CONFIG = "/run/chefha/etcd.yaml"
#: signs the tokens; one key on all members, so that each takes the others' tokens
TOKEN_KEY = f"{CONFIG}/etcd-token.key"
#: a new token is three round trips within one request: seldom enough, and any change of users ends them all anyway
TOKEN_LIFE = "24h"

# Type=simple: with Type=notify `systemctl start` returns only once the other members are there, and each would
# wait for the others in its own highstate.
UNIT_TEXT = """\
[Unit]
Description=etcd of the chefha cluster
After=network-online.target
Wants=network-online.target
StartLimitIntervalSec=0

[Service]
Type=simple
User=etcd
ExecStartPre=+{python} -m chefha_core.etcd_formation --name {name}
ExecStart=/usr/bin/etcd --config-file {config}
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
        text_file(TOKEN_KEY, token_key(settings), "etcd", "0600", secret=True),
        text_file(CONFIG_FILE, config_text(settings, name), "etcd", "0600"),
        unit_file(UNIT, unit_text(name)),
        running(UNIT, in_turn=True),
    ]


def unit_text(name: str, python: str = sys.executable) -> str:
    """The unit; the program before it comes from the Python that the library was installed into."""
    return UNIT_TEXT.format(python=Path(python), name=name, config=RUN_CONFIG)


def token_key(settings: Settings) -> str:
    """Derived, so that all members have the same one and nobody has another secret to keep."""
    password, purpose = settings.secrets.etcd_root_password, f"chefha etcd tokens of {settings.cluster}"
    return hmac.new(password.encode(), purpose.encode(), hashlib.sha256).hexdigest()


def peer_url(settings: Settings, name: str) -> str:
    """Where the other members find the etcd of ``name``."""
    scheme = "https" if settings.tls.enabled else "http"
    return f"{scheme}://{settings.members[name]}:{settings.etcd.peer_port}"


def config_text(settings: Settings, name: str) -> str:
    """etcd's configuration file, but for how it begins."""
    etcd, scheme = settings.etcd, "https" if settings.tls.enabled else "http"
    address = settings.members[name]
    rows = {
        "name": name,
        "data-dir": etcd.data_dir,
        "listen-peer-urls": peer_url(settings, name),
        "initial-advertise-peer-urls": peer_url(settings, name),
        "listen-client-urls": f"{scheme}://{address}:{etcd.client_port}",
        "advertise-client-urls": f"{scheme}://{address}:{etcd.client_port}",
        "initial-cluster-token": settings.cluster,
        "auth-token": f"jwt,sign-method=HS256,priv-key={TOKEN_KEY},ttl={TOKEN_LIFE}",
        "bcrypt-cost": 4,  # the least: the passwords are random, and every login pays for it
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
    # etcd reads certificate and key again at every handshake, and the authority only when it starts: so that a change
    # of the authority, and nothing else of these, restarts it, its hash stands here
    authority = hashlib.sha256(settings.tls.ca.strip().encode()).hexdigest()
    return f"client-transport-security:\n{block}peer-transport-security:\n{block}# authority {authority}\n"
