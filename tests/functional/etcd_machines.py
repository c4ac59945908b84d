"""Three members as the layout makes them, on 127.0.0.1 to 127.0.0.3: real configuration, real formation, real etcd."""

from __future__ import annotations

import dataclasses
import shutil
import signal
import subprocess
import time
from pathlib import Path

from tests.functional.etcd_server import ETCD, free_ports

from chefha_core import etcd_formation
from chefha_core.layout.etcd import TOKEN_KEY, config_text, token_key
from chefha_core.parts.etcd import EtcdClient
from chefha_core.secrets import generate
from chefha_core.settings import Settings, from_pillar
from chefha_core.verbs.reach import etcd_client

MEMBERS = {"be1": "127.0.0.1", "be2": "127.0.0.2", "be3": "127.0.0.3"}


class Machines:
    """As a context manager nothing runs at first, and nothing at the end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        client, peer = free_ports(2)
        made = generate(MEMBERS, "127.0.0.9")
        pillar = {
            "cluster": "test",
            "members": MEMBERS,
            "vip": "127.0.0.9",
            "vip_interface": "lo",
            "secrets": made["secrets"],
            "tls": {**made["tls"], "directory": str(folder / "tls")},
            "etcd": {"client_port": client, "peer_port": peer, "heartbeat_interval": 50, "election_timeout": 500},
        }
        self.settings = from_pillar(pillar)
        self.write_tls(made["tls"])

    def write_tls(self, tls: dict[str, str]) -> None:
        (self.folder / "tls").mkdir(exist_ok=True)
        files = {"ca.crt": "ca", "server.crt": "certificate", "server.key": "key", "etcd.key": "key"}
        for file, text in files.items():
            (self.folder / "tls" / file).write_text(tls[text])

    def of(self, name: str) -> Settings:
        """The settings as this machine has them: all share one disk here, so the data stand apart."""
        etcd = dataclasses.replace(self.settings.etcd, data_dir=str(self.folder / name))
        return dataclasses.replace(self.settings, etcd=etcd)

    def start(self, name: str, patience: float = 20.0) -> etcd_formation.Beginning:
        """What the unit does; NotYet."""
        settings, token, config = self.of(name), self.folder / f"{name}.token", self.folder / f"{name}.yaml"
        begin = etcd_formation.patient(settings, name, patience)
        token.write_text(token_key(settings))
        config.write_text(config_text(settings, name).replace(TOKEN_KEY, str(token)))
        etcd_formation.write(config, self.folder / "run" / f"{name}.yaml", begin, "root")
        command = [ETCD, "--config-file", str(self.folder / "run" / f"{name}.yaml")]
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(command, stdout=log, stderr=log)
        return begin

    def stop(self, name: str, how: signal.Signals = signal.SIGKILL) -> None:
        """The process is gone, and the data are kept."""
        process = self.processes.pop(name)
        process.send_signal(how)
        process.wait(15)

    def wipe(self, name: str) -> None:
        """An empty machine takes this one's place."""
        shutil.rmtree(self.folder / name)

    def client(self, first: str = "be1", timeout: float = 2.0) -> EtcdClient:
        return etcd_client(self.settings, first, timeout)

    def wait_healthy(self, names: tuple[str, ...] = tuple(MEMBERS), seconds: float = 30.0) -> None:
        """Every one of these members answers, whoever asks."""
        client, end = etcd_client(self.settings, "be1", 1.0, user=""), time.monotonic() + seconds
        wanted = {endpoint for name in names for endpoint in self.settings.endpoints(name)[:1]}
        while not all(health.ok for health in client.healthy_endpoints() if health.endpoint in wanted):
            assert time.monotonic() < end, client.healthy_endpoints()
            time.sleep(0.05)
        client.close()

    def __enter__(self) -> Machines:
        return self

    def __exit__(self, *error: object) -> None:
        for name in list(self.processes):
            self.stop(name)
