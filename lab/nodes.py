"""The lab's machines: their network, their containers, commands and files in them."""

from __future__ import annotations

import io
import json
import tarfile
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
from docker.errors import APIError, NotFound
from docker.models.containers import Container
from docker.types import IPAMConfig, IPAMPool

from .progress import LabError, tail
from .topology import GATEWAY, LABEL, MASTER, NETWORK, PREFIX6, SUBNET, Node

STACK_LABEL = "chefha.lab.stack"
BOOT_TIMEOUT = 90.0
UNBLOCK_GRACE = 15.0

MINION_CONF = f"""\
master: {MASTER.address}
# The lab's minions come up before their keys are accepted and lose their master in faults: ask again soon.
acceptance_wait_time: 1
acceptance_wait_time_max: 2
random_reauth_delay: 2
recon_default: 200
recon_max: 1000
master_alive_interval: 5
# The lab's network has no resolver beyond itself and no graphics: looking for them only costs start-up time.
enable_fqdns_grains: false
enable_gpu_grains: false
"""

MASTER_CONF = """\
interface: 0.0.0.0
file_roots: {base: [/srv/chefha/salt]}
pillar_roots: {base: [/srv/chefha-pillar]}
# Two cores are shared by the whole lab.
worker_threads: 3
"""


@dataclass(frozen=True)
class Ran:
    """How a command in a machine ended: its code (124 when its time was up), stdout and stderr."""

    rc: int
    out: str
    err: str

    @property
    def text(self) -> str:
        """Both streams, for people."""
        return self.out + self.err


