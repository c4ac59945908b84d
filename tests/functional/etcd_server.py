"""Real etcd members on loopback for the tests: started, stopped, killed, paused; never anything but our own
processes.

``CHEFHA_ETCD`` names another etcd binary, to run the same tests against another version.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from chefha_core.parts.etcd import EtcdClient, TlsFiles

ETCD = os.environ.get("CHEFHA_ETCD") or shutil.which("etcd") or ""


def free_ports(count: int) -> list[int]:
    """Ports on loopback that nobody listens on now."""
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(socket.socket()) for _ in range(count)]
        for sock in socks:
            sock.bind(("127.0.0.1", 0))
        return [sock.getsockname()[1] for sock in socks]


@dataclass
class EtcdServer:
    """One member and its process."""

    name: str
    client_url: str
    peer_url: str
    data: Path
    arguments: list[str] = field(default_factory=list)
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, with the data it has."""
        with (self.data.parent / f"{self.name}.log").open("ab") as log:
            self.process = subprocess.Popen([ETCD, *self.arguments], stdout=log, stderr=log)

    def send(self, number: signal.Signals) -> None:
        """A signal to this very process, if it runs."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)

    def pause(self) -> None:
        """SIGSTOP, and wait until every thread stands still: sockets stay open, nothing answers."""
        self.send(signal.SIGSTOP)
        if self.process is None:
            return
        threads = Path(f"/proc/{self.process.pid}/task")
        deadline = time.monotonic() + 10
        while any(stat.read_text().rpartition(")")[2].split()[0] != "T" for stat in threads.glob("*/stat")):
            assert time.monotonic() < deadline, f"{self.name} does not stop"
            time.sleep(0.002)

    def resume(self) -> None:
        """SIGCONT."""
        self.send(signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self.send(signal.SIGKILL)
        if self.process is not None:
            self.process.wait(10)


class EtcdServers:
    """Members of one etcd as a context manager; they have a quorum when it is entered.

    With ``tls`` clients must show a certificate (``--client-cert-auth``) and members speak TLS among
    themselves.
    """

    def __init__(
        self, folder: Path, *, count: int = 3, tls: TlsFiles | None = None, options: tuple[str, ...] = ()
    ) -> None:
        self.tls = tls
        self.folder = folder
        scheme = "https" if tls else "http"
        ports = free_ports(2 * count)
        self.members = [
            EtcdServer(
                f"n{number + 1}",
                f"{scheme}://127.0.0.1:{ports[2 * number]}",
                f"{scheme}://127.0.0.1:{ports[2 * number + 1]}",
                folder / f"n{number + 1}",
            )
            for number in range(count)
        ]
        cluster = ",".join(f"{m.name}={m.peer_url}" for m in self.members)
        for member in self.members:
            member.arguments = [
                f"--name={member.name}",
                f"--data-dir={member.data}",
                f"--listen-client-urls={member.client_url}",
                f"--advertise-client-urls={member.client_url}",
                f"--listen-peer-urls={member.peer_url}",
                f"--initial-advertise-peer-urls={member.peer_url}",
                f"--initial-cluster={cluster}",
                "--initial-cluster-state=new",
                "--heartbeat-interval=50",
                "--election-timeout=500",
                "--logger=zap",
                *self._tls_options(),
                *options,
            ]

    def _tls_options(self) -> list[str]:
        if self.tls is None:
            return []
        return [
            "--client-cert-auth",
            f"--trusted-ca-file={self.tls.ca}",
            f"--cert-file={self.tls.certificate}",
            f"--key-file={self.tls.key}",
            "--peer-client-cert-auth",
            f"--peer-trusted-ca-file={self.tls.ca}",
            f"--peer-cert-file={self.tls.certificate}",
            f"--peer-key-file={self.tls.key}",
        ]

    @property
    def endpoints(self) -> list[str]:
        """Client URLs in the order of the members."""
        return [member.client_url for member in self.members]

    def client(self, *, prefix: str = "/chefha/test", timeout: float = 2.0, first: int = 0) -> EtcdClient:
        """A client that asks the member number ``first`` first."""
        endpoints = self.endpoints[first:] + self.endpoints[:first]
        return EtcdClient(endpoints, prefix=prefix, timeout=timeout, tls=self.tls)

    def leader(self) -> EtcdServer:
        """The member that leads now."""
        client = self.client()
        for member in self.members:
            status = client.status(member.client_url)
            if status.leader_id == status.member_id:
                return member
        raise AssertionError("no member of etcd leads")

    def wait_healthy(self, seconds: float = 30.0) -> None:
        """Return once every running member answers linearizable reads; AssertionError after ``seconds``."""
        deadline = time.monotonic() + seconds
        client = self.client()
        while time.monotonic() < deadline:
            health = client.healthy_endpoints(1.0)
            if all(h.ok for h in health):
                client.close()
                return
            time.sleep(0.05)
        raise AssertionError(f"etcd was not healthy after {seconds:g} s: {health}")

    def repair(self) -> None:
        """Every member runs again, whatever a test did to it."""
        for member in self.members:
            member.resume()
            if member.process is None or member.process.poll() is not None:
                member.start()
        self.wait_healthy()

    def __enter__(self) -> EtcdServers:
        for member in self.members:
            member.start()
        try:
            self.wait_healthy()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for member in self.members:
            member.resume()
            member.kill()
