"""A real master, two real minions and a real etcd on loopback. Only leaderl is played, behind its own HTTP server."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest
from tests.salt.playground import MINIONS, REPOSITORY, Cluster, FakeLeaderl, await_watchers, free_port, pillar

from chefha_core.leaderl.http import serve
from chefha_core.parts.etcd import EtcdClient, EtcdError


@pytest.fixture(scope="session")
def salt_factories_config() -> dict[str, Any]:
    """The factories' log server stays on this machine."""
    return {"code_dir": str(REPOSITORY), "log_server_host": "127.0.0.1", "start_timeout": 120}


@pytest.fixture(scope="session")
def etcd_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One etcd of its own."""
    program = shutil.which("etcd")
    if program is None:
        pytest.fail("etcd is not installed: apt-get install etcd-server")
    client, peer = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
    folder = tmp_path_factory.mktemp("etcd")
    command = [program, "--data-dir", str(folder / "data"), "--listen-client-urls", client]
    command += ["--advertise-client-urls", client, "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer]
    command += ["--initial-cluster", f"default={peer}", "--logger", "zap", "--log-level", "error"]
    environment = {**os.environ, "ETCD_UNSUPPORTED_ARCH": "arm64"}
    with subprocess.Popen(command, env=environment) as process:
        probe = EtcdClient([client], prefix="/probe", timeout=0.5)
        end = time.monotonic() + 20
        while True:
            try:
                probe.range()
                break
            except EtcdError:
                assert time.monotonic() < end, "etcd does not start"
        yield client
        process.terminate()


@pytest.fixture(scope="session")
def cluster(salt_factories: Any, etcd_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Master, minions, etcd; the beacon watches before it is handed out."""
    folder = tmp_path_factory.mktemp("chefha")
    settings = folder / "settings.json"
    settings.write_text(json.dumps(pillar(etcd_url)))
    tree = {"file_roots": {"base": [str(REPOSITORY / "salt")]}, "pillar_roots": {"base": [str(folder / "pillar")]}}
    (folder / "pillar").mkdir()
    (folder / "pillar" / "top.sls").write_text("base: {'*': [chefha]}\n")
    (folder / "pillar" / "chefha.sls").write_text(json.dumps({"chefha": pillar(etcd_url)}))
    reactor: dict[str, Any] = {"module_dirs": [str(REPOSITORY)]}
    reactor |= {"reactor": [{"salt/beacon/*/chefha_leader/leader_change": ["salt://reactor/leader_change.sls"]}]}
    master = salt_factories.salt_master_daemon("master", overrides={**tree, **reactor, "interface": "127.0.0.1"})
    leaderls = {name: FakeLeaderl(name) for name in MINIONS}
    servers, minions = [], []
    for name, leaderl in leaderls.items():
        path = folder / name / "leaderl.sock"
        servers += serve(leaderl, "127.0.0.1", free_port(), path)
        overrides = {
            "chefha": {"settings": str(settings), "socket": str(path)},
            "module_dirs": [str(REPOSITORY)],
            "beacons": {"chefha_leader": [{"disable_during_state_run": False}]},
        }
        minions.append(master.salt_minion_daemon(name, overrides=overrides))
    etcd = EtcdClient([etcd_url], prefix="/chefha/test", timeout=2.0)
    with master.started(), minions[0].started(), minions[1].started():
        found = Cluster(master, etcd, leaderls, master.salt_cli(), dict(zip(MINIONS, minions, strict=True)))
        await_watchers(found)
        yield found
    for server in servers:
        server.shutdown()
