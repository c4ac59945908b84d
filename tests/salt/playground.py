"""What the tests of the Salt side are made of: a pillar, a played leaderl, and the running whole."""

from __future__ import annotations

import json
import socket
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chefha_core.parts.etcd import EtcdClient
from chefha_core.settings import SECRETS_OF

REPOSITORY = Path(__file__).resolve().parents[2]
MEMBERS = {"be1": "127.0.0.1", "be2": "127.0.0.2", "be3": "127.0.0.3"}
#: be3 has no minion: it is cut off
MINIONS = ("be1", "be2")


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class FakeLeaderl:
    """What leaderl's server asks of leaderl, with a note of every converge."""

    name: str
    tokens: tuple[str, ...] = ("t",)
    asked: list[tuple[int, float]] = field(default_factory=list)
    heard: threading.Event = field(default_factory=threading.Event)

    def leading(self) -> int:
        return 0

    def status(self) -> dict[str, Any]:
        return {"name": self.name, "role": "follower", "job": "", "reason": "plays a part"}

    def metrics(self) -> str:
        return ""

    def answer(self, question: dict[str, Any]) -> dict[str, Any]:
        return {}

    def converge(self, epoch: int, timeout: float) -> dict[str, Any]:
        self.asked.append((epoch, time.time()))
        self.heard.set()
        return {"epoch": epoch, "role": "follower", "reason": "plays a part", "converged": True, "steps": []}


@dataclass
class Cluster:
    """The running whole."""

    master: Any
    etcd: EtcdClient
    leaderls: dict[str, FakeLeaderl]
    cli: Any
    minions: dict[str, Any]

    def lead(self, name: str, epoch: int, state: str) -> float:
        """Write the leader key; the clock just before."""
        value = {"name": name, "epoch": epoch, "state": state, "timeline": epoch, "lsn": 0, "to": "", "beat": 0}
        at = time.time()
        self.etcd.put("leader", json.dumps({**value, "clean": False}))
        return at


def pillar(url: str) -> dict[str, Any]:
    """The pillar of the cluster under test."""
    return {
        "cluster": "test",
        "members": MEMBERS,
        "vip": "127.0.0.9",
        "profile": "fast",
        "secrets": {name: "a" for name in SECRETS_OF["backend"]},
        "tls": {"enabled": False},
        "etcd_endpoints": [url],
    }


def await_watchers(found: Cluster) -> None:
    """Until a change of the leader is answered by both minions: then the beacons watch."""
    end, epoch = time.monotonic() + 60, 0
    while not all(leaderl.heard.wait(1.0) for leaderl in found.leaderls.values()):
        assert time.monotonic() < end, "no beacon reports a change of the leader"
        epoch += 1
        found.lead(MINIONS[epoch % 2], epoch, "promoting")
    found.lead("be1", 1000, "leading")
