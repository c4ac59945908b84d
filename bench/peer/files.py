"""The files of the peer on one back end: etcd, Patroni and vip-manager at the fastest setting that each of them allows.

What bears on the numbers and is not the product's own affair is as chefha has it: the same etcd timing, PostgreSQL
parameters, certificates, and the same priority of the services.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from lab.topology import BACKENDS, INTERFACE, VIP, Node

HOME = "/var/lib/peer"
ETC = "/etc/peer"
SOCKETS = "/run/peer"
REST = 8008
SCOPE = "peer"
UNITS = ("peer-etcd.service", "peer-patroni.service", "peer-vip-manager.service")
#: Patroni 4.0.7 refuses less (patroni/validator.py)
TIMES = {"ttl": 20, "loop_wait": 1, "retry_timeout": 3}
#: vip-manager asks so often, in ms; its default is 1000
INTERVAL = 100

_UNIT = """\
[Unit]
Description={what} of the benchmark's peer
After=network-online.target {after}
StartLimitIntervalSec=0

[Service]
User={user}
ExecStart={command}
Restart=always
RestartSec=0.2
KillMode={kill}
TimeoutStopSec=30
RuntimeDirectory=peer
RuntimeDirectoryPreserve=yes
OOMScoreAdjust=-900
CPUWeight=1000
IOWeight=1000
Nice=-15

[Install]
WantedBy=multi-user.target
"""


def files(node: Node, major: int, passwords: Mapping[str, str]) -> dict[str, str]:
    """Path and content of everything the peer needs on a node; `passwords` by role."""
    etcd, patroni, vip = UNITS
    return {
        f"{ETC}/etcd.yml": _as_yaml(_etcd(node)),
        f"{ETC}/patroni.yml": _as_yaml(_patroni(node, major, passwords)),
        f"{ETC}/vip-manager.yml": _as_yaml(_vip_manager(node)),
        f"/etc/systemd/system/{etcd}": _UNIT.format(
            what="etcd", after="", user="etcd", command=f"/usr/bin/etcd --config-file {ETC}/etcd.yml", kill="mixed"
        ),
        # as Debian's own unit: a restart of Patroni leaves PostgreSQL alone
        f"/etc/systemd/system/{patroni}": _UNIT.format(
            what="Patroni", after=etcd, user="postgres", command=f"/usr/bin/patroni {ETC}/patroni.yml", kill="process"
        ),
        f"/etc/systemd/system/{vip}": _UNIT.format(
            what="vip-manager",
            after=etcd,
            user="root",
            command=f"/usr/bin/vip-manager --config {ETC}/vip-manager.yml",
            kill="mixed",
        ),
    }


def _etcd(node: Node) -> dict[str, Any]:
    own = f"http://{node.address}"
    return {
        "name": node.name,
        "data-dir": f"{HOME}/etcd",
        "listen-peer-urls": f"{own}:2380",
        "initial-advertise-peer-urls": f"{own}:2380",
        "listen-client-urls": f"{own}:2379,http://127.0.0.1:2379",
        "advertise-client-urls": f"{own}:2379",
        "initial-cluster": ",".join(f"{n.name}=http://{n.address}:2380" for n in BACKENDS),
        "initial-cluster-token": SCOPE,
        "initial-cluster-state": "new",
        "heartbeat-interval": 100,
        "election-timeout": 1000,
        "enable-v2": True,  # all that Debian's vip-manager speaks
        "logger": "zap",
        "log-level": "warn",
    }


def _patroni(node: Node, major: int, passwords: Mapping[str, str]) -> dict[str, Any]:
    parameters = {
        "max_connections": 350,
        "max_wal_senders": 12,
        "max_replication_slots": 12,
        "wal_log_hints": "on",
        "wal_keep_size": "256MB",
    }
    dynamic = {
        **TIMES,
        "postgresql": {"use_pg_rewind": True, "use_slots": True, "parameters": parameters},
    }
    roles = {"superuser": "postgres", "replication": "replicator", "rewind": "rewinder"}
    return {
        "scope": SCOPE,
        "name": node.name,
        "restapi": {"listen": f"0.0.0.0:{REST}", "connect_address": f"{node.address}:{REST}"},
        "etcd": {"hosts": [f"{n.address}:2379" for n in (node, *(n for n in BACKENDS if n is not node))]},
        "bootstrap": {"dcs": dynamic, "initdb": [{"encoding": "UTF8"}, {"locale": "C.UTF-8"}]},
        "postgresql": {
            "listen": "0.0.0.0:5432",
            "connect_address": f"{node.address}:5432",
            "data_dir": f"{HOME}/data",
            "bin_dir": f"/usr/lib/postgresql/{major}/bin",
            "pgpass": f"{HOME}/pgpass",
            "authentication": {k: {"username": role, "password": passwords[role]} for k, role in roles.items()},
            "pg_hba": [
                "local all postgres peer",
                "hostssl replication replicator samenet scram-sha-256",
                "hostssl all all samenet scram-sha-256",
            ],
            "parameters": _local_parameters(node),
        },
    }


def _local_parameters(node: Node) -> dict[str, Any]:
    tls = "/etc/chefha/tls"
    return {
        "lab.node": node.name,
        "unix_socket_directories": SOCKETS,
        "shared_buffers": "128MB",
        "superuser_reserved_connections": 10,
        "password_encryption": "scram-sha-256",
        "ssl": "on",
        "ssl_cert_file": f"{tls}/server.crt",
        "ssl_key_file": f"{tls}/server.key",
        "wal_retrieve_retry_interval": "100ms",
        "wal_receiver_status_interval": "1s",
        "wal_receiver_timeout": "6s",
        "wal_sender_timeout": "6s",
        "tcp_keepalives_idle": 5,
        "tcp_keepalives_interval": 1,
        "tcp_keepalives_count": 4,
        "tcp_user_timeout": "9s",
    }


def _vip_manager(node: Node) -> dict[str, Any]:
    return {
        "ip": VIP,
        "netmask": 32,
        "interface": INTERFACE,
        "trigger-key": f"/service/{SCOPE}/leader",
        "trigger-value": node.name,
        "dcs-type": "etcd",
        "dcs-endpoints": ["http://127.0.0.1:2379", *(f"http://{n.address}:2379" for n in BACKENDS if n is not node)],
        "manager-type": "basic",
        "interval": INTERVAL,
    }


def _as_yaml(tree: Mapping[str, Any]) -> str:
    """JSON is YAML."""
    return json.dumps(tree, indent=1) + "\n"