class Machines:
    """Everything asked of the engine about the lab's containers. Raises LabError, never the SDK's errors."""

    def __init__(self, client: docker.DockerClient) -> None:
        self._client = client

    # ---- which are there

    def get(self, node: Node) -> Container:
        """The node's container; LabError if the lab is not up."""
        found = self.find(node)
        if found is None:
            raise LabError(f"{node.container} does not exist: the lab is not up (`python -m lab up`)")
        return found

    def find(self, node: Node) -> Container | None:
        """The node's container with its present state, or None."""
        try:
            return self._client.containers.get(node.container)
        except NotFound:
            return None

    def stack(self) -> dict[str, Any] | None:
        """What the running lab was asked to be (the label on its master), or None where there is none."""
        found = self.find(MASTER)
        return json.loads(found.labels.get(STACK_LABEL, "{}")) if found else None

    # ---- making and removing

    def create(self, nodes: Sequence[Node], image: str, stack: Mapping[str, Any]) -> list[Node]:
        """Make the network and the missing containers and start all that don't run; return those just made."""
        self._ensure_network()
        made = [node for node in nodes if self.find(node) is None]
        for node in made:
            self._create(node, image, stack)
        for node in nodes:
            container = self.get(node)
            if container.status == "paused":
                container.unpause()
            elif container.status != "running":
                self.start(node)
        return made

    def start(self, node: Node) -> None:
        """Start a stopped container; does nothing to one that runs."""
        try:
            self.get(node).start()
        except APIError as error:
            raise LabError(f"{node.container} does not start: {error.explanation}") from error

    def await_boot(self, nodes: Sequence[Node]) -> None:
        """Wait until systemd of each node has come up, `degraded` included: chefha may have a unit down."""
        deadline = time.monotonic() + BOOT_TIMEOUT
        for node in nodes:
            while self.systemd_state(node) not in ("running", "degraded"):
                if time.monotonic() > deadline:
                    jobs = self.run(node, ["systemctl", "list-jobs"], 10).text
                    raise LabError(f"{node.name} did not come up within {BOOT_TIMEOUT:.0f} s\n{tail(jobs)}")
                time.sleep(0.3)

    def systemd_state(self, node: Node) -> str:
        """`systemctl is-system-running` in a word; `-` where it can't be asked."""
        found = self.find(node)
        if found is None or found.status != "running":
            return "-"
        return self.run(node, ["systemctl", "is-system-running"], 10).out.strip() or "-"

    def remove(self, node: Node) -> None:
        """Throw a machine away, whatever it has; does nothing where there is none."""
        if found := self.find(node):
            found.remove(force=True, v=True)

    def put_another(self, node: Node) -> None:
        """Start a bare machine where one was removed, of the same kind as all the others."""
        self._create(node, str(self.get(MASTER).attrs["Image"]), self.stack() or {})
        self.start(node)
        self.await_boot([node])

    def remove_all(self) -> tuple[int, int]:
        """Remove every container with its volumes, and the network; return how many of each."""
        containers = self._client.containers.list(all=True, filters={"label": LABEL})
        for container in containers:
            try:
                container.remove(force=True, v=True)
            except NotFound:
                continue
        networks = self._client.networks.list(filters={"label": LABEL})
        for network in networks:
            network.remove()
        return len(containers), len(networks)

    # ---- commands and files

    def run(self, node: Node, command: Sequence[str], timeout: float = 60, env: Mapping[str, str] | None = None) -> Ran:
        """Run a command in a machine. At most `timeout` seconds, then it is ended and the code is 124.

        The time is kept inside the machine (so that nothing is left running) and, in case the machine is paused
        meanwhile, here as well (then LabError).
        """
        bounded = ["timeout", "-k", "2", f"{timeout:.1f}", *command]
        answer: list[Ran] = []
        failure: list[str] = []

        def carry_out() -> None:
            try:
                answer.append(self._exec(node, bounded, env))
            except (APIError, NotFound) as error:
                failure.append(str(error.explanation))
            except OSError as error:
                failure.append(str(error))

        thread = threading.Thread(target=carry_out, daemon=True)
        thread.start()
        thread.join(timeout + UNBLOCK_GRACE)
        if failure:
            raise LabError(f"{node.name}: {command[0]} can't be run: {failure[0]}")
        if not answer:
            raise LabError(
                f"{node.name}: no answer from {command[0]} in {timeout + UNBLOCK_GRACE:.0f} s: is it paused?"
            )
        return answer[0]

    def check(self, node: Node, command: Sequence[str], timeout: float = 60) -> str:
        """Like run, but returns stdout, and raises LabError with both streams' end if the code is not 0."""
        ran = self.run(node, command, timeout)
        if ran.rc:
            raise LabError(f"{node.name}: {' '.join(command)} ended with {ran.rc}\n{tail(ran.text)}")
        return ran.out

    def write(self, node: Node, files: Mapping[str, str | bytes], mode: int = 0o644) -> None:
        """Put files (absolute path to content) into a machine, running or not; folders must exist."""
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            for path, content in files.items():
                data = content.encode() if isinstance(content, str) else content
                member = tarfile.TarInfo(path.lstrip("/"))
                member.size, member.mode, member.mtime = len(data), mode, int(time.time())
                archive.addfile(member, io.BytesIO(data))
        self.put_tar(node, "/", buffer.getvalue())

    def put_tar(self, node: Node, folder: str, data: bytes) -> None:
        """Unpack a tar archive into a folder of a machine."""
        try:
            self.get(node).put_archive(folder, data)
        except APIError as error:
            raise LabError(f"{node.name}: can't unpack into {folder}: {error.explanation}") from error

    # ---- details

    def _exec(self, node: Node, command: Sequence[str], env: Mapping[str, str] | None) -> Ran:
        api = self._client.api
        created = api.exec_create(node.container, list(command), environment=dict(env or {}), stdin=False)
        out, err = api.exec_start(created["Id"], demux=True)
        code = api.exec_inspect(created["Id"])["ExitCode"]
        return Ran(int(code), (out or b"").decode(errors="replace"), (err or b"").decode(errors="replace"))

    def _ensure_network(self) -> None:
        if self._client.networks.list(names=[f"^{NETWORK}$"]):
            return
        failure = ""
        # An engine without IPv6 makes a network without it: the machines then see to it themselves (machine/boot).
        for with_ipv6 in (True, False):
            try:
                self._client.networks.create(
                    NETWORK, internal=True, enable_ipv6=with_ipv6, ipam=_pools(with_ipv6), labels={LABEL: "network"}
                )
                return
            except APIError as error:
                failure = failure or str(error.explanation)
        raise LabError(f"network {NETWORK} ({SUBNET}): {failure}")

    def _has_ipv6(self) -> bool:
        """Whether the engine gives the network's machines their IPv6 addresses."""
        return any(network.attrs.get("EnableIPv6") for network in self._client.networks.list(names=[f"^{NETWORK}$"]))

    def _create(self, node: Node, image: str, stack: Mapping[str, Any]) -> None:
        """Make one container, not yet started, with what only this node has: identity and enabled units."""
        api = self._client.api
        host: dict[str, Any] = {
            # SYS_PTRACE: root of a real machine sees what every process is; of a container, only its own.
            "cap_add": ["SYS_ADMIN", "NET_ADMIN", "SYS_PTRACE"],
            "security_opt": ["seccomp=unconfined", "apparmor=unconfined"],
            "tmpfs": {"/run": "", "/run/lock": "", "/tmp": "exec"},
        }
        if str(self._client.info().get("CgroupVersion", "1")) == "1":
            # systemd needs the named hierarchy. With v2 the engine gives a namespace instead (machine/boot).
            host["binds"] = ["/sys/fs/cgroup:/sys/fs/cgroup:ro"]
        own: dict[str, Any] = {"ipv4_address": node.address}
        if self._has_ipv6():
            own["ipv6_address"] = node.address6
        elif Path("/proc/sys/net/ipv6").is_dir():
            host["sysctls"] = {"net.ipv6.conf.all.disable_ipv6": "0"}
        endpoint = api.create_endpoint_config(**own, aliases=[node.name])
        network: Any = {NETWORK: endpoint}  # the SDK's stubs know only one endpoint here
        try:
            api.create_container(
                image,
                name=node.container,
                hostname=node.name,
                environment={"LAB_IPV6": node.address6},
                labels={LABEL: "node", STACK_LABEL: json.dumps(dict(stack), sort_keys=True)},
                host_config=api.create_host_config(**host),
                networking_config=api.create_networking_config(network),
            )
        except APIError as error:
            raise LabError(f"{node.container} can't be created: {error.explanation}") from error
        # An empty machine-id would be a first boot to systemd, and a first boot enables every unit there is.
        self.write(node, {"/etc/machine-id": uuid.uuid4().hex + "\n", "/etc/salt/minion.d/lab.conf": MINION_CONF})
        self.write(node, {"/etc/salt/minion_id": node.name})
        if node is MASTER:
            self.write(node, {"/etc/salt/master.d/lab.conf": MASTER_CONF})
        self.put_tar(node, "/etc/systemd/system", _enabling(node.services))


def _pools(with_ipv6: bool) -> IPAMConfig:
    pools = [IPAMPool(subnet=SUBNET, gateway=GATEWAY)]
    if with_ipv6:
        pools.append(IPAMPool(subnet=f"{PREFIX6}/64", gateway=f"{PREFIX6}1"))
    return IPAMConfig(pool_configs=pools)


def _enabling(services: Sequence[str]) -> bytes:
    """The links `systemctl enable` would make, as a tar archive: the container does not run yet."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for service in services:
            member = tarfile.TarInfo(f"multi-user.target.wants/{service}")
            member.type, member.linkname = tarfile.SYMTYPE, f"/etc/systemd/system/{service}"
            archive.addfile(member)
    return buffer.getvalue()
